"""Laws of the weights' averages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion as dm
from diffusion.training.ema import power, reconstruct

KINDS = [
    dm.EMA(0.99),
    dm.HalfLife(1000),
    dm.PowerFunction((0.05, 0.1)),
    dm.Several((dm.EMA(0.9), dm.EMA(0.99), dm.PowerFunction((0.05,)))),
]


def run(ema, path, batch_size=1):
    """Each average of the kind after updates with the weights of the path."""
    average, update = ema.init({"w": jnp.float32(path[0])}), jax.jit(ema.update, static_argnums=3)
    for step, weight in enumerate(path):
        average = update(average, {"w": jnp.float32(weight)}, jnp.int32(step), batch_size)
    return {name: float(ema.choose(average, name)["w"]) for name in ema.names}


@pytest.mark.parametrize("ema", KINDS)
def test_a_constant_is_its_own_average(ema):
    assert run(ema, [-2.0] * 20) == pytest.approx(dict.fromkeys(ema.names, -2.0))


@pytest.mark.parametrize("ema", KINDS)
def test_the_average_shares_no_memory_with_the_weights(ema):
    params = {"w": jnp.ones(3)}
    average = ema.init(params)
    params["w"].delete()  # as donation does
    for name in ema.names:
        np.testing.assert_array_equal(ema.choose(average, name)["w"], np.ones(3))


def test_warm_up_follows_its_formula_then_the_decay_takes_over():
    expected = 0.0
    for n in range(30):
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * n
    assert run(dm.EMA(0.5), np.arange(30.0)) == pytest.approx({"0.5": expected}, rel=1e-5)


def test_the_first_update_forgets_nine_tenths_of_the_initial_weights():
    ema = dm.EMA(0.9999)
    average = ema.update({"w": jnp.array(1.0)}, {"w": jnp.array(0.0)}, jnp.int32(0), 1)
    np.testing.assert_allclose(average["w"], 0.1, rtol=1e-6)


def test_after_a_half_life_in_images_half_of_the_old_weights_is_left():
    # 100 images in batches of 4, long after the ramp: 25 steps from 1 to 0
    ema, average = dm.HalfLife(100, ramp=0.05), {"w": jnp.float32(1.0)}
    for step in range(10_000, 10_025):
        average = ema.update(average, {"w": jnp.float32(0.0)}, jnp.int32(step), 4)
    assert float(average["w"]) == pytest.approx(0.5, rel=1e-4)


def test_the_ramp_bounds_the_half_life_by_the_images_seen():
    # Karras et al. 2022: beta = 0.5 ** (batch / min(half-life, images * ramp))
    ema = dm.HalfLife(500_000, ramp=0.05)
    average = ema.update({"w": jnp.float32(1.0)}, {"w": jnp.float32(0.0)}, jnp.int32(99), 512)
    assert float(average["w"]) == pytest.approx(0.5 ** (512 / (0.05 * 100 * 512)), rel=1e-4)


@pytest.mark.parametrize("sigma_rel", [0.05, 0.1, 0.25])
def test_a_power_functions_average_weighs_step_s_by_s_to_the_gamma(sigma_rel):
    path = np.random.default_rng(0).standard_normal(400)
    s = np.arange(1.0, 401.0)
    weights = np.diff(np.append(0.0, (s / 400) ** (power(sigma_rel) + 1)))
    got = run(dm.PowerFunction((sigma_rel,)), path)
    assert got == pytest.approx({f"{sigma_rel:g}": float(weights @ path)}, abs=1e-4)


@pytest.mark.parametrize("sigma_rel", [0.03, 0.05, 0.1, 0.28])
def test_the_profile_has_the_relative_width_that_names_it(sigma_rel):
    # standard deviation of a density proportional to s^gamma on [0, 1], by quadrature
    s = (np.arange(200_000) + 0.5) / 200_000
    density = s ** power(sigma_rel)
    mean = np.average(s, weights=density)
    assert np.sqrt(np.average((s - mean) ** 2, weights=density)) == pytest.approx(sigma_rel, 1e-3)


@pytest.mark.parametrize(
    "sigma_rel",
    [0.03, 0.25, *(pytest.param(width, marks=pytest.mark.slow) for width in (0.075, 0.15))],
)
def test_any_width_is_reconstructed_from_snapshots(sigma_rel):
    path = np.cumsum(np.random.default_rng(1).standard_normal(800)) / 20
    stored, ema = [], dm.PowerFunction((0.05, 0.1))
    average, update = ema.init({"w": jnp.float32(path[0])}), jax.jit(ema.update, static_argnums=3)
    for step, weight in enumerate(path):
        average = update(average, {"w": jnp.float32(weight)}, jnp.int32(step), 1)
        if (step + 1) % 50 == 0:
            for name, width in zip(ema.names, ema.sigma_rels, strict=True):
                stored.append((step + 1, width, float(average[name]["w"])))
    factors = reconstruct([(at, width) for at, width, _ in stored], 800, sigma_rel)
    assert factors.sum() == pytest.approx(1)
    got = factors @ np.array([value for *_, value in stored])
    (wanted,) = run(dm.PowerFunction((sigma_rel,)), path).values()
    # the weights vary by 1.4 over 800 steps
    assert got == pytest.approx(wanted, abs=0.03)


def test_what_is_stored_is_reconstructed_from_itself():
    factors = reconstruct([(100, 0.05), (200, 0.05), (200, 0.1)], 200, 0.1)
    np.testing.assert_allclose(factors, [0, 0, 1], atol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: dm.EMA(-0.1),
        lambda: dm.EMA(1.0),
        lambda: dm.HalfLife(0),
        lambda: dm.HalfLife(ramp=0.0),
        lambda: dm.PowerFunction(()),
        lambda: dm.PowerFunction((0.05, 0.05)),
        lambda: dm.PowerFunction((0.3,)),
        lambda: dm.PowerFunction((0.0,)),
        lambda: dm.Several(()),
        lambda: dm.Several((dm.EMA(0.9), dm.EMA(0.9))),
    ],
)
def test_impossible_averages_are_refused(make):
    with pytest.raises(ValueError):
        make()
