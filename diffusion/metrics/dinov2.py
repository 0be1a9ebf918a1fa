"""DINOv2, whose features FD-DINOv2 compares: a vision transformer trained without labels.

File: model.safetensors of huggingface.co/facebook/dinov2-large (ViT-L/14, 1.22 GB, Apache-2.0), the
network of FD-DINOv2; dinov2-small, -base and -giant have the same names. Those with registers give
other numbers and are refused.

Images are resized to 224x224 by Pillow's bicubic kernel and rounded to 8 bits, as dgm-eval does by
default, then scaled by ImageNet's mean and deviation. EDM2 resizes by PyTorch without rounding,
"almost the same results" by its own words; its `resize_mode="pil"` is what is done here.

The file has positions for images of 518x518, a grid of 37x37. They are interpolated to 16x16 by a
bicubic kernel (a = -3/4) that is not widened. transformers, which this file follows, takes places
37/16 apart; facebookresearch/dinov2, which dgm-eval and EDM2 call, takes them 37/16.1 apart:
`position_offset=0.1`.

Source: Oquab et al. 2023, arXiv:2304.07193; Stein et al. 2023, arXiv:2306.04675 (FD-DINOv2);
transformers 5.24, models/dinov2.
"""

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from diffusion.metrics.layout import Params, Shape, as_float32, require_layout
from diffusion.metrics.pillow import bicubic, resize
from diffusion.metrics.transformer import (
    Weights,
    along_last,
    attention,
    layer_norm,
    linear,
    num_blocks,
    patches,
    stacked,
)

FILE = "model.safetensors of huggingface.co/facebook/dinov2-large"
SIZE = 224
HEAD_DIM = 64
EPS = 1e-6
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
BLOCKS = "encoder.layer."
ATTENTION = "attention.attention."


def check(params: Params) -> None:
    """Refuses weights of another network.

    Raises:
      ValueError: naming the first array that is missing or misshapen.
    """
    if "embeddings.register_tokens" in params:
        raise ValueError(f"DINOv2 with registers gives other numbers than FD-DINOv2's; use {FILE}.")
    require_layout(params, _layout(params), FILE)


@partial(jax.jit, static_argnames="position_offset")
def dinov2(
    params: Params, pixels: UInt8[Array, "B H W 3"], *, position_offset: float = 0.0
) -> Float[Array, "B E"]:
    """The class token after the last norm.

    Args:
      position_offset: what is added to the 16 places of the grid before they are spread over the
        file's 37; 0.1 is facebookresearch/dinov2's.
    """
    with jax.default_matmul_precision("highest"):
        w = as_float32(params)
        h = _through(stacked(w, BLOCKS), _embedded(w, pixels, position_offset))
        return layer_norm(w, "layernorm", h[:, 0], eps=EPS)


@partial(jax.jit, static_argnames="position_offset")
def keys(
    params: Params, pixels: UInt8[Array, "B H W 3"], *, position_offset: float = 0.0
) -> Float[Array, "B L E"]:
    """The keys of the last block's attention, for `editing.structure_distance`.

    Those of all heads are side by side; the class token is the first of the 257 tokens.

    Args:
      position_offset: as of `dinov2`.
    Source: Tumanyan et al. 2022, arXiv:2201.00424, section 3. Deviation: their network, and that of
      PIE-Bench, is the first DINO's ViT-B/8, with 785 tokens: distances are others.
    """
    with jax.default_matmul_precision("highest"):
        w = as_float32(params)
        blocks = stacked(w, BLOCKS)
        all_but_last = jax.tree.map(lambda of_blocks: of_blocks[:-1], blocks)
        h = _through(all_but_last, _embedded(w, pixels, position_offset))
        last = jax.tree.map(lambda of_blocks: of_blocks[-1], blocks)
        return linear(last, f"{ATTENTION}key", layer_norm(last, "norm1", h, eps=EPS))


def _embedded(w: Weights, pixels: UInt8[Array, "B H W 3"], offset: float) -> Float[Array, "B L E"]:
    x = resize(pixels, SIZE).astype(jnp.float32) / 255
    x = (x - jnp.array([[[MEAN]]], x.dtype)) / jnp.array([[[STD]]], x.dtype)
    h = patches(x, w["embeddings.patch_embeddings.projection.weight"])
    h = h + along_last(w["embeddings.patch_embeddings.projection.bias"], h)
    token = jnp.broadcast_to(w["embeddings.cls_token"], (len(h), 1, h.shape[-1]))
    return jnp.concatenate([token, h], 1) + _positions(w, offset)


