"""A small classifier that is trained on the dataset itself: features that need no download.

Three convolutions of 3 x 3 with ReLU and average pooling, the mean over all places (the features),
and a linear layer (the logits). Images larger than 32 are averaged down first. Its distances are
comparable only with those of the same classifier: same data, same settings, same seed.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Integer, UInt8

WIDTHS = (32, 64, 128)
LARGEST = 32
NUM_STEPS = 3000
BATCH_SIZE = 64
LEARNING_RATE = 4e-3

Params = dict[str, Any]


def own_classifier(
    params: Params, pixels: UInt8[Any, "B H W C"]
) -> tuple[Float[Array, "B D"], Float[Array, "B classes"]]:
    """Features and logits of images."""
    x = jnp.asarray(pixels, jnp.float32) / 127.5 - 1
    while max(x.shape[1:3]) > LARGEST:
        x = _halved(x)
    for index in range(len(WIDTHS)):
        layer = params[f"conv_{index}"]
        if index and min(x.shape[1:3]) > 1:
            x = _halved(x)
        dims = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(x, layer["kernel"], (1, 1), "SAME", dimension_numbers=dims)
        x = jax.nn.relu(x + layer["bias"][None, None, None])
    features = x.mean((1, 2))
    return features, features @ params["out"]["kernel"] + params["out"]["bias"][None]


def _halved(x: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
    """Means over 2 x 2 pixels; of an odd number the last is left out."""
    sizes = (1, 2, 2, 1)
    return jax.lax.reduce_window(x, 0.0, jax.lax.add, sizes, sizes, "VALID") / 4


def train_own_classifier(
    pixels: UInt8[np.ndarray, "N H W C"],
    labels: Integer[np.ndarray, "N"],
    num_classes: int,
    seed: int = 0,
) -> Params:
    """The classifier's parameters after NUM_STEPS of Adam; takes a minute on two CPU cores.

    Args:
      labels: class of each image, 0 .. num_classes - 1.
      seed: of the first weights and of the batches.
    """
    params = _init(jax.random.key(seed), pixels.shape[-1], num_classes)
    optimizer = optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, NUM_STEPS))
    state = optimizer.init(params)

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Params, state: Any, pixels: Array, labels: Int[Array, "B"]) -> Any:
        def loss(params: Params) -> Array:
            logits = own_classifier(params, pixels)[1]
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    rng = np.random.default_rng(seed)
    for _ in range(NUM_STEPS):
        chosen = rng.integers(len(pixels), size=BATCH_SIZE)
        params, state = step(params, state, pixels[chosen], labels[chosen].astype(np.int32))
    return params


def _init(key: Array, channels: int, num_classes: int) -> Params:
    params: Params = {}
    for index, (old, new) in enumerate(zip((channels, *WIDTHS), WIDTHS, strict=False)):
        kernel = jax.random.normal(jax.random.fold_in(key, index), (3, 3, old, new), jnp.float32)
        params[f"conv_{index}"] = {
            "kernel": kernel * (2 / (9 * old)) ** 0.5,
            "bias": jnp.zeros(new, jnp.float32),
        }
    shape = (WIDTHS[-1], num_classes)
    return params | {"out": {"kernel": jnp.zeros(shape), "bias": jnp.zeros(num_classes)}}
