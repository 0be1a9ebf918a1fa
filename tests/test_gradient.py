"""Laws of gradients through samplers: same images, gradients of finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sampler_table import ON_GRID, mostly_slow

import diffusion as dm

REPAINT = dm.RePaint(dm.Ancestral(), num_resample=2)
SAMPLERS = mostly_slow([*ON_GRID, REPAINT], [dm.Heun(), dm.Ancestral(), dm.DPMSolver(), REPAINT])
GRIDS = [dm.Karras(0.01, 10.0)(6), dm.Karras(0.01, 10.0)(6)[:-1]]  # to 0, and to 0.01
NAMES = dict(ids=lambda value: str(value) if isinstance(value, dm.BaseSampler) else None)


def network(params, x, c_noise):
    return jnp.tanh(params["w"] * x + params["b"] * c_noise[:, None])


def reward(run, params, x_T, sigmas):
    denoise = dm.denoiser(network, params, dm.EDM())
    return jnp.sin(3 * run(denoise, x_T, sigmas, jax.random.key(3))).sum()


@pytest.mark.parametrize("sampler", SAMPLERS, **NAMES)
def test_the_images_are_those_of_the_sampler(sampler):
    denoise = dm.denoiser(network, {"w": 0.7, "b": 0.2}, dm.EDM())
    x_T = 10 * jax.random.normal(jax.random.key(0), (2, 3))
    args = denoise, x_T, GRIDS[0], jax.random.key(3)
    np.testing.assert_allclose(dm.differentiable(sampler)(*args), sampler(*args), atol=1e-5)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
@pytest.mark.parametrize("grid", GRIDS, ids=["to 0", "above 0"])
def test_the_gradient_is_that_of_finite_differences(sampler, grid):
    with jax.enable_x64(True):
        grid = jnp.asarray(grid, jnp.float64)
        params = {"w": jnp.float64(0.7), "b": jnp.float64(0.2)}
        x_T = 10 * jax.random.normal(jax.random.key(0), (2, 3), jnp.float64)

        @jax.jit
        def value(params, x_T):
            return reward(dm.differentiable(sampler), params, x_T, grid)

        grads = jax.jit(jax.grad(value, (0, 1)))(params, x_T)
        for name in params:
            changed = [value(params | {name: params[name] + h}, x_T) for h in (1e-5, -1e-5)]
            gap = float(changed[0] - changed[1])
            assert float(grads[0][name]) == pytest.approx(gap / 2e-5, rel=1e-5)
        direction = jax.random.normal(jax.random.key(1), x_T.shape, jnp.float64)
        changed = [value(params, x_T + h * direction) for h in (1e-4, -1e-4)]
        slope, gap = float((grads[1] * direction).sum()), float(changed[0] - changed[1])
        assert slope == pytest.approx(gap / 2e-4, rel=1e-4, abs=1e-9)


def test_a_closure_over_what_is_differentiated_will_do():
    def value(w):
        sample = dm.differentiable(dm.Heun())
        x_T = jnp.ones((1, 2))
        return sample(lambda x, sigma: w * x, x_T, GRIDS[0], jax.random.key(0)).sum()

    gap = float(value(0.7 + 1e-2) - value(0.7 - 1e-2)) / 2e-2
    assert float(jax.grad(value)(0.7)) == pytest.approx(gap, rel=1e-2)


def test_an_adaptive_sampler_is_refused():
    with pytest.raises(ValueError, match="RK45 is adaptive, so its number of steps"):
        dm.differentiable(dm.RK45())