def _through(blocks: Weights, h: Float[Array, "B L E"]) -> Float[Array, "B L E"]:
    """The tokens after all the blocks, which are stacked."""
    return jax.lax.scan(lambda h, block: (_block(block, h), None), h, blocks)[0]


def _block(w: Weights, x: Float[Array, "B L E"]) -> Float[Array, "B L E"]:
    h = layer_norm(w, "norm1", x, eps=EPS)
    q, k, v = (linear(w, f"{ATTENTION}{name}", h) for name in ("query", "key", "value"))
    h = linear(w, "attention.output.dense", attention(q, k, v, HEAD_DIM))
    x = x + h * along_last(w["layer_scale1.lambda1"], h)
    h = _mlp(w, layer_norm(w, "norm2", x, eps=EPS))
    return x + h * along_last(w["layer_scale2.lambda1"], h)


def _mlp(w: Weights, x: Float[Array, "B L E"]) -> Float[Array, "B L E"]:
    if "mlp.fc1.weight" in w:
        return linear(w, "mlp.fc2", jax.nn.gelu(linear(w, "mlp.fc1", x), approximate=False))
    gate, h = jnp.split(linear(w, "mlp.weights_in", x), 2, axis=-1)  # SwiGLU, the giant's
    return linear(w, "mlp.weights_out", jax.nn.silu(gate) * h)


def _positions(w: Weights, offset: float) -> Float[Array, "1 L E"]:
    positions = w["embeddings.position_embeddings"]
    side = _side(positions.shape[1])
    length = SIZE // w["embeddings.patch_embeddings.projection.weight"].shape[-1]
    if side == length:
        return positions
    matrix = jnp.asarray(interpolation(side, length, offset=offset), jnp.float32)
    grid = positions[0, 1:].reshape(side, side, -1)
    grid = jnp.einsum("ih,jw,hwe->ije", matrix, matrix, grid)
    return jnp.concatenate([positions[:, :1], grid.reshape(1, length**2, -1)], 1)


def interpolation(length: int, size: int, *, offset: float = 0.0) -> Float[np.ndarray, "S L"]:
    """The matrix of PyTorch's bicubic interpolation without antialiasing; edges are repeated."""
    centre = (np.arange(size) + 0.5) * length / (size + offset) - 0.5
    matrix = np.zeros((size, length))
    for tap in (-1, 0, 1, 2):
        place = np.floor(centre).astype(int) + tap
        weights = bicubic(place - centre, a=-0.75)
        np.add.at(matrix, (np.arange(size), np.clip(place, 0, length - 1)), weights)
    return matrix


def _side(num_positions: int) -> int:
    return round((num_positions - 1) ** 0.5)


def _layout(params: Params) -> Iterator[tuple[str, Shape]]:
    yield "embeddings.cls_token", (1, 1, None)
    E = params["embeddings.cls_token"].shape[-1]
    yield "embeddings.position_embeddings", (1, None, E)
    side = _side(params["embeddings.position_embeddings"].shape[1])
    yield "embeddings.position_embeddings", (1, side**2 + 1, E)
    yield "embeddings.patch_embeddings.projection.weight", (E, 3, 14, 14)
    yield "embeddings.patch_embeddings.projection.bias", (E,)
    is_giant = f"{BLOCKS}0.mlp.weights_in.weight" in params
    for i in range(num_blocks(params, BLOCKS)):
        for norm in ("norm1", "norm2"):
            yield f"{BLOCKS}{i}.{norm}.weight", (E,)
            yield f"{BLOCKS}{i}.{norm}.bias", (E,)
        for part in ("attention.query", "attention.key", "attention.value", "output.dense"):
            yield f"{BLOCKS}{i}.attention.{part}.weight", (E, E)
            yield f"{BLOCKS}{i}.attention.{part}.bias", (E,)
        for scale in ("layer_scale1", "layer_scale2"):
            yield f"{BLOCKS}{i}.{scale}.lambda1", (E,)
        first, last = ("weights_in", "weights_out") if is_giant else ("fc1", "fc2")
        yield f"{BLOCKS}{i}.mlp.{first}.weight", (None, E)
        hidden = params[f"{BLOCKS}{i}.mlp.{first}.weight"].shape[0]
        yield f"{BLOCKS}{i}.mlp.{first}.bias", (hidden,)
        yield f"{BLOCKS}{i}.mlp.{last}.weight", (E, hidden // 2 if is_giant else hidden)
        yield f"{BLOCKS}{i}.mlp.{last}.bias", (E,)
    yield "layernorm.weight", (E,)
    yield "layernorm.bias", (E,)
