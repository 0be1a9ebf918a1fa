"""Schedulers of diffusers with their fields, and a network that is exact for each."""

import numpy as np

SHAPE = (4, 1, 1, 3)
SD = dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
COSINE = dict(beta_schedule="squaredcos_cap_v2")


def two_values(x, sigma):
    """The exact denoiser of +-0.5 with standard deviation 0.2."""
    variance = 0.2**2 + sigma**2
    mean = 0.5 * np.tanh(0.5 * x / variance)
    return mean + 0.2**2 / variance * (x - mean)


def chain_of(name, fields):
    """ln(sigma) of each timestep, from alpha_bar; None where there is no chain."""
    if name.startswith(("EDM", "CM", "FlowMatch")):
        return None
    heun = name == "HeunDiscreteScheduler"
    start = fields.get("beta_start", 0.00085 if heun else 1e-4)
    end = fields.get("beta_end", 0.012 if heun else 0.02)
    T, kind = fields.get("num_train_timesteps", 1000), fields.get("beta_schedule", "linear")
    if fields.get("trained_betas") is not None:
        betas = np.array(fields["trained_betas"], np.float64)
    elif kind == "scaled_linear":
        betas = np.linspace(start**0.5, end**0.5, T) ** 2
    elif kind == "squaredcos_cap_v2":
        bar = [np.cos((i / T + 0.008) / 1.008 * np.pi / 2) ** 2 for i in range(T + 1)]
        betas = np.array([min(1 - b / a, 0.999) for a, b in zip(bar, bar[1:], strict=False)])
    elif kind == "sigmoid":
        betas = (end - start) / (1 + np.exp(-np.linspace(-6, 6, T))) + start
    else:
        betas = np.linspace(start, end, T)
    root = np.sqrt(np.cumprod(1 - betas))
    if fields.get("rescale_betas_zero_snr"):
        root = (root - root[-1]) * root[0] / (root[0] - root[-1])
        root = np.maximum(root, 2.0**-12)
    return np.log(np.sqrt(1 / root**2 - 1))


def network_output(name, fields, log_sigmas, x, t):
    """What a network returns that knows the exact denoiser, for the input as it is given."""
    if name.startswith("EDM"):
        sigma = np.exp(4 * t)
        scale = np.sqrt(sigma**2 + 0.25)
        c_skip, c_out = 0.25 / scale**2, sigma * 0.5 / scale
    elif name.startswith("CM"):
        sigma = np.exp(t / 250)
        scale = np.sqrt(sigma**2 + 0.25)
        c_skip, c_out = 0.25 / ((sigma - 0.002) ** 2 + 0.25), (sigma - 0.002) * 0.5 / scale
    elif name.startswith("FlowMatch"):
        sigma = min(t / 1000, 0.99999) / (1 - min(t / 1000, 0.99999))
        scale = 1 + sigma
        c_skip, c_out = 1 / scale, -sigma / scale
    else:
        sigma = np.exp(np.interp(t, np.arange(len(log_sigmas)), log_sigmas))
        scale = np.sqrt(1 + sigma**2)
        kind = fields.get("prediction_type", "epsilon")
        c_skip = {"epsilon": 1.0, "v_prediction": scale**-2, "sample": 0.0}[kind]
        c_out = {"epsilon": -sigma, "v_prediction": -sigma / scale, "sample": 1.0}[kind]
    x = x * scale
    return (two_values(x, sigma) - c_skip * x) / c_out


