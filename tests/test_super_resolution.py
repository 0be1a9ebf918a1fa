"""Laws of super-resolution: in [-1, 1], and its averages are the image that was given."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion as dm
from diffusion.editing.super_resolution import enlarged, shrunk, with_averages

KEY = jax.random.key(0)
SAMPLERS = [dm.Ancestral(), dm.Heun(churn=20.0), dm.UniPC(2), dm.RK45()]


def dark(x_t, sigma):
    """Wants every image nearly black, with some pixels far out of range."""
    return jnp.sin(50 * x_t) * 3.0 - 2.5


def strong(x_t, sigma):
    """Estimates of a network that diverged."""
    return 1e6 * jnp.cos(7 * x_t)


def weak(x_t, sigma):
    """Estimates that are nearly constant."""
    return 0.3 * jnp.tanh(x_t)


# black, white and all between
LOW = jnp.linspace(-1.0, 1.0, 2 * 4 * 4).reshape(2, 4, 4, 1)


@pytest.mark.parametrize(
    ("denoise", "sampler"),
    [(dark, sampler) for sampler in SAMPLERS] + [(strong, dm.UniPC(2)), (weak, dm.UniPC(2))],
    ids=lambda value: getattr(value, "__name__", repr(value)),
)
def test_any_denoisers_image_stays_in_range_and_averages_to_the_one_given(denoise, sampler):
    x_T = 80.0 * jax.random.normal(KEY, (2, 12, 12, 1))
    x_0 = sampler(dm.super_resolve(denoise, LOW), x_T, dm.Karras()(6), KEY)
    assert jnp.abs(x_0).max() <= 1
    # a shift of at most 2 is known to 2.4e-7, a mean of nine to the same
    np.testing.assert_allclose(shrunk(x_0, 3), LOW, atol=5e-7)


def test_the_projection_is_the_nearest_such_image():
    """Against quadratic programming's conditions: interior pixels are shifted alike, others less.

    y is nearest to x under mean(y) = m and |y| <= 1 where y = clip(x + t) for one t a square.
    """
    image = jax.random.uniform(KEY, (2, 6, 6, 3), minval=-1.0, maxval=1.0)
    low = jax.random.uniform(jax.random.key(1), (2, 2, 2, 3), minval=-0.9, maxval=0.9)
    nearest = with_averages(image, low, 3)
    np.testing.assert_allclose(shrunk(nearest, 3), low, atol=5e-7)
    squares = [
        np.asarray(x).reshape(2, 2, 3, 2, 3, 3).transpose(0, 1, 3, 5, 2, 4).reshape(-1, 9)
        for x in (image, nearest)
    ]
    num_clipped = 0
    for before, after in zip(*squares, strict=True):
        shift, inside = after - before, np.abs(after) < 1
        num_clipped += (~inside).sum()
        t = shift[inside].mean()
        np.testing.assert_allclose(shift[inside], t, atol=1e-6)
        np.testing.assert_allclose(after, np.clip(before + t, -1, 1), atol=1e-6)
    assert num_clipped > 10


def test_an_image_that_has_its_averages_stays_as_it_is():
    image = jax.random.uniform(KEY, (2, 6, 6, 1), minval=-1.0, maxval=1.0)
    np.testing.assert_allclose(with_averages(image, shrunk(image, 2), 2), image, atol=5e-7)


def test_enlarging_and_shrinking_gives_the_image_back():
    np.testing.assert_allclose(shrunk(enlarged(LOW, 3), 3), LOW, rtol=1e-6)


@pytest.mark.parametrize("value", [1.1, -1.1, np.nan])
def test_averages_that_no_image_has_are_refused(value):
    with pytest.raises(ValueError, match=r"=(1.1|-1.1|nan).* is outside \[-1, 1\]"):
        dm.super_resolve(weak, LOW.at[0, 0, 0, 0].set(value))
