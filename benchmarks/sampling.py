"""Sampling against diffusers in PyTorch: `python -m benchmarks.sampling [--sampler heun]`.

DDIM with 50 steps, or Heun with 18 steps (35 network calls). Ours is one compiled loop; theirs is
the same arithmetic in a plain Python loop around diffusers' network.
"""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import torch

import diffusion as dm
from benchmarks import command, networks
from benchmarks.networks import Case

CHAIN = dm.VPLinear()
GRID = dm.Even(CHAIN)
SAMPLERS: dict[str, tuple[Any, int]] = {"ddim": (dm.Euler(), 50), "heun": (dm.Heun(), 18)}


def our_side(sampler: str, case: Case, dtype: str) -> Callable[[], Any]:
    network, params = networks.ours(case.config, dtype)
    solver, num_steps = SAMPLERS[sampler]
    denoise, sigmas = dm.denoiser(network, params, dm.Eps(CHAIN)), GRID(num_steps)
    x_T, key = sigmas[0] * jnp.asarray(networks.images(case)), jax.random.key(0)
    return lambda: jax.block_until_ready(solver(denoise, x_T, sigmas, key))


def their_side(
    sampler: str, case: Case, dtype: str, options: command.TorchOptions
) -> Callable[[], Any]:
    model = options.prepare(networks.theirs(case, channels_last=options.channels_last).eval())
    sigmas = [float(sigma) for sigma in GRID(SAMPLERS[sampler][1])]
    noise = options.images(case)
    timestep = torch.full((case.batch,), 500.0, device=noise.device)  # any value costs the same

    def slope(x: torch.Tensor, sigma: float) -> torch.Tensor:
        """dx / dsigma, which is eps."""
        # a copy, because the compiled network reuses the memory of its output
        return model(x / (1 + sigma**2) ** 0.5, timestep).sample.clone()

    def sample() -> None:
        with torch.inference_mode(), options.autocast(dtype):
            x = sigmas[0] * noise
            for sigma, below in zip(sigmas, sigmas[1:], strict=False):
                d = slope(x, sigma)
                euler = x + (below - sigma) * d
                if sampler == "heun" and below > 0:
                    d = (d + slope(euler, below)) / 2
                    euler = x + (below - sigma) * d
                x = euler
        command.wait_for_torch()

    return sample


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--sampler", choices=SAMPLERS, default="ddim")
    chosen, rest = parser.parse_known_args()
    command.run(
        __doc__, partial(our_side, chosen.sampler), partial(their_side, chosen.sampler), rest
    )
