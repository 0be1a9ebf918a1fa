"""Laws of the weights' average."""

import jax.numpy as jnp
import numpy as np
import pytest

import diffusion as dm


def test_a_constant_is_its_own_average():
    ema, params = dm.EMA(0.99), {"w": jnp.array([1.0, -2.0])}
    average = ema.init(params)
    for step in range(20):
        average = ema.update(average, params, jnp.int32(step))
    np.testing.assert_array_equal(average["w"], params["w"])


def test_warm_up_follows_its_formula_then_the_decay_takes_over():
    ema = dm.EMA(0.5)
    average = {"w": jnp.array(0.0)}
    expected = 0.0
    for n in range(30):
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * n
        average = ema.update(average, {"w": jnp.array(float(n))}, jnp.int32(n))
        np.testing.assert_allclose(average["w"], expected, rtol=1e-5)


def test_the_first_update_forgets_nine_tenths_of_the_initial_weights():
    average = dm.EMA(0.9999).update({"w": jnp.array(1.0)}, {"w": jnp.array(0.0)}, jnp.int32(0))
    np.testing.assert_allclose(average["w"], 0.1, rtol=1e-6)


def test_the_average_shares_no_memory_with_the_weights():
    params = {"w": jnp.ones(3)}
    average = dm.EMA().init(params)
    params["w"].delete()  # what donation does
    np.testing.assert_array_equal(average["w"], np.ones(3))


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_outside_its_range_is_refused(decay):
    with pytest.raises(ValueError, match="decay"):
        dm.EMA(decay)
