"""The methods of diffusers' schedulers: schedule, preconditioning, grid and sampler of each class.

A class is one function from its fields to a `Method`. Its fields are in `scheduler_fields`: each is
honoured, or must have the values that are allowed there. Fields that a class does not have are
ignored, as diffusers ignores them; fields that are missing have the class's default.

Source: diffusers 0.42.1, src/diffusers/schedulers.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import diffusion as dm
from commands.conventions import Conventions
from commands.scheduler_fields import FIELDS
from diffusion.denoiser import Preconditioning
from diffusion.sampling.consistency import ConsistencyTimesteps
from diffusion.sampling.pndm import PNDMFromRungeKutta
from diffusion.sampling.vp_timesteps import Grid


@dataclass(frozen=True)
class Method:
    """What a scheduler's file says."""

    preconditioning: Preconditioning
    sampler: dm.BaseSampler
    grid: Grid
    num_train_timesteps: int
    clips: bool = False
    conventions: Conventions = Conventions()


PREDICTIONS = {"epsilon": dm.Eps, "v_prediction": dm.V, "sample": dm.X0}


def schedule_of(
    v: dict[str, Any], rounding: str | None = None, terminal_sigma: float = 4096.0
) -> dm.VPLinear | dm.VPChain:
    """The chain of a scheduler's fields."""
    zero_snr = v.get("rescale_betas_zero_snr", False)
    T, start, end = v["num_train_timesteps"], v["beta_start"], v["beta_end"]
    is_plain = v["trained_betas"] is None and v["beta_schedule"] == "linear"
    if is_plain and not zero_snr and rounding is None:
        return dm.VPLinear(T, start, end)
    given = v["trained_betas"]
    if given is None and v["beta_schedule"] == "squaredcos_cap_v2":
        # its last betas, near 1, are those of diffusers' float32, where 1 - beta loses digits
        betas = dm.VPChain(T, v["beta_schedule"]).betas.astype(np.float32)
        given = tuple((1 - (np.float32(1) - betas).astype(np.float64)).tolist())
    T = T if given is None else len(given)
    return dm.VPChain(
        T,
        v["beta_schedule"],
        start,
        end,
        given=given,
        zero_terminal_snr=zero_snr,
        terminal_sigma=terminal_sigma,
        timestep_rounding=rounding,
    )


