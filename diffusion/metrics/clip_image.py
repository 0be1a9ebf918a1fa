"""CLIP's image encoder, whose embeddings CMMD compares.

File: model.safetensors or pytorch_model.bin of huggingface.co/openai/clip-vit-large-patch14-336
(1.71 GB with the text encoder, which is not used), the network of CMMD; OpenAI's other vision
transformers have the same names.

Images are cropped to the square in their middle, resized by Pillow's bicubic kernel to the size of
the file's grid of positions (336) and rounded to 8 bits, as CMMD's io_util does, then scaled by
CLIP's mean and deviation. The embedding is projected and has unit length, as in CMMD.

Source: Radford et al. 2021, arXiv:2103.00020; Jayasumana et al. 2024, arXiv:2401.09603
(google-research/cmmd); transformers 5.24, models/clip.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from diffusion.metrics.layout import Params, Shape, as_float32, require_layout
from diffusion.metrics.pillow import middle_square, resize
from diffusion.metrics.transformer import (
    Weights,
    attention,
    layer_norm,
    linear,
    num_blocks,
    patches,
    stacked,
)

FILE = "the weights of huggingface.co/openai/clip-vit-large-patch14-336"
HEAD_DIM = 64
EPS = 1e-5
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
EMBEDDINGS = "vision_model.embeddings."
BLOCKS = "vision_model.encoder.layers."


def check(params: Params) -> None:
    """Refuses weights of another network.

    Raises:
      ValueError: naming the first array that is missing or misshapen.
    """
    require_layout(params, _layout(params), FILE)


@jax.jit
def clip_image(params: Params, pixels: UInt8[Array, "B H W 3"]) -> Float[Array, "B D"]:
    """The projected embedding of unit length."""
    with jax.default_matmul_precision("highest"):
        w = as_float32(params)
        kernel = w[f"{EMBEDDINGS}patch_embedding.weight"]
        positions = w[f"{EMBEDDINGS}position_embedding.weight"]
        size = _side(len(positions)) * kernel.shape[-1]
        x = resize(middle_square(pixels), size).astype(jnp.float32) / 255
        x = (x - jnp.array([[[MEAN]]], x.dtype)) / jnp.array([[[STD]]], x.dtype)
        h = patches(x, kernel)
        token = w[f"{EMBEDDINGS}class_embedding"]
        token = jnp.broadcast_to(token, (len(h), 1, len(token)))
        h = jnp.concatenate([token, h], 1) + positions[None]
        h = layer_norm(w, "vision_model.pre_layrnorm", h, eps=EPS)
        h, _ = jax.lax.scan(lambda h, block: (_block(block, h), None), h, stacked(w, BLOCKS))
        h = layer_norm(w, "vision_model.post_layernorm", h[:, 0], eps=EPS)
        h = h @ w["visual_projection.weight"].T
        return h / jnp.linalg.norm(h, axis=-1, keepdims=True)


def _block(w: Weights, x: Float[Array, "B L E"]) -> Float[Array, "B L E"]:
    h = layer_norm(w, "layer_norm1", x, eps=EPS)
    q, k, v = (linear(w, f"self_attn.{name}_proj", h) for name in "qkv")
    x = x + linear(w, "self_attn.out_proj", attention(q, k, v, HEAD_DIM))
    h = linear(w, "mlp.fc1", layer_norm(w, "layer_norm2", x, eps=EPS))
    return x + linear(w, "mlp.fc2", h * jax.nn.sigmoid(1.702 * h))  # OpenAI's quick GELU


def _side(num_positions: int) -> int:
    return round((num_positions - 1) ** 0.5)


def _layout(params: Params) -> Iterator[tuple[str, Shape]]:
    yield f"{EMBEDDINGS}class_embedding", (None,)
    E = len(params[f"{EMBEDDINGS}class_embedding"])
    yield f"{EMBEDDINGS}patch_embedding.weight", (E, 3, None, None)
    patch = params[f"{EMBEDDINGS}patch_embedding.weight"].shape[-1]
    yield f"{EMBEDDINGS}patch_embedding.weight", (E, 3, patch, patch)
    yield f"{EMBEDDINGS}position_embedding.weight", (None, E)
    side = _side(len(params[f"{EMBEDDINGS}position_embedding.weight"]))
    yield f"{EMBEDDINGS}position_embedding.weight", (side**2 + 1, E)
    norms = ["vision_model.pre_layrnorm", "vision_model.post_layernorm"]
    linears = {}
    for i in range(num_blocks(params, BLOCKS)):
        norms += [f"{BLOCKS}{i}.layer_norm1", f"{BLOCKS}{i}.layer_norm2"]
        linears |= {f"{BLOCKS}{i}.self_attn.{name}_proj": (E, E) for name in ("q", "k", "v", "out")}
        linears |= {f"{BLOCKS}{i}.mlp.fc1": (4 * E, E), f"{BLOCKS}{i}.mlp.fc2": (E, 4 * E)}
    for name in norms:
        yield f"{name}.weight", (E,)
        yield f"{name}.bias", (E,)
    for name, shape in linears.items():
        yield f"{name}.weight", shape
        yield f"{name}.bias", shape[:1]
    yield "visual_projection.weight", (None, E)
