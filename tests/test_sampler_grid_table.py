"""Every deterministic sampler on every grid: a higher order never loses to Euler (DDIM).

How the error is measured is written in `benchmarks.sampler_grids`.
"""

import pytest
from sampler_table import DETERMINISTIC, RungeKutta2, mostly_slow

import diffusion as dm
from benchmarks.sampler_grids import GRIDS, error

# 23 grids and three numbers of steps for each
SAMPLERS = mostly_slow(
    [s for s in DETERMINISTIC if not isinstance(s, dm.Euler | RungeKutta2)],
    [dm.Heun(), dm.DPMSolver(), dm.DPMSolver(3), dm.UniPC(), dm.UniPC(3), dm.DEIS()],
)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_no_sampler_loses_to_euler_on_the_same_grid(sampler):
    errors = {
        (grid, n): error(sampler, grid, n) / error(dm.Euler(), grid, n)
        for grid in GRIDS
        for n in (10, 20, 50)
    }
    assert {place: ratio for place, ratio in errors.items() if ratio > 1.05} == {}


@pytest.mark.parametrize("sampler", [dm.Euler(), *SAMPLERS], ids=repr)
def test_twice_the_steps_are_never_worse(sampler):
    errors = {
        (grid, n): error(sampler, grid, n) / error(sampler, grid, n // 2)
        for grid in GRIDS
        # even in sigma, with a last step from 7 to 0.01 in ten steps: more steps help later
        if grid != dm.Respaced(between="beta")
        for n in (10, 20, 50)
    }
    assert {place: ratio for place, ratio in errors.items() if ratio > 1} == {}
