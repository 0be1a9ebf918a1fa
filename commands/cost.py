"""The cost of a recipe, computed without training: `python train.py RECIPE --dry-run`."""

import dataclasses
import json
import math
from collections.abc import Iterator
from typing import Any

import jax

from commands import build, config_file
from configs import AnyRecipe
from diffusion import sharding
from diffusion.run import hardware


def lines(recipe: AnyRecipe, mesh: jax.sharding.Mesh) -> Iterator[str]:
    """The configuration, number of parameters, FLOP and bytes, as lines to print."""
    yield json.dumps(config_file.to_json(recipe), indent=2)
    network, params = build.abstract_network(recipe)
    num_parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    yield f"parameters           {num_parameters:,}"

    batch = batch_shapes(recipe)
    image, (inputs, cond) = batch["image"], recipe.network_inputs(batch)
    forward = jax.jit(network).lower(params, *inputs, **cond)
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
    yield f"per device of {mesh.size:<6} {sum(sizes.values()) / 2**20:.1f} MiB: {listed};"
    yield "                     gradients and activations are not included"


def flops_of_step(recipe: AnyRecipe) -> tuple[float, Any]:
    """Floating-point operations of a training step, and the shapes of its state.

    They are counted without `accumulate`, because XLA counts the body of a loop only once, and
    without `remat`, because recomputed operations are not useful work.
    """
    recipe = dataclasses.replace(
        recipe,
        model=dataclasses.replace(recipe.model, remat=False),
        run=dataclasses.replace(recipe.run, accumulate=1),
    )
    network, params = build.abstract_network(recipe)
    state = jax.eval_shape(lambda params: recipe.new_state(params), params)
    train_step, key = build.train_step(recipe, network)
    jitted: Any = train_step
    return operations(jitted.lower(state, batch_shapes(recipe), key)), state


def peak_images_per_second(recipe: AnyRecipe, mesh: jax.sharding.Mesh) -> float | None:
    """Training speed at the devices' peak FLOP/s; None if that is not known."""
    peak = hardware.peak_flops(mesh.devices.flat[0])
    if peak is None:
        return None
    return peak * mesh.size * recipe.data.batch_size / flops_of_step(recipe)[0]


def batch_shapes(recipe: AnyRecipe) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes and types of a batch, as the training step receives it."""
    size = recipe.data.batch_size
    return {
        name: jax.ShapeDtypeStruct((size, *one.shape), one.dtype)
        for name, one in recipe.spec.items()
    }


def operations(lowered: Any) -> float:
    """Floating-point operations, counted by XLA before optimisation."""
    return float(lowered.cost_analysis()["flops"])


def bytes_per_device(placed: Any) -> int:
    """Bytes that one device holds of arrays with shardings."""
    return sum(
        leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))
        for leaf in jax.tree.leaves(placed)
    )
