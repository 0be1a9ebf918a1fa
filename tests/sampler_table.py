"""The samplers on which every law is tested: those of the package, and one from outside it."""

import dataclasses
import re
import typing
from pathlib import Path

import pytest

import diffusion as dm
from diffusion.sampling.samplers import Sampler


def outside_sampler():
    """The class that README.md shows, which is defined outside the package."""
    page = (Path(__file__).parent.parent / "README.md").read_text()
    snippets = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (snippet,) = (snippet for snippet in snippets if "BaseSampler" in snippet)
    names = {"__name__": "readme"}
    exec(snippet, names)
    (kind,) = [v for v in names.values() if isinstance(v, type) and issubclass(v, dm.BaseSampler)]
    return kind, snippet


RungeKutta2, SNIPPET = outside_sampler()
KINDS = [*typing.get_args(Sampler), RungeKutta2]
VARIANTS = [
    *(kind() for kind in KINDS),
    dm.Euler(eta=1.0),
    dm.Ancestral(interpolation=0.0),
    dm.Heun(churn=10.0),
    dm.Heun(time="flow"),
    dm.Euler(churn=10.0),
    dm.DPMSolver(3),
    dm.DPMSolverSDE(eta=0.0),
    dm.DPMSolver(predicts="eps"),
    dm.DPMSolver(3, predicts="eps"),
    dm.DPMSolverSinglestep(3),
    dm.DPMSolverSDE2S(eta=0.0),
    dm.UniPC(3),
    dm.UniPC(B="bh1"),
    dm.UniPC(3, corrects=False),
    dm.DEIS(3),
    dm.KDPM2(eta=1.0),
    dm.SASolver(eta=0.0, predictor_order=3),
    dm.SASolver(predictor_order=3),
    dm.AdamsBashforth(2),
    dm.AdamsBashforth(3),
]
ONE_OF_EACH = [kind() for kind in KINDS if not kind.is_adaptive]  # for laws of the shared loop


def mostly_slow(samplers, often):
    """The samplers, of which those that are not in `often` are slow tests."""
    assert all(sampler in samplers for sampler in often)
    return [s if s in often else pytest.param(s, marks=pytest.mark.slow) for s in samplers]


# the laws of the loop compile it for each sampler: these have all numbers of calls and of noises,
# and steps with memory and without
OFTEN = (
    *(dm.Euler(), dm.Heun(), dm.Ancestral(), dm.DPMSolver(), dm.SASolver(), dm.PNDM()),
    *(dm.DPMSolverSDE2S(), dm.PredictorCorrector(), dm.ConsistencySampler(), RungeKutta2()),
)
EACH_KIND = mostly_slow(ONE_OF_EACH, OFTEN)
ON_GRID = [sampler for sampler in VARIANTS if not sampler.is_adaptive]
DETERMINISTIC = [sampler for sampler in ON_GRID if sampler.is_deterministic]
STOCHASTIC = [sampler for sampler in ON_GRID if not sampler.is_deterministic]
CAN_INVERT = [sampler for sampler in DETERMINISTIC if not sampler.has_memory]


def static_fields(sampler):
    return {f.name for f in dataclasses.fields(sampler) if f.metadata.get("static")}


def with_other_numbers(sampler):
    """The same kind with every number halved, or 1/2 where it is 0; static fields stay."""
    numbers = {
        f.name: getattr(sampler, f.name) / 2 or 0.5
        for f in dataclasses.fields(sampler)
        if f.type in (float, float | None) and getattr(sampler, f.name) is not None
    }
    return dataclasses.replace(sampler, **numbers)
