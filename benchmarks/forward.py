"""A forward pass of the network against diffusers' in PyTorch: `python -m benchmarks.forward`.

The inputs of both are noisy images and their noise levels; dropout is off. On a GPU add
`--dtype bfloat16 --sides eager compiled`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import torch

from benchmarks import command, networks
from benchmarks.networks import Case


def our_side(case: Case, dtype: str) -> Callable[[], Any]:
    network, params = networks.ours(case.config, dtype)
    forward, x = jax.jit(network), jnp.asarray(networks.images(case))
    c_noise = jnp.arange(float(case.batch))
    return lambda: jax.block_until_ready(forward(params, x, c_noise))


def their_side(case: Case, dtype: str, options: command.TorchOptions) -> Callable[[], Any]:
    model = options.prepare(networks.theirs(case, channels_last=options.channels_last).eval())
    x = options.images(case)
    timestep = torch.arange(float(case.batch), device=x.device)

    def forward() -> None:
        with torch.inference_mode(), options.autocast(dtype):
            model(x, timestep)
        command.wait_for_torch()

    return forward


if __name__ == "__main__":
    command.run(__doc__, our_side, their_side)
