"""Small changes over many steps are not rounded away."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from runs import mistake

import diffusion as dm
import train
from configs import Adam, Muon, Optax
from diffusion.training.ema import power

NARROW = [jnp.bfloat16, jnp.float16]


def rate(ema, step, batch_size=1):
    """The weight of the newest weights in each average."""
    average = ema.init({"w": jnp.zeros(())})
    average = ema.update(average, {"w": jnp.ones(())}, jnp.int32(step), batch_size)
    return {name: float(ema.choose(average, name)["w"]) for name in ema.names}


@pytest.mark.parametrize("step", [0, 1, 10, 1_000, 1_000_000, 10_000_000])
@pytest.mark.parametrize("sigma_rel", [0.05, 0.1, 0.25])
def test_a_power_functions_rate_is_that_of_float64(step, sigma_rel):
    t = np.float64(step + 1)
    expected = 1 - (1 - 1 / t) ** (np.float64(power(sigma_rel)) + 1)
    # float64 itself keeps some nine digits of this difference at 1e7
    got = rate(dm.PowerFunction((sigma_rel,)), step)
    assert got[f"{sigma_rel:g}"] == pytest.approx(expected, rel=1e-6)


def test_rates_near_0_keep_their_digits():
    assert rate(dm.EMA(0.999_999), 10**9)["0.999999"] == pytest.approx(1e-6, rel=1e-6)
    got = rate(dm.HalfLife(10**7), 10**9)["10000000"]
    assert got == pytest.approx(np.log(2) * 1e-7, rel=1e-6)


def test_the_width_of_a_power_function_is_that_of_its_name_at_ten_million_steps():
    zero, one, ema = jnp.zeros(()), jnp.ones(()), dm.PowerFunction((0.1,))
    steps = jnp.arange(10_000_000)
    rates = jax.jit(jax.vmap(lambda step: ema.update({"0.1": zero}, one, step, 1)["0.1"]))(steps)
    rates = np.asarray(rates, np.float64)[1:]  # the first is 1: it forgets what was before
    # the weight of step s at the end: its rate, times all that the later steps keep
    kept = np.append(np.cumsum(np.log1p(-rates)[::-1])[::-1][1:], 0.0)
    weights, t = rates * np.exp(kept), np.arange(2, len(rates) + 2)
    mean = (weights * t).sum()
    width = np.sqrt((weights * (t - mean) ** 2).sum()) / len(t)
    assert width == pytest.approx(0.1, rel=1e-5)


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize(
    "ema",
    [dm.EMA(0.9999), dm.HalfLife(50_000), dm.PowerFunction((0.05, 0.1))]
    + [dm.Several((dm.EMA(0.999), dm.HalfLife(1000)))],
)
def test_averages_of_narrow_weights_are_those_of_float32(ema, dtype):
    def averaged(dtype):
        @jax.jit
        def run(average, weights):
            def advance(step, average):
                return ema.update(average, weights, step + 1, 1)

            return jax.lax.fori_loop(0, 20_000, advance, average)

        average = ema.init({"w": jnp.zeros((), dtype)})
        return run(average, {"w": jnp.ones((), dtype)})

    narrow, full = averaged(dtype), averaged(jnp.float32)
    for a, b in zip(jax.tree.leaves(narrow), jax.tree.leaves(full), strict=True):
        assert a.dtype == jnp.float32
        np.testing.assert_array_equal(a, b)


def test_an_average_of_narrow_weights_reaches_its_closed_form():
    ema = dm.EMA(0.9999)

    @jax.jit
    def run(average):
        return jax.lax.fori_loop(
            0, 20_000, lambda n, a: ema.update(a, jnp.ones((), jnp.bfloat16), n + 10**6, 1), average
        )

    expected = 1 - 0.9999**20_000  # 0.865
    assert run(ema.init(jnp.zeros((), jnp.bfloat16))) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize(
    "optimizer", [Adam(1e-3), Adam(1e-3, clip_norm=1.0), Muon(1e-3), Optax("adamw")]
)
def test_an_optimisers_state_is_float32(optimizer, dtype):
    params = {"w": jnp.ones(3, dtype)}
    state = optimizer.make().init(params)
    for _ in range(2):
        _, state = optimizer.make().update(params, state, params)
        for leaf in jax.tree.leaves(state):
            assert leaf.dtype in (jnp.float32, jnp.int32)


@pytest.mark.parametrize("dtype", NARROW)
def test_narrow_weights_are_refused(dtype):
    with pytest.raises(ValueError, match=r"params\['w'\] is .*float16, which rounds small"):
        dm.TrainState.create({"w": jnp.ones(3, dtype)}, optax.sgd(1.0), dm.EMA())


def test_the_command_refuses_narrow_weights(tmp_path, capsys):
    argv = ["digits", "--model.param-dtype", "bfloat16", "--run-dir", tmp_path]
    assert "which rounds small updates" in mistake(train.main, argv, capsys)


def test_a_learning_rate_falls_where_the_loss_stands_still():
    optimizer = optax.chain(optax.sgd(1e-9), optax.contrib.reduce_on_plateau(patience=1))
    step = dm.make_train_step(
        lambda params, x, c_noise, **_: x * params["w"],
        dm.Eps(),
        dm.LogNormal(),
        optimizer,
        dm.EMA(),
    )
    state = dm.TrainState.create({"w": jnp.ones(())}, optimizer, dm.EMA())
    for _ in range(8):
        state, _ = step(state, {"image": jnp.zeros((2, 4, 4, 1))}, jax.random.key(0))
    assert state.opt_state[1].scale < 1
