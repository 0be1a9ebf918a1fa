"""Error of every sampler against the number of network calls, with the exact denoiser of a mixture.

`python -m benchmarks.samplers` samples on a Karras grid from sigma 20 to 0.05 in float64, prints
two tables and draws docs/samplers.png:

- deterministic samplers: root mean square distance of 1,000 end points to the solution of the
  probability-flow ODE, computed by RK45 with tolerance 1e-10;
- all samplers: Wasserstein-2 distance between 50,000 samples and the true distribution, along
  both axes; two sets of true samples of that size are 0.005 apart.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np

import diffusion as dm

matplotlib.use("agg")
import matplotlib.pyplot as plt  # noqa: E402

MEANS = np.array([[-1.0, 0.5], [0.8, 0.8], [0.3, -1.0]])
WEIGHTS = np.array([0.3, 0.5, 0.2])
STD = 0.25
SIGMA_MAX, SIGMA_MIN = 20.0, 0.05
CALLS = (6, 10, 20, 40, 80)
DETERMINISTIC: dict[str, Any] = {
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
STOCHASTIC: dict[str, Any] = {
    "Euler ancestral (eta 1)": dm.Euler(eta=1.0),
    "Ancestral (DDPM), small": dm.Ancestral(0.0),
    "Ancestral (DDPM), large": dm.Ancestral(1.0),
    "Heun, churn 10": dm.Heun(churn=10.0),
    "DPM-Solver++ SDE": dm.DPMSolverSDE(),
}


def denoise(x_t: jax.Array, sigma: jax.Array) -> jax.Array:
    """The mean of x_0 given x_t, in closed form."""
    sigma = jnp.broadcast_to(sigma, x_t.shape[:1])[:, None]
    gaps = x_t[:, None, :] - jnp.asarray(MEANS)[None]
    variance = STD**2 + sigma**2
    logits = jnp.log(jnp.asarray(WEIGHTS))[None] - jnp.square(gaps).sum(-1) / (2 * variance)
    component_means = jnp.asarray(MEANS)[None] + (STD**2 / variance)[:, :, None] * gaps
    return (jax.nn.softmax(logits, axis=1)[:, :, None] * component_means).sum(1)


def grid(num_steps: int) -> jax.Array:
    """Karras' grid with rho 7, ending above 0."""
    ends = SIGMA_MAX ** (1 / 7), SIGMA_MIN ** (1 / 7)
    return jnp.asarray(np.linspace(*ends, num_steps + 1) ** 7)


def true_samples(count: int, sigma: float, seed: int) -> np.ndarray:
    """Samples of the mixture with noise of standard deviation sigma."""
    rng = np.random.default_rng(seed)
    means = MEANS[rng.choice(3, count, p=WEIGHTS)]
    return means + np.hypot(STD, sigma) * rng.standard_normal((count, 2))


def wasserstein(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.square(np.sort(a, axis=0) - np.sort(b, axis=0)).mean()))


def steps_for(sampler: Any, calls: int) -> int:
    """Number of steps with this many calls: no step ends at sigma = 0, so all cost the same."""
    return calls // round(sampler.nfe(1000) / 1000)


def path_errors() -> dict[str, list[tuple[float, float]]]:
    """(calls, error) of each deterministic sampler."""
    x_T = jnp.asarray(true_samples(1000, SIGMA_MAX, seed=0))
    reference, nfe = dm.RK45(tolerance=1e-10).count(denoise, x_T, grid(1))
    print(f"reference: RK45 with tolerance 1e-10, {nfe} calls")

    def error(x: jax.Array) -> float:
        return float(jnp.sqrt(jnp.square(x - reference).mean()))

    rows = {}
    for name, sampler in DETERMINISTIC.items():
        rows[name] = [
            (calls, error(sampler(denoise, x_T, grid(steps_for(sampler, calls)), KEY)))
            for calls in CALLS
        ]
    adaptive = []
    for tolerance in (1e-1, 1e-2, 1e-3, 1e-4, 1e-5):
        x, nfe = dm.RK45(tolerance).count(denoise, x_T, grid(1))
        adaptive.append((int(nfe), error(x)))
    rows["RK45 (adaptive)"] = adaptive
    return rows


def distances() -> dict[str, list[tuple[float, float]]]:
    """(calls, Wasserstein-2 distance) of every sampler."""
    x_T = jnp.asarray(true_samples(50_000, SIGMA_MAX, seed=1))
    truth = true_samples(50_000, SIGMA_MIN, seed=2)
    return {
        name: [
            (
                calls,
                wasserstein(
                    np.asarray(sampler(denoise, x_T, grid(steps_for(sampler, calls)), KEY)), truth
                ),
            )
            for calls in CALLS
        ]
        for name, sampler in (DETERMINISTIC | STOCHASTIC).items()
    }


def print_table(rows: dict[str, list[tuple[float, float]]]) -> None:
    print("\n| sampler | " + " | ".join(f"{calls} calls" for calls in CALLS) + " |")
    print("|---" * (len(CALLS) + 1) + "|")
    for name, row in rows.items():
        if [calls for calls, _ in row] == list(CALLS):
            print(f"| {name} | " + " | ".join(f"{error:.2e}" for _, error in row) + " |")
        else:
            print(f"{name}: " + ", ".join(f"{calls} calls {error:.2e}" for calls, error in row))


def draw(panels: dict[str, dict[str, list[tuple[float, float]]]], path: Path) -> None:
    figure, axes = plt.subplots(1, len(panels), figsize=(14, 6), layout="constrained")
    markers = "os^vD<>phX*"
    for axis, (title, rows) in zip(axes, panels.items(), strict=True):
        for index, (name, row) in enumerate(rows.items()):
            style = "--" if name in STOCHASTIC else ":" if "RK45" in name else "-"
            marker = markers[index % len(markers)]
            axis.loglog(*zip(*row, strict=True), style, marker=marker, markersize=5, label=name)
        axis.set(title=title, xlabel="network calls (nfe)")
        axis.set_xticks(CALLS, labels=map(str, CALLS))
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=100)


KEY = jax.random.key(0)


def main() -> None:
    jax.config.update("jax_enable_x64", True)
    paths, spread = path_errors(), distances()
    print_table(paths)
    print_table(spread)
    titles = (
        "distance to the true end point, root mean square",
        "Wasserstein-2 distance of samples to the data (0.005: none)",
    )
    path = Path(__file__).parent.parent / "docs" / "samplers.png"
    draw(dict(zip(titles, (paths, spread), strict=True)), path)
    print(f"\n{path}")


if __name__ == "__main__":
    main()
