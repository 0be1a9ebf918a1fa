"""What a recipe costs, without training: `python train.py RECIPE --dry-run`."""

import json
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from configs import build, schema
from configs.schema import Recipe
from diffusion import sharding


def lines(recipe: Recipe, mesh: jax.sharding.Mesh) -> Iterator[str]:
    """The resolved configuration, parameters, operations and bytes, for people to read."""
    yield json.dumps(schema.to_json(recipe), indent=2)
    network, params = build.abstract_network(recipe)
    state = jax.eval_shape(lambda params: build.new_state(recipe, params), params)
    num_parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    yield f"parameters           {num_parameters:,}"

    batch = batch_shapes(recipe)
    cond = {name: shape for name, shape in batch.items() if name != "image"}
    image = batch["image"]
    forward = jax.jit(network).lower(
        params, image, jax.ShapeDtypeStruct(image.shape[:1], jnp.float32), **cond
    )
    train_step, key = build.train_step(recipe, network)
    jitted: Any = train_step
    flops = operations(jitted.lower(state, batch, key))
    images = recipe.run.num_steps * recipe.data.batch_size
    yield f"forward              {operations(forward) / image.shape[0] / 1e9:.2f} GFLOP an image"
    yield f"training             {flops / image.shape[0] / 1e9:.2f} GFLOP an image"
    total = flops * recipe.run.num_steps
    yield (
        f"whole run            {images / 1e6:.1f} M images, {total:.2e} FLOP: "
        f"{total / 1e14 / 3600:.1f} h at 100 TFLOP/s"
    )
    placed = sharding.placed(mesh, state)
    parts = {"parameters": placed.params, "optimiser": placed.opt_state, "averages": placed.ema}
    sizes = {name: bytes_per_device(part) for name, part in parts.items()}
    listed = ", ".join(f"{name} {size / 2**20:.1f}" for name, size in sizes.items())
    yield f"a device of {mesh.size:<8} {sum(sizes.values()) / 2**20:.1f} MiB: {listed}; gradients"
    yield "                     and activations come on top"


def batch_shapes(recipe: Recipe) -> dict[str, jax.ShapeDtypeStruct]:
    """What a batch of the recipe looks like to the training step."""
    model, size = recipe.model, recipe.data.batch_size
    spatial = (model.image_size,) * model.dims
    batch = {"image": jax.ShapeDtypeStruct((size, *spatial, model.in_channels), jnp.float32)}
    if model.num_classes is not None:
        batch["label"] = jax.ShapeDtypeStruct((size,), jnp.int32)
    return batch


def operations(lowered: Any) -> float:
    """Floating-point operations, counted by XLA before it optimises."""
    return float(lowered.cost_analysis()["flops"])


def bytes_per_device(placed: Any) -> int:
    """Of arrays with shardings, what one device holds."""
    return sum(
        leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))
        for leaf in jax.tree.leaves(placed)
    )
