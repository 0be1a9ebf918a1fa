"""Two networks in plain numpy, float64, written out block by block from the papers' equations.

They share nothing with the library but the names under which it keeps its weights (the nested dict
of `functional`), and have one fixed shape: two levels, two blocks each, attention in the second.

Sources: Song et al. 2021, arXiv:2011.13456, appendix H (NCSN++, DDPM++: blocks, FIR, residual
encoder, skip scale); Karras et al. 2022, arXiv:2206.00364, appendix F (attention in the decoder,
embedding); Karras et al. 2023, arXiv:2312.02696, sections 2 and appendix B, figure 21 (EDM2).
"""

import numpy as np


def silu(x):
    return x / (1 + np.exp(-x))


def linear(p, x):
    return x @ p["kernel"] + p.get("bias", 0)


def conv(kernel, x, pad=None):
    """y[i, j] = sum over a, b of x[i + a - pad, j + b - pad] kernel[a, b], x being 0 outside."""
    size = kernel.shape[0]
    pad = size // 2 if pad is None else pad
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    H, W = x.shape[1] - size + 1, x.shape[2] - size + 1
    shifts = [(a, b) for a in range(size) for b in range(size)]
    return sum(x[:, a : a + H, b : b + W] @ kernel[a, b] for a, b in shifts)


def softmax(logits):
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def heads(q, k, v, head_dim):
    """softmax(q k^T / sqrt(head_dim)) v, each head of head_dim neighbouring channels for itself."""
    out = np.empty_like(q)  # (B, L, C)
    for start in range(0, q.shape[-1], head_dim):
        part = np.s_[:, :, start : start + head_dim]
        logits = np.einsum("blc,bmc->blm", q[part], k[part]) / np.sqrt(head_dim)
        out[part] = softmax(logits) @ v[part]
    return out


def upfirdn(x, taps, *, up=1, down=1, pad):
    """Zeros between the pixels, `pad` = (before, after) around; the filter; every down-th pixel.

    The filter is the outer product of the taps, of sum up ** 2, so that the mean stays.
    """
    B, H, W, C = x.shape
    apart = np.zeros((B, H * up, W * up, C))
    apart[:, ::up, ::up] = x
    apart = np.pad(apart, ((0, 0), pad, pad, (0, 0)))
    kernel = np.outer(taps, taps)[::-1, ::-1] * up**2 / np.sum(taps) ** 2
    size = len(taps)
    y = np.zeros((B, apart.shape[1] - size + 1, apart.shape[2] - size + 1, C))
    for i in range(y.shape[1]):
        for j in range(y.shape[2]):
            window = apart[:, i : i + size, j : j + size]
            y[:, i, j] = np.einsum("bijc,ij->bc", window, kernel)
    return y[:, ::down, ::down]


def fir_down(x, taps):
    """Half the size, the filter centred on each pair of pixels."""
    margin = (len(taps) - 2) // 2
    return upfirdn(x, taps, down=2, pad=(margin, margin))


def fir_up(x, taps):
    """Twice the size, the two pixels of each pair centred on the one that they come from."""
    margin = (len(taps) - 2) // 2
    return upfirdn(x, taps, up=2, pad=(margin + 1, margin))


