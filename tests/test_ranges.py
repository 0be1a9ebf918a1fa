"""Laws of what numbers may be: nothing public is made of nan or infinity."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion as dm
from configs import Adam, Muon, Optax, Sampling
from diffusion.ranges import demand, demand_ascent
from diffusion.sampling.loop import check_grid


def kinds():
    """Every public dataclass that can be made of its defaults, and those of recipes."""
    public = [getattr(dm, name) for name in dm.__all__]
    kinds = [kind for kind in public if isinstance(kind, type) and dataclasses.is_dataclass(kind)]
    return [*kinds, Sampling, Adam, Muon, Optax]


NUMBERS = [
    pytest.param(kind, field.name, id=f"{kind.__name__}.{field.name}")
    for kind in kinds()
    for field in dataclasses.fields(kind)
    if field.type in (float, float | None)
]


def test_the_law_below_sees_the_fields():
    assert len(NUMBERS) >= 40


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("kind", "name"), NUMBERS)
def test_no_number_of_a_public_dataclass_may_be_nan_or_infinite(kind, name, value):
    if name == "max_ratio" and value == math.inf:
        pytest.skip("infinite for the published methods")
    needed = {"learning_rate": 1e-3}
    given = {Adam: needed, Muon: needed, Optax: {"name": "sgd"}}.get(kind, {})
    with pytest.raises(ValueError, match=rf"{name}={value} is outside [\[(]") as error:
        kind(**(given | {name: value}))
    assert "\n" not in str(error.value)


def network(x_t, sigma):
    return x_t


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "make",
    [
        lambda value: dm.classifier_free(network, network, value),
        lambda value: dm.classifier_free(network, network, 2.0, rescale=value),
        lambda value: dm.autoguidance(network, network, value),
        lambda value: dm.classifier_guided(network, lambda x, sigma: x, value),
        lambda value: dm.in_interval(network, network, value),
        lambda value: dm.clip_dynamically(network, value),
        lambda value: dm.begin_from(jnp.ones(2), jnp.ones(2), dm.Karras()(5), value),
        lambda value: dm.PowerFunction((0.05, value)),
        lambda value: dm.log_density(network, jnp.ones((1, 2)), jax.random.key(0), sigma_max=value),
        lambda value: dm.log_density(network, jnp.ones((1, 2)), jax.random.key(0), tolerance=value),
        lambda value: check_grid(jnp.array([value, 1.0, 0.0])),
        lambda value: check_grid(jnp.array([2.0, value, 0.0])),
        lambda value: check_grid(jnp.array([2.0, 1.0, value])),
    ],
)
def test_no_number_of_a_public_function_may_be_nan_or_infinite(make, value):
    with pytest.raises(ValueError):
        make(value)


def test_guidance_in_an_interval_may_have_no_upper_end():
    dm.in_interval(network, network, 0.5, math.inf)
    with pytest.raises(ValueError, match="sigma_max=nan"):
        dm.in_interval(network, network, 0.5, math.nan)


@pytest.mark.parametrize("rescale", [-0.1, 1.1])
def test_rescaling_beyond_none_and_all_is_refused(rescale):
    with pytest.raises(ValueError, match=rf"rescale={rescale} is outside \[0, 1\]"):
        dm.classifier_free(network, network, 2.0, rescale=rescale)


@pytest.mark.parametrize("process", [dm.VPContinuous, dm.SubVP])
def test_a_process_ends_at_its_last_time(process):
    with jax.enable_x64(True):
        end = float(process().sigma(jnp.float64(1.0)))
    process(sigma_max=0.9999 * end)
    with pytest.raises(ValueError, match="lies beyond t = 1"):
        process(sigma_max=1.0001 * end)
    with pytest.raises(ValueError, match=r"beta_min \+ beta_max"):
        process(beta_max=5.0)


@pytest.mark.parametrize(
    ("grid", "num_steps"),
    [
        (dm.Karras(rho=1e-3), 18),
        (dm.Karras(sigma_min=0.99, sigma_max=1.0), 1_000_000),
        (dm.Karras(sigma_max=1e39), 18),
        (dm.Exponential(power=1e-9), 18),
        (dm.Even(dm.Flow(), 1e-3, 1e-3), 100),
    ],
)
def test_grids_that_float32_cannot_hold_are_refused(grid, num_steps):
    with pytest.raises(ValueError, match="does not descend to 0"):
        grid(num_steps)


@pytest.mark.parametrize(
    ("interval", "inside", "outside"),
    [
        ("(0, inf)", [1e-300, 1e300], [0, -1, math.inf, math.nan]),
        ("[0, 1]", [0, 1, True], [-1e-9, 1 + 1e-9, math.nan]),
        ("(0, 1]", [1e-9, 1], [0.0]),
        ("[0, 1)", [0], [1.0]),
        ("(0, inf]", [math.inf], [math.nan, 0]),
    ],
)
def test_demands_are_met_inside_the_interval_alone(interval, inside, outside):
    for value in inside:
        demand(interval, x=value)
        demand(interval, x=np.array([value, value]))
    for value in outside:
        for given in (value, np.array([inside[0], value])):
            with pytest.raises(ValueError, match=r"x=\S* is outside "):
                demand(interval, x=given)


def test_what_is_no_number_is_refused_and_what_is_traced_passes():
    with pytest.raises(ValueError, match="x='many' is no number"):
        demand("[0, 1]", x="many")
    jax.jit(lambda x: demand("[0, 1]", x=x))(5.0)


def test_values_ascend_in_the_order_in_which_they_are_named():
    demand_ascent(a=1, b=2, c=3)
    with pytest.raises(ValueError, match="b=2 must lie below c=2"):
        demand_ascent(a=1, b=2, c=2)


def test_traced_numbers_pass_every_check():
    def checked(x):
        demand("(0, 1)", x=x)
        demand_ascent(a=x, b=-x)
        return x

    assert jax.jit(checked)(2.0) == 2.0