def clipping(v: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `Conventions` that say how estimates are clipped."""
    if v.get("thresholding"):
        bound = v["sample_max_value"]
        return dict(dynamic_share=v["dynamic_thresholding_ratio"], dynamic_bound=bound)
    return dict(clip_bound=v.get("clip_sample_range", 1.0))


def ddpm(v: dict[str, Any]) -> Method:
    chain = schedule_of(v, terminal_sigma=1e6)  # infinite there
    variances = {"fixed_small": 0.0, "fixed_small_log": 0.0, "fixed_large": 1.0}
    return Method(
        PREDICTIONS[v["prediction_type"]](chain),
        dm.Ancestral(variances.get(v["variance_type"])),
        dm.VPTimesteps(chain, v["timestep_spacing"], v["steps_offset"]),
        chain.num_timesteps,
        clips=v["clip_sample"] or v["thresholding"],
        conventions=Conventions(starts_at_unit_variance=True, **clipping(v)),
    )


def ddim(v: dict[str, Any]) -> Method:
    chain = schedule_of(v, terminal_sigma=1e6)  # infinite there
    clips = v["clip_sample"] or v["thresholding"]
    last = "zero" if v["set_alpha_to_one"] else "first"
    return Method(
        PREDICTIONS[v["prediction_type"]](chain),
        dm.Euler(keeps_eps=clips),
        dm.VPTimesteps(chain, v["timestep_spacing"], v["steps_offset"], last=last),
        chain.num_timesteps,
        clips=clips,
        conventions=Conventions(
            starts_at_unit_variance=True,
            ends_in_vp=True,
            needs_equal_steps=True,
            sampler=dm.Euler,
            **clipping(v),
        ),
    )


def pndm(v: dict[str, Any]) -> Method:
    chain = schedule_of(v)
    runs = not v["skip_prk_steps"]
    last = "zero" if v["set_alpha_to_one"] else "first"
    return Method(
        PREDICTIONS[v["prediction_type"]](chain),
        PNDMFromRungeKutta(chain) if runs else dm.PNDM(math.inf, lowers_last=False),
        dm.VPTimesteps(chain, v["timestep_spacing"], v["steps_offset"], last=last),
        chain.num_timesteps,
        conventions=Conventions(
            starts_at_unit_variance=True,
            ends_in_vp=True,
            needs_equal_steps=True,
            needs_even_steps=runs,
            sampler=PNDMFromRungeKutta if runs else dm.PNDM,
        ),
    )


def _in_sigma(v: dict[str, Any], sampler: dm.BaseSampler) -> Method:
    """Schedulers that work in sigma, as k-diffusion: Euler, Heun, LMS."""
    chain = schedule_of(v)
    last = "zero" if v.get("final_sigmas_type", "zero") == "zero" else "first"
    spacing, offset = v["timestep_spacing"], v["steps_offset"]
    grid = dm.VPTimesteps(chain, spacing, offset, rounds=False, last=last)
    return Method(
        PREDICTIONS[v["prediction_type"]](chain),
        sampler,
        _respaced(v, grid),
        chain.num_timesteps,
        clips=v.get("clip_sample", False),
        conventions=Conventions(starts_at_unit_variance=spacing == "leading", **clipping(v)),
    )


def _respaced(v: dict[str, Any], grid: dm.VPTimesteps, *, is_whole: bool = False) -> Grid:
    options = {
        "use_karras_sigmas": "karras",
        "use_exponential_sigmas": "exponential",
        "use_beta_sigmas": "beta",
        "use_lu_lambdas": "exponential",
    }
    given = [name for name in options if v.get(name)]
    if len(given) > 1:
        raise ValueError(f"{given[0]} and {given[1]} exclude each other.")
    if not given:
        return grid
    return dm.Respaced(
        grid.schedule,
        options[given[0]],
        grid.spacing,
        offset=grid.offset,
        is_whole=is_whole,
        last=grid.last,
    )


def heun(v: dict[str, Any]) -> Method:
    return _in_sigma(v, dm.Heun(max_ratio=math.inf))


def lms(v: dict[str, Any]) -> Method:
    return _in_sigma(v, dm.AdamsBashforth(4, max_ratio=math.inf, lowers_last=False))


def _multistep(v: dict[str, Any], sampler: dm.BaseSampler) -> Method:
    """Schedulers that keep the variance and leave out the last of the timesteps they space."""
    rounding = None
    if v.get("use_karras_sigmas") or v.get("use_lu_lambdas"):
        # diffusers keeps the fractions, but casts them to whole numbers, on a cosine chain
        is_cut = v["beta_schedule"] == "squaredcos_cap_v2" and "use_lu_lambdas" in v
        rounding = "down" if is_cut else "nearest"
    elif v.get("use_exponential_sigmas") or v.get("use_beta_sigmas"):
        rounding = "down"
    chain = schedule_of(v, rounding)
    last = "zero" if v["final_sigmas_type"] == "zero" else "first"
    spacing, offset = v.get("timestep_spacing", "linspace"), v.get("steps_offset", 0)
    grid = dm.VPTimesteps(chain, spacing, offset, drops_last=True, last=last)
    return Method(
        PREDICTIONS[v["prediction_type"]](chain),
        sampler,
        _respaced(v, grid, is_whole=True),
        chain.num_timesteps,
        clips=v["thresholding"],
        conventions=Conventions(starts_at_unit_variance=True, ends_in_vp=True, **clipping(v)),
    )


def _dpm_solver(v: dict[str, Any]) -> dm.BaseSampler:
    order, kind = v["solver_order"], v["algorithm_type"]
    weights = "heun" if v["solver_type"] == "heun" else "midpoint"
    if v["euler_at_final"] and v["final_sigmas_type"] != "zero":
        raise ValueError(
            "euler_at_final=True with final_sigmas_type='sigma_min' is not sampled here."
        )
    if kind == "sde-dpmsolver++":
        if order == 3 or weights == "heun" or v["final_sigmas_type"] != "zero":
            raise ValueError(
                f"algorithm_type={kind!r} is sampled here with solver_order 1 or 2, "
                "solver_type='midpoint' and final_sigmas_type='zero' only."
            )
        return dm.DPMSolverSDE(max_ratio=math.inf) if order == 2 else dm.Euler(eta=1.0)
    if order == 1:
        return dm.Euler()
    predicts = "eps" if kind == "dpmsolver" else "x_0"
    return dm.DPMSolver(
        order,
        max_ratio=math.inf,
        predicts=predicts,
        weights=weights,
        halves_curvature=True,
        lowers_final=v["lower_order_final"],
    )


def dpm_multistep(v: dict[str, Any]) -> Method:
    return _multistep(v, _dpm_solver(v))


def dpm_singlestep(v: dict[str, Any]) -> Method:
    if v["solver_order"] == 1:
        return _multistep(v, dm.Euler())
    weights = "heun" if v["solver_type"] == "heun" else "midpoint"
    return _multistep(v, dm.DPMSolverSinglestep(v["solver_order"], math.inf, weights))


def unipc(v: dict[str, Any]) -> Method:
    B = "bh1" if v["solver_type"] == "bh1" else "bh2"
    return _multistep(v, dm.UniPC(v["solver_order"], math.inf, B=B, lowers_final=True))


def _edm(v: dict[str, Any], sampler: dm.BaseSampler) -> Method:
    ends = v["sigma_min"], v["sigma_max"]
    is_karras = v["sigma_schedule"] == "karras"
    return Method(
        dm.EDM(v["sigma_data"]),
        sampler,
        dm.Karras(*ends, v["rho"]) if is_karras else dm.Exponential(*ends),
        v["num_train_timesteps"],
        clips=v.get("thresholding", False),
        conventions=Conventions(starts_at_unit_variance=True, **clipping(v)),
    )


def consistency(v: dict[str, Any]) -> Method:
    T, low, high = v["num_train_timesteps"], v["sigma_min"], v["sigma_max"]
    return Method(
        dm.Consistency(v["sigma_data"], low),
        dm.ConsistencySampler(low),
        ConsistencyTimesteps(T, low, high, v["rho"]),
        T,
        clips=v["clip_denoised"],
    )


def flow_match(v: dict[str, Any]) -> Method:
    shift = v["shift"]
    t_min = shift / 1000 / (1 + (shift - 1) / 1000)
    sampler = dm.ConsistencySampler(0.0) if v["stochastic_sampling"] else dm.Euler()
    return Method(dm.Velocity(), sampler, dm.FlowTimes(shift, t_min), 1000)


METHODS: dict[str, Callable[[dict[str, Any]], Method]] = {
    "DDPMScheduler": ddpm,
    "DDIMScheduler": ddim,
    "PNDMScheduler": pndm,
    "EulerDiscreteScheduler": lambda v: _in_sigma(v, dm.Euler()),
    "EulerAncestralDiscreteScheduler": lambda v: _in_sigma(v, dm.Euler(eta=1.0)),
    "HeunDiscreteScheduler": heun,
    "LMSDiscreteScheduler": lms,
    "DPMSolverMultistepScheduler": dpm_multistep,
    "DPMSolverSinglestepScheduler": dpm_singlestep,
    "UniPCMultistepScheduler": unipc,
    "EDMEulerScheduler": lambda v: _edm(v, dm.Euler()),
    "EDMDPMSolverMultistepScheduler": lambda v: _edm(v, _dpm_solver(v)),
    "CMStochasticIterativeScheduler": consistency,
    "FlowMatchEulerDiscreteScheduler": flow_match,
}
"""By class."""


def method_of(values: dict[str, Any], name: str | None = None, where: str = "") -> Method:
    """The method of a scheduler's fields.

    Args:
      values: the contents of scheduler_config.json.
      name: the scheduler's class in place of the one that the fields name.
      where: the file, for messages.
    Raises:
      ValueError: the class, or a field's value, cannot be sampled from here.
    """
    name = values.get("_class_name", "DDPMScheduler") if name is None else name
    if not isinstance(name, str) or name not in METHODS:
        raise ValueError(
            f"{where}: _class_name={name!r} cannot be sampled from here; {', '.join(METHODS)} can."
        )
    fields = FIELDS[name]
    given = {key: values.get(key, default) for key, (default, _) in fields.items()}
    settled = {key: fields[key][1](f"{where}: {key}", value) for key, value in given.items()}
    try:
        return METHODS[name](settled)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
