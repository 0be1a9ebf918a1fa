"""Errors of every deterministic sampler on every grid, on data of three narrow peaks.

The error is the root mean square distance from the exact solution of the ODE from the same noise,
in float64, for values drawn from a mixture of three narrow Gaussians, with its exact denoiser.

    python -m benchmarks.sampler_grids            # tables for 5, 10, 20 and 40 network calls
    python -m benchmarks.sampler_grids --calls 100
"""

import argparse
import typing
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

import diffusion as dm
from diffusion.noise.schedules import Schedule

PEAKS = ((-1.1, 0.1, 0.7), (0.3, 0.3, 0.4), 0.15)


def peaks(x_t, sigma):
    """The exact denoiser of three narrow Gaussians on a line, the same for every value."""
    means, weights, std = (jnp.asarray(values, x_t.dtype) for values in PEAKS)
    sigma = jnp.broadcast_to(sigma, x_t.shape[:1]).reshape((-1,) + (1,) * x_t.ndim)
    gaps = x_t[..., None] - means.reshape((1,) * x_t.ndim + (-1,))
    variance = std**2 + sigma**2
    log_weights = jnp.log(weights).reshape((1,) * x_t.ndim + (-1,))
    share = jax.nn.softmax(log_weights - jnp.square(gaps) / (2 * variance), axis=-1)
    return x_t - (share * gaps * sigma**2 / variance).sum(-1)


GRIDS = [
    dm.Karras(),
    dm.Exponential(),
    *(dm.VPTimesteps(spacing=spacing) for spacing in ("linspace", "leading", "trailing")),
    dm.VPTimesteps(drops_last=True),
    *(dm.Even(kind()) for kind in typing.get_args(Schedule)),
    dm.Even(dm.VPLinear(), alpha=0.6, beta=0.6),
    dm.Even(dm.Flow(scale=3.0)),
    *(dm.Respaced(between=between) for between in ("karras", "exponential", "beta")),
    dm.FlowTimes(),
    dm.FlowTimes(shift=3.0),
    dm.ConsistencyTimesteps(num_timesteps=200),
    dm.VPTimesteps(dm.VPChain(1000, "scaled_linear", 0.00085, 0.012), rounds=False),
    dm.VPTimesteps(dm.VPChain(1000, "squaredcos_cap_v2")),
]
SAMPLERS = {
    "DDIM": dm.Euler(),
    "Heun": dm.Heun(),
    "Heun, flow time": dm.Heun(time="flow"),
    "DPM-Solver++ 2S": dm.DPMSolver2S(),
    "DPM-Solver++ 2M": dm.DPMSolver(2),
    "DPM-Solver++ 3M": dm.DPMSolver(3),
    "UniPC 2": dm.UniPC(2),
    "UniPC 3": dm.UniPC(3),
    "KDPM2": dm.KDPM2(),
    "DPM-Solver++ singlestep": dm.DPMSolverSinglestep(),
    "DEIS 3": dm.DEIS(3),
    "Adams-Bashforth 4": dm.AdamsBashforth(4),
    "PNDM": dm.PNDM(),
}
UNIT = np.random.default_rng(0).standard_normal((1, 400))


@cache
def exact(sigma_max):
    """The solution at sigma = 0, by 2,000 steps of Runge-Kutta in arctan(sigma / 0.3)."""

    def slope(x, angle):
        sigma = 0.3 * jnp.tan(angle)
        return (x - peaks(x, sigma)) / sigma * 0.3 * (1 + jnp.tan(angle) ** 2)

    first, last = np.arctan(sigma_max / 0.3), np.arctan(1e-5 / 0.3)
    h = (last - first) / 2000

    def step(i, x):
        angle = first + i * h
        k_1 = slope(x, angle)
        k_2 = slope(x + h / 2 * k_1, angle + h / 2)
        k_3 = slope(x + h / 2 * k_2, angle + h / 2)
        k_4 = slope(x + h * k_3, angle + h)
        return x + h / 6 * (k_1 + 2 * k_2 + 2 * k_3 + k_4)

    x = jax.jit(lambda x: jax.lax.fori_loop(0, 2000, step, x))(jnp.asarray(sigma_max * UNIT))
    return peaks(x, jnp.float64(1e-5))


@cache
def error(sampler, grid, num_steps):
    with jax.enable_x64(True):
        sigmas = jnp.asarray(np.asarray(grid(num_steps), np.float64))
        x_0 = sampler(peaks, sigmas[0] * UNIT, sigmas, jax.random.key(0))
        return float(jnp.sqrt(jnp.square(x_0 - exact(float(sigmas[0]))).mean()))


SHOWN = {
    "Karras": dm.Karras(),
    "VP linspace": dm.VPTimesteps(),
    "VP leading": dm.VPTimesteps(spacing="leading"),
    "VP trailing": dm.VPTimesteps(spacing="trailing"),
    "cosine, even": dm.Even(dm.VPCosine()),
    "flow, even": dm.Even(dm.Flow()),
}


def main() -> None:
    parser = argparse.ArgumentParser("benchmarks.sampler_grids")
    parser.add_argument("--calls", type=int, nargs="*", default=[5, 10, 20, 40])
    for calls in parser.parse_args().calls:
        print(f"\n| {calls} calls | steps | {' | '.join(SHOWN)} |")
        print("|---" * (len(SHOWN) + 2) + "|")
        for name, sampler in SAMPLERS.items():
            # the largest number of steps that needs no more calls
            num_steps = max(n for n in range(1, calls + 1) if sampler.nfe(n) <= calls)
            errors = [f"{error(sampler, grid, num_steps):.3f}" for grid in SHOWN.values()]
            print(f"| {name} | {num_steps} | {' | '.join(errors)} |")


if __name__ == "__main__":
    main()
