"""Writes schedulers.npz beside it: where diffusers' schedulers go with an exact denoiser.

    pip install torch==2.13.0 diffusers==0.42.1
    python tests/from_diffusers/make_schedulers.py

The data are +-0.5 with standard deviation 0.2 in every value, whose denoiser is known in closed
form. For each scheduler: sigmas, the grid that it walks, ending in 0; unit, which times the first
sigma is its x_T; x_0, where it ends; and the noise of each step, where one draws some. Besides, the
timesteps that each spacing chooses.
"""

from pathlib import Path

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)

NUM_STEPS = 10  # divides 1000: else DDIM and DDPM step to timesteps that are not in their grid
CHAIN = dict(num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear")


def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    variance = 0.2**2 + sigma**2
    mean = 0.5 * torch.tanh(0.5 * x / variance)  # of which of the two it is
    return mean + 0.2**2 / variance * (x - mean)


def run(scheduler, is_vp: bool, *, draws_noise=False, **keywords) -> dict[str, np.ndarray]:
    generator = torch.Generator().manual_seed(0)
    unit = torch.randn((8, 3), generator=generator, dtype=torch.float64)
    scheduler.set_timesteps(NUM_STEPS)
    alpha_bar = scheduler.alphas_cumprod.double()
    table = torch.sqrt(1 / alpha_bar - 1)
    if is_vp:
        sigmas = [*table[scheduler.timesteps.long()], torch.tensor(0.0, dtype=torch.float64)]
    else:
        sigmas = list(scheduler.sigmas.double())
    x = unit * sigmas[0]
    if is_vp:  # these keep the variance
        x = x / torch.sqrt(1 + sigmas[0] ** 2)
    noises = []
    for index, t in enumerate(scheduler.timesteps):
        if is_vp:
            sigma = table[t.long()]
            x_t = x * torch.sqrt(1 + sigma**2)
        else:
            sigma = sigmas[index]
            x_t = x
        eps = (x_t - denoise(x_t, sigma)) / sigma
        extra = dict(keywords)
        if isinstance(scheduler, DDPMScheduler):
            extra["generator"] = torch.Generator().manual_seed(index)
            again = torch.Generator().manual_seed(index)
            noises.append(torch.randn(x.shape, generator=again, dtype=x.dtype))
        if draws_noise:
            noises.append(torch.randn(x.shape, generator=generator, dtype=x.dtype))
            extra["variance_noise"] = noises[-1]
        x = scheduler.step(eps, t, x, **extra).prev_sample
    unique = [sigmas[0]]  # Heun's grid names every sigma twice
    for sigma in sigmas[1:]:
        if sigma != unique[-1]:
            unique.append(sigma)
    found = {"sigmas": torch.stack(unique).numpy(), "unit": unit.numpy(), "x_0": x.numpy()}
    return found | ({"noises": torch.stack(noises).numpy()} if noises else {})


def main() -> None:
    multistep = dict(final_sigmas_type="zero", use_karras_sigmas=False)
    runs = {
        "ddim": (DDIMScheduler(**CHAIN, clip_sample=False, timestep_spacing="trailing"), True),
        "ddpm_small": (
            DDPMScheduler(**CHAIN, clip_sample=False, variance_type="fixed_small"),
            True,
        ),
        "ddpm_large": (
            DDPMScheduler(**CHAIN, clip_sample=True, variance_type="fixed_large"),
            True,
        ),
        "euler": (EulerDiscreteScheduler(**CHAIN), False),
        "heun": (HeunDiscreteScheduler(**CHAIN), False),
        "dpm_2m": (DPMSolverMultistepScheduler(**CHAIN, solver_order=2, **multistep), True),
        "unipc_2": (UniPCMultistepScheduler(**CHAIN, solver_order=2, **multistep), True),
        "unipc_3": (UniPCMultistepScheduler(**CHAIN, solver_order=3, **multistep), True),
    }
    found = {name: run(scheduler, is_vp) for name, (scheduler, is_vp) in runs.items()}
    ddim, _ = runs["ddim"]
    found["ddim_eta"] = run(ddim, True, draws_noise=True, eta=0.5)
    sde = dict(algorithm_type="sde-dpmsolver++", solver_order=2, **multistep)
    found["dpm_sde"] = run(DPMSolverMultistepScheduler(**CHAIN, **sde), True, draws_noise=True)
    for spacing in ("linspace", "leading", "trailing"):
        found[spacing] = {}
        for num_steps in (7, 10, 1000):
            scheduler = DDIMScheduler(**CHAIN, timestep_spacing=spacing)
            scheduler.set_timesteps(num_steps)
            found[spacing][f"timesteps_{num_steps}"] = scheduler.timesteps.numpy()
    arrays = {
        f"{name}.{key}": value for name, values in found.items() for key, value in values.items()
    }
    np.savez(Path(__file__).parent / "schedulers.npz", **arrays)


if __name__ == "__main__":
    main()