def _cases():
    spacings = [dict(timestep_spacing=s) for s in ("linspace", "leading", "trailing")]
    leading = dict(timestep_spacing="leading", steps_offset=1)
    respaced = [{f"use_{k}_sigmas": True} for k in ("karras", "exponential", "beta")]
    v, x_0 = dict(prediction_type="v_prediction"), dict(prediction_type="sample")
    zero = dict(rescale_betas_zero_snr=True, timestep_spacing="trailing", **v)
    dynamic = dict(thresholding=True, dynamic_thresholding_ratio=0.8, sample_max_value=1.5)
    unclipped = dict(clip_sample=False)
    given = dict(trained_betas=list(np.geomspace(1e-4, 0.05, 500)), num_train_timesteps=500)
    sigmoid = dict(beta_schedule="sigmoid")
    all_fields = {
        "DDPMScheduler": [
            *({**s, **unclipped} for s in spacings),
            {},
            dict(clip_sample_range=0.4),
            {**dynamic, "clip_sample": False},
            {**leading, **SD, **v, **unclipped},
            {**zero, **SD, **unclipped},
            {**COSINE, **x_0, **unclipped},
            {**sigmoid, **unclipped},
            {**given, **unclipped},
            dict(variance_type="fixed_large", timestep_spacing="leading", **unclipped),
        ],
        "DDIMScheduler": [
            unclipped,
            {},
            dict(clip_sample_range=0.4),
            {**dynamic, "clip_sample": False},
            dict(timestep_spacing="trailing", **unclipped),
            dict(timestep_spacing="trailing", set_alpha_to_one=False, **SD, **unclipped),
            {**leading, **SD, **v, **unclipped, "set_alpha_to_one": False},
            {**SD, **unclipped, "set_alpha_to_one": False},
            {**zero, **SD, **unclipped},
            {**COSINE, **x_0, **unclipped},
        ],
        "PNDMScheduler": [
            dict(skip_prk_steps=True),
            {**leading, **SD, "skip_prk_steps": True},
            dict(skip_prk_steps=True, timestep_spacing="trailing"),
            {},
            dict(set_alpha_to_one=True, timestep_spacing="trailing"),
        ],
        "EulerDiscreteScheduler": [
            *spacings,
            {**leading, **SD},
            *({**r, **SD} for r in respaced),
            {**respaced[0], **leading},
            dict(final_sigmas_type="sigma_min", **SD),
            {**zero, **SD},
        ],
        "EulerAncestralDiscreteScheduler": [*spacings, {**leading, **SD, **v}, {**zero, **SD}],
        "HeunDiscreteScheduler": [
            *spacings,
            *respaced,
            dict(clip_sample=True, clip_sample_range=0.4),
            v,
            x_0,
        ],
        "LMSDiscreteScheduler": [*spacings, {**SD, **v}, *({**r, **SD} for r in respaced)],
        "DPMSolverMultistepScheduler": [
            *spacings,
            {**leading, **SD, **v},
            *({**r, **SD} for r in respaced),
            {**respaced[0], **COSINE},
            dict(use_lu_lambdas=True),
            dict(solver_order=3),
            dict(solver_order=1),
            dict(solver_type="heun"),
            dict(algorithm_type="dpmsolver", final_sigmas_type="sigma_min"),
            dict(algorithm_type="dpmsolver", final_sigmas_type="sigma_min", solver_order=3),
            dict(final_sigmas_type="sigma_min", solver_order=3, **SD),
            dict(final_sigmas_type="sigma_min", lower_order_final=False),
            dict(algorithm_type="sde-dpmsolver++"),
            dict(algorithm_type="sde-dpmsolver++", solver_order=1),
            {**dynamic, **x_0},
            {**zero, **SD},
        ],
        "DPMSolverSinglestepScheduler": [
            {},
            dict(solver_order=3),
            dict(solver_order=3, solver_type="heun"),
            dict(solver_type="heun", **SD, **v),
            dict(solver_order=1),
            respaced[0],
            {**dynamic, **x_0},
        ],
        "UniPCMultistepScheduler": [
            *spacings,
            {**leading, **SD, **v},
            *({**r, **SD} for r in respaced),
            dict(solver_order=3),
            dict(solver_type="bh1", final_sigmas_type="sigma_min"),  # nan at sigma = 0
            dict(final_sigmas_type="sigma_min", **SD),
            {**dynamic, **x_0},
            {**zero, **SD},
        ],
        "EDMEulerScheduler": [{}, dict(sigma_schedule="exponential", sigma_max=50.0)],
        "EDMDPMSolverMultistepScheduler": [{}, dict(solver_order=3), dict(rho=5.0)],
        "CMStochasticIterativeScheduler": [{}, dict(clip_denoised=False)],
        "FlowMatchEulerDiscreteScheduler": [{}, dict(shift=3.0), dict(stochastic_sampling=True)],
    }
    return {
        f"{name.removesuffix('Scheduler')}-{number}-{num_steps}": (name, fields, num_steps)
        for name, some in all_fields.items()
        for number, fields in enumerate(some)
        for num_steps in (5, 10, 50, 1000)
        if is_walked(name, fields, num_steps)
    }


def is_walked(name, fields, num_steps):
    """Whether diffusers itself can walk this number of steps."""
    T = fields.get("num_train_timesteps", 40 if name.startswith("CM") else 1000)
    if num_steps > T or (num_steps == 1000 and name.startswith(("DPM", "UniPC", "EDM"))):
        return False  # the multistep solvers space T + 1 timesteps, two of which are equal
    is_cosine = fields.get("beta_schedule") == "squaredcos_cap_v2"
    if num_steps == 1000 and name == "DDPMScheduler" and is_cosine:
        return False  # diffusers' float32 ends 2.4e-4 from its own float64; the sampler here 2e-5
    if num_steps == 1000 and name.startswith("LMS") and any("sigmas" in key for key in fields):
        return False  # diffusers' quadrature of the weights, to 1e-4, is too coarse there
    if (num_steps - 1) * (T // num_steps) + fields.get("steps_offset", 0) >= T:
        return False
    if name in ("DDIMScheduler", "PNDMScheduler") and T % num_steps:
        return False
    runs = name == "PNDMScheduler" and not fields.get("skip_prk_steps")
    return not (runs and T // num_steps % 2)


CASES = _cases()