class NCSNpp:
    """NCSN++ (`taps` (1, 3, 3, 1), with the pyramid) or DDPM++ (taps (1, 1), without)."""

    def __init__(self, params, *, taps, has_pyramid, num_groups, eps):
        self.p, self.taps, self.has_pyramid = params, taps, has_pyramid
        self.num_groups, self.eps = num_groups, eps

    def norm(self, p, x):
        B, H, W, C = x.shape
        groups = x.reshape(B, H * W, self.num_groups, C // self.num_groups)
        mean, var = groups.mean((1, 3), keepdims=True), groups.var((1, 3), keepdims=True)
        return ((groups - mean) / np.sqrt(var + self.eps)).reshape(x.shape) * p["scale"] + p["bias"]

    def conv(self, p, x, pad=None):
        return conv(p["kernel"], x, pad) + p["bias"]

    def block(self, p, x, emb, resample=lambda x: x):
        h = resample(silu(self.norm(p["norm_in"], x)))
        h = self.conv(p["conv_in"], h)
        h = h + linear(p["emb_proj"], silu(emb))[:, None, None, :]
        h = self.conv(p["conv_out"], silu(self.norm(p["norm_out"], h)))
        x = resample(x)
        x = linear(p["skip"], x) if "skip" in p else x
        return (x + h) / np.sqrt(2)

    def attention(self, p, x):
        tokens = self.norm(p["norm"], x).reshape(x.shape[0], -1, x.shape[-1])
        p = p["heads"]
        q, k, v = (linear(p[name], tokens) for name in ("query", "key", "value"))
        h = linear(p["proj"], heads(q, k, v, x.shape[-1]))  # one head
        return (x + h.reshape(x.shape)) / np.sqrt(2)

    def stage(self, p, x, emb, attends):
        """Attention is there where it has to be, and nowhere else."""
        assert ("attention" in p) == attends
        x = self.block(p["res_block"], x, emb)
        return self.attention(p["attention"], x) if attends else x

    def embed(self, p, c_noise, label, augment_label):
        angles = 2 * np.pi * np.outer(c_noise, p["noise_features"]["frequencies"])
        features = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
        num_classes = p["label_features"]["linear"]["kernel"].shape[0]
        one_hot = np.eye(num_classes)[label] * np.sqrt(num_classes)
        features = features + linear(p["label_features"]["linear"], one_hot)
        features = features + augment_label @ p["augment_features"]["kernel"]
        return linear(p["linear_out"], silu(linear(p["linear_in"], features)))

    def __call__(self, x, c_noise, label, augment_label):
        p = self.p
        emb = self.embed(p["embedding"], c_noise, label, augment_label)

        def down(x):
            return fir_down(x, self.taps)

        def up(x):
            return fir_up(x, self.taps)

        # encoder, 8 x 8
        image = x
        h_0 = self.conv(p["conv_in"], x)
        h_1 = self.stage(p["encoder"]["0"]["0"], h_0, emb, attends=False)
        h_2 = self.stage(p["encoder"]["0"]["1"], h_1, emb, attends=False)
        # encoder, 4 x 4; the image comes along by its own way, filtered, and is added
        h_3 = self.block(p["downsamples"]["0"], h_2, emb, resample=down)
        if self.has_pyramid:
            wide = self.conv(p["pyramid"]["0"]["conv"], image, pad=len(self.taps) // 2)
            image = upfirdn(wide, self.taps, down=2, pad=(0, 0))
            h_3 = (h_3 + image) / np.sqrt(2)
        h_4 = self.stage(p["encoder"]["1"]["0"], h_3, emb, attends=True)
        h_5 = self.stage(p["encoder"]["1"]["1"], h_4, emb, attends=True)
        # middle
        h = self.stage(p["middle"]["0"], h_5, emb, attends=True)
        h = self.stage(p["middle"]["1"], h, emb, attends=False)
        # decoder, 4 x 4: only the last block attends
        for block, (skip, attends) in enumerate([(h_5, False), (h_4, False), (h_3, True)]):
            h = np.concatenate([h, skip], axis=-1)
            h = self.stage(p["decoder"]["0"][str(block)], h, emb, attends)
        # decoder, 8 x 8
        h = self.block(p["upsamples"]["0"], h, emb, resample=up)
        for block, skip in enumerate([h_2, h_1, h_0]):
            h = np.concatenate([h, skip], axis=-1)
            h = self.stage(p["decoder"]["1"][str(block)], h, emb, attends=False)
        return self.conv(p["conv_out"], silu(self.norm(p["norm_out"], h)))


def normalized(x, axis):
    """Every vector along the axis to length sqrt(its size), equation 30; epsilon is 1e-4."""
    length = np.sqrt((x**2).sum(axis, keepdims=True))
    number = x.size / length.size
    return x / (1e-4 + length / np.sqrt(number))


def mp_silu(x):
    return silu(x) / 0.596


def mp_sum(a, b, t):
    return ((1 - t) * a + t * b) / np.sqrt((1 - t) ** 2 + t**2)


def mp_cat(a, b, t):
    N_a, N_b = a.shape[-1], b.shape[-1]
    C = np.sqrt((N_a + N_b) / ((1 - t) ** 2 + t**2))
    return np.concatenate([C * (1 - t) / np.sqrt(N_a) * a, C * t / np.sqrt(N_b) * b], axis=-1)


class EDM2:
    """The magnitude-preserving network, configuration G."""

    def __init__(self, params, *, head_dim):
        self.p, self.head_dim = params, head_dim

    def layer(self, p, x, gain=1.0):
        """A convolution, or a linear layer, each of whose outputs has a weight of length 1."""
        kernel = p["kernel"]
        inputs = tuple(range(kernel.ndim - 1))
        kernel = gain * normalized(kernel, inputs) / np.sqrt(kernel[..., 0].size)
        return conv(kernel, x) if kernel.ndim == 4 else x @ kernel

    def branch(self, p, x, emb):
        h = self.layer(p["conv_in"], mp_silu(x))
        h = h * (self.layer(p["emb_proj"], emb, p["emb_gain"]) + 1)[:, None, None, :]
        return self.layer(p["conv_out"], mp_silu(h))

    def attention(self, p, x):
        B, H, W, C = x.shape
        split = (B, H * W, C // self.head_dim, self.head_dim)
        q, k, v = (
            normalized(self.layer(p[name], x).reshape(split), 3).reshape(B, H * W, C)
            for name in ("query", "key", "value")
        )
        h = self.layer(p["proj"], heads(q, k, v, self.head_dim).reshape(x.shape))
        return mp_sum(x, h, 0.3)

    def rest(self, p, x, h, attends):
        assert ("attention" in p) == attends
        x = mp_sum(x, h, 0.3)
        x = self.attention(p["attention"], x) if attends else x
        return np.clip(x, -256, 256)

    def encoder(self, p, x, emb, attends=False):
        x = self.layer(p["skip"], x) if "skip" in p else x
        x = normalized(x, 3)  # each pixel
        return self.rest(p, x, self.branch(p["branch"], x, emb), attends)

    def decoder(self, p, x, emb, attends=False):
        h = self.branch(p["branch"], x, emb)
        x = self.layer(p["skip"], x) if "skip" in p else x
        return self.rest(p, x, h, attends)

    def embed(self, c_noise, label):
        p = self.p
        f, phi = p["noise_features"]["frequencies"], p["noise_features"]["phases"]
        noise = np.sqrt(2) * np.cos(2 * np.pi * (np.outer(c_noise, f) + phi))
        num_classes = p["label_proj"]["kernel"].shape[0]
        one_hot = np.sqrt(num_classes) * np.eye(num_classes)[label]
        emb = mp_sum(self.layer(p["noise_proj"], noise), self.layer(p["label_proj"], one_hot), 0.5)
        return mp_silu(emb)

    def __call__(self, x, c_noise, label):
        p, emb = self.p, self.embed(c_noise, label)
        h_0 = self.layer(p["conv_in"], np.concatenate([x, np.ones_like(x[..., :1])], axis=-1))
        h_1 = self.encoder(p["encoder"]["0"], h_0, emb)
        h_2 = self.encoder(p["encoder"]["1"], h_1, emb)
        halved = (h_2[:, ::2] + h_2[:, 1::2]) / 2
        halved = (halved[:, :, ::2] + halved[:, :, 1::2]) / 2
        h_3 = self.encoder(p["encoder"]["2"], halved, emb)
        h_4 = self.encoder(p["encoder"]["3"], h_3, emb, attends=True)
        h_5 = self.encoder(p["encoder"]["4"], h_4, emb, attends=True)
        h = self.decoder(p["middle"]["0"], h_5, emb, attends=True)
        h = self.decoder(p["middle"]["1"], h, emb)
        for block, skip in enumerate([h_5, h_4, h_3]):
            h = self.decoder(p["decoder"]["0"][str(block)], mp_cat(h, skip, 0.5), emb, attends=True)
        h = self.decoder(p["upsamples"]["0"], h.repeat(2, axis=1).repeat(2, axis=2), emb)
        for block, skip in enumerate([h_2, h_1, h_0]):
            h = self.decoder(p["decoder"]["1"][str(block)], mp_cat(h, skip, 0.5), emb)
        return self.layer(p["conv_out"], h, p["out_gain"])
