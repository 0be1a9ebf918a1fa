"""What a recipe costs, without training: `python train.py RECIPE --dry-run`."""

import dataclasses
import json
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from commands import build, config_file
from configs.recipe import Recipe
from diffusion import sharding
from diffusion.run import hardware


def lines(recipe: Recipe, mesh: jax.sharding.Mesh) -> Iterator[str]:
    """The configuration, parameters, operations and bytes, for people to read."""
    yield json.dumps(config_file.to_json(recipe), indent=2)
    network, params = build.abstract_network(recipe)
    num_parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    yield f"parameters           {num_parameters:,}"

    batch = batch_shapes(recipe)
    cond = {name: shape for name, shape in batch.items() if name != "image"}
    image = batch["image"]
    forward = jax.jit(network).lower(
        params, image, jax.ShapeDtypeStruct(image.shape[:1], jnp.float32), **cond
    )
    flops, state = flops_of_step(recipe)
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


def flops_of_step(recipe: Recipe) -> tuple[float, Any]:
    """Floating-point operations that a training step needs, and the shapes of its state.

    They are those of the whole batch at once and without remat: XLA counts the body of a loop once
    however often it runs, and what is computed again does not bring training forward.
    """
    recipe = dataclasses.replace(
        recipe,
        model=dataclasses.replace(recipe.model, remat=False),
        run=dataclasses.replace(recipe.run, accumulate=1),
    )
    network, params = build.abstract_network(recipe)
    state = jax.eval_shape(lambda params: build.new_state(recipe, params), params)
    train_step, key = build.train_step(recipe, network)
    jitted: Any = train_step
    return operations(jitted.lower(state, batch_shapes(recipe), key)), state


def peak_images_per_second(recipe: Recipe, mesh: jax.sharding.Mesh) -> float | None:
    """How fast the devices would train at their peak; None where their peak is not known."""
    peak = hardware.peak_flops(mesh.devices.flat[0])
    if peak is None:
        return None
    return peak * mesh.size * recipe.data.batch_size / flops_of_step(recipe)[0]


def batch_shapes(recipe: Recipe) -> dict[str, jax.ShapeDtypeStruct]:
    """What a batch of the recipe looks like to the training step."""
    size = recipe.data.batch_size
    return {
        name: jax.ShapeDtypeStruct((size, *one.shape), one.dtype)
        for name, one in recipe.data.spec.items()
    }


def operations(lowered: Any) -> float:
    """Floating-point operations, counted by XLA before it optimises."""
    return float(lowered.cost_analysis()["flops"])


def bytes_per_device(placed: Any) -> int:
    """Of arrays with shardings, what one device holds."""
    return sum(
        leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))
        for leaf in jax.tree.leaves(placed)
    )
