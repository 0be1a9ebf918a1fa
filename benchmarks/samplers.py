"""Error of every sampler against the number of network calls, on a mixture with exact denoiser.

`python -m benchmarks.samplers` walks a Karras grid from sigma 20 to 0.05 and measures, against a
fine reference, the root mean square of 1,000 end points in the plane.
"""

import jax
import jax.numpy as jnp
import numpy as np

import diffusion as dm

MEANS = np.array([[-1.0, 0.5], [0.8, 0.8], [0.3, -1.0]])
WEIGHTS = np.array([0.3, 0.5, 0.2])
STD = 0.25
CALLS = (5, 10, 20, 40, 80)
SAMPLERS = {
    "Euler (DDIM)": dm.Euler(),
    "Heun": dm.Heun(),
    "DPM-Solver++ 2S": dm.DPMSolver2S(),
    "DPM-Solver++ 2M": dm.DPMSolver(2),
    "DPM-Solver++ 3M": dm.DPMSolver(3),
    "UniPC 2": dm.UniPC(2),
    "UniPC 3": dm.UniPC(3),
    "Adams-Bashforth 2": dm.AdamsBashforth(2),
    "Adams-Bashforth 3": dm.AdamsBashforth(3),
    "Adams-Bashforth 4": dm.AdamsBashforth(4),
}


def denoise(x_t: jax.Array, sigma: jax.Array) -> jax.Array:
    """The mean of x_0 given x_t, in closed form."""
    sigma = jnp.broadcast_to(sigma, x_t.shape[:1])[:, None]
    gaps = x_t[:, None, :] - jnp.asarray(MEANS)[None]
    variance = STD**2 + sigma**2
    logits = jnp.log(jnp.asarray(WEIGHTS))[None] - jnp.square(gaps).sum(-1) / (2 * variance)
    toward = jnp.asarray(MEANS)[None] + (STD**2 / variance)[:, :, None] * gaps
    return (jax.nn.softmax(logits, axis=1)[:, :, None] * toward).sum(1)


def grid(num_steps: int) -> jax.Array:
    """Karras' grid with rho 7, ending above 0."""
    return jnp.asarray(np.linspace(20.0 ** (1 / 7), 0.05 ** (1 / 7), num_steps + 1) ** 7)


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    x_T = 20.0 * jax.random.normal(jax.random.key(0), (1000, 2), jnp.float64)
    reference, nfe = dm.RK45(tolerance=1e-10).count(denoise, x_T, grid(1))
    print(f"reference: RK45 with tolerance 1e-10, {nfe} calls\n")
    print("| sampler | " + " | ".join(f"{calls} calls" for calls in CALLS) + " |")
    print("|---" * (len(CALLS) + 1) + "|")
    for name, sampler in SAMPLERS.items():
        calls_a_step = round(sampler.nfe(1000) / 1000)
        cells = []
        for calls in CALLS:
            steps = calls // calls_a_step  # no step ends in 0, so each costs the same
            x = sampler(denoise, x_T, grid(steps), jax.random.key(0))
            cells.append(f"{float(jnp.sqrt(jnp.square(x - reference).mean())):.1e}")
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
