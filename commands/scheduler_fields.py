"""The fields of diffusers' schedulers: their defaults, and the values that can be sampled.

Source: diffusers 0.42.1, src/diffusers/schedulers.
"""

import math
from typing import Any

from diffusion.noise.chain import BETA_SCHEDULES
from unet_flax.rules import Rule, each, flag, one_of, or_none, real, whole

Fields = dict[str, tuple[Any, Rule]]
"""By name: diffusers' default, and what is allowed here."""

PREDICTIONS = ("epsilon", "v_prediction", "sample")
BETA = real(above=0, below=1)
POSITIVE = real(above=0)


def only(value: Any) -> Rule:
    """No value but this one."""
    return Rule(f"{value!r}: another cannot be sampled from here", lambda v: v == value)


CHAIN: Fields = {
    "num_train_timesteps": (1000, whole(least=2)),
    "beta_start": (1e-4, BETA),
    "beta_end": (0.02, BETA),
    "beta_schedule": ("linear", one_of(*BETA_SCHEDULES)),
    "trained_betas": (None, or_none(each(BETA, least=2))),
    "prediction_type": ("epsilon", one_of(*PREDICTIONS)),
}
SPACED: Fields = {
    "timestep_spacing": ("linspace", one_of("linspace", "leading", "trailing")),
    "steps_offset": (0, whole(least=0)),
}
LEADING: Fields = SPACED | {"timestep_spacing": ("leading", SPACED["timestep_spacing"][1])}
ZERO_SNR: Fields = {"rescale_betas_zero_snr": (False, flag)}
CLIPPED: Fields = {"clip_sample": (True, flag), "clip_sample_range": (1.0, POSITIVE)}
THRESHOLD: Fields = {
    "thresholding": (False, flag),
    "dynamic_thresholding_ratio": (0.995, real(above=0, most=1)),
    "sample_max_value": (1.0, real(least=1)),
}
RESPACED: Fields = {
    "use_karras_sigmas": (False, flag),
    "use_exponential_sigmas": (False, flag),
    "use_beta_sigmas": (False, flag),
}
FINAL: Fields = {"final_sigmas_type": ("zero", one_of("zero", "sigma_min"))}
NO_FLOW: Fields = {"use_flow_sigmas": (False, only(False))}
SOLVER: Fields = {
    "solver_order": (2, whole(least=1, most=3)),
    "solver_type": ("midpoint", one_of("midpoint", "heun", "logrho", "bh1", "bh2")),
}
LEARNED: Fields = {"variance_type": (None, one_of(None, "learned", "learned_range"))}
UNCLIPPED_LAMBDA: Fields = {
    "lambda_min_clipped": (-math.inf, Rule("-Infinity", lambda v: v in (None, -math.inf)))
}


EDM: Fields = {
    "sigma_min": (0.002, POSITIVE),
    "sigma_max": (80.0, POSITIVE),
    "sigma_data": (0.5, POSITIVE),
    "sigma_schedule": ("karras", one_of("karras", "exponential")),
    "num_train_timesteps": (1000, whole()),
    "prediction_type": ("epsilon", only("epsilon")),
    "rho": (7.0, POSITIVE),
    "final_sigmas_type": ("zero", only("zero")),
}
IN_SIGMA = CHAIN | SPACED | {"prediction_type": ("epsilon", one_of("epsilon", "v_prediction"))}
ALGORITHMS = ("dpmsolver++", "dpmsolver", "sde-dpmsolver++", "deis")
DPM: Fields = {
    **SOLVER,
    "algorithm_type": ("dpmsolver++", one_of(*ALGORITHMS)),
    "lower_order_final": (True, flag),
    "euler_at_final": (False, flag),
}

FIELDS: dict[str, Fields] = {
    "DDPMScheduler": CHAIN
    | LEADING
    | ZERO_SNR
    | CLIPPED
    | THRESHOLD
    | {
        "variance_type": (
            "fixed_small",
            one_of("fixed_small", "fixed_small_log", "fixed_large", "learned_range"),
        )
    },
    "DDIMScheduler": CHAIN
    | LEADING
    | ZERO_SNR
    | CLIPPED
    | THRESHOLD
    | {"set_alpha_to_one": (True, flag)},
    "PNDMScheduler": CHAIN
    | LEADING
    | {
        "prediction_type": ("epsilon", only("epsilon")),
        "skip_prk_steps": (False, flag),
        "set_alpha_to_one": (False, flag),
    },
    "EulerDiscreteScheduler": IN_SIGMA
    | ZERO_SNR
    | RESPACED
    | FINAL
    | {
        "interpolation_type": ("linear", only("linear")),
        "sigma_min": (None, only(None)),
        "sigma_max": (None, only(None)),
        "timestep_type": ("discrete", only("discrete")),
    },
    "EulerAncestralDiscreteScheduler": IN_SIGMA | ZERO_SNR,
    "HeunDiscreteScheduler": CHAIN
    | SPACED
    | RESPACED
    | CLIPPED
    | {
        "beta_start": (0.00085, BETA),
        "beta_end": (0.012, BETA),
        "clip_sample": (False, flag),
    },
    "LMSDiscreteScheduler": CHAIN | SPACED | RESPACED,
    "DPMSolverMultistepScheduler": CHAIN
    | SPACED
    | ZERO_SNR
    | THRESHOLD
    | RESPACED
    | FINAL
    | NO_FLOW
    | DPM
    | LEARNED
    | UNCLIPPED_LAMBDA
    | {"use_lu_lambdas": (False, flag)},
    "DPMSolverSinglestepScheduler": CHAIN
    | THRESHOLD
    | RESPACED
    | NO_FLOW
    | SOLVER
    | LEARNED
    | UNCLIPPED_LAMBDA
    | {
        "algorithm_type": ("dpmsolver++", one_of("dpmsolver++", "deis")),
        "final_sigmas_type": ("zero", only("zero")),
    },
    "UniPCMultistepScheduler": CHAIN
    | SPACED
    | ZERO_SNR
    | THRESHOLD
    | RESPACED
    | NO_FLOW
    | {
        "solver_order": (2, whole(least=2, most=3)),
        "solver_type": ("bh2", one_of("bh1", "bh2", "midpoint", "heun", "logrho")),
        "final_sigmas_type": ("zero", one_of("zero", "sigma_min")),
        "predict_x0": (True, only(True)),
        "lower_order_final": (True, only(True)),
        "disable_corrector": ([], only([])),
        "solver_p": (None, only(None)),
        "sigma_min": (None, only(None)),
        "sigma_max": (None, only(None)),
    },
    "EDMEulerScheduler": EDM,
    "EDMDPMSolverMultistepScheduler": EDM | THRESHOLD | DPM,
    "CMStochasticIterativeScheduler": {
        "num_train_timesteps": (40, whole(least=2)),
        "sigma_min": (0.002, POSITIVE),
        "sigma_max": (80.0, POSITIVE),
        "sigma_data": (0.5, POSITIVE),
        "s_noise": (1.0, only(1.0)),
        "rho": (7.0, POSITIVE),
        "clip_denoised": (True, flag),
    },
    "FlowMatchEulerDiscreteScheduler": {
        "num_train_timesteps": (1000, only(1000)),
        "shift": (1.0, POSITIVE),
        "use_dynamic_shifting": (False, only(False)),
        "invert_sigmas": (False, only(False)),
        "shift_terminal": (None, only(None)),
        "use_karras_sigmas": (False, only(False)),
        "use_exponential_sigmas": (False, only(False)),
        "use_beta_sigmas": (False, only(False)),
        "stochastic_sampling": (False, flag),
    },
}
"""By class."""
