"""Laws of semantic edits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion as dm

KEY = jax.random.key(0)
X_T = jax.random.normal(KEY, (2, 4, 5, 3))
SIGMA = jnp.float32(1.0)
RAMP = jnp.arange(20.0).reshape(4, 5)[None, :, :, None]


def base(x_t, sigma):
    return 0.5 * x_t


def ramp(x_t, sigma):
    """Differs from `base` by 0, 1, ..., 19 in each channel."""
    return base(x_t, sigma) + RAMP


def one(concept):
    return dm.with_concepts(base, [(ramp, concept)])(X_T, SIGMA) - base(X_T, SIGMA)


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.9])
def test_a_concept_acts_on_the_pixels_where_it_acts_most(threshold):
    change = one(dm.Concept(scale=2.0, threshold=threshold))
    expected = jnp.where(RAMP >= 19 * threshold, 2 * RAMP, 0.0)
    np.testing.assert_allclose(change, jnp.broadcast_to(expected, change.shape), atol=1e-4)


def test_a_negative_scale_removes_what_a_positive_one_adds():
    np.testing.assert_allclose(one(dm.Concept(scale=3.0)), -one(dm.Concept(scale=-3.0)), atol=1e-4)


def test_concepts_add_up():
    both = dm.with_concepts(
        base, [(ramp, dm.Concept(1.0, 0.5)), (lambda x, s: base(x, s) - 1, dm.Concept(2.0, 0.0))]
    )
    expected = one(dm.Concept(1.0, 0.5)) - 2.0
    np.testing.assert_allclose(both(X_T, SIGMA) - base(X_T, SIGMA), expected, atol=1e-4)


def test_a_concept_stays_in_its_mask_and_below_its_noise_level():
    left = jnp.zeros((4, 5, 1)).at[:, :2].set(1.0)
    change = one(dm.Concept(threshold=0.0, mask=left))
    assert not change[:, :, 2:].any() and change[:, 1:, :2].all()
    assert not one(dm.Concept(sigma_max=0.9)).any() and one(dm.Concept(sigma_max=1.0)).any()


def test_where_no_concept_acts_the_image_comes_back():
    """On top of the inversion with the same base; the concept may act on the left half alone."""

    def smooth(x_t, sigma):
        return x_t * 0.25 / (0.25 + sigma**2)

    def brighter(x_t, sigma):
        return smooth(x_t, sigma) + 0.5

    image = jnp.linspace(-0.8, 0.8, 60).reshape(1, 4, 5, 3)
    left = jnp.zeros((4, 5, 1)).at[:, :2].set(1.0)
    x, sigmas, sampler = dm.ddpm_invert(smooth, image, dm.Karras()(8), KEY).begin(0.25)
    concept = dm.Concept(scale=1.0, threshold=0.0, mask=left)
    found = sampler(dm.with_concepts(smooth, [(brighter, concept)]), x, sigmas, KEY)
    np.testing.assert_allclose(found[:, :, 2:], image[:, :, 2:], atol=1e-5)
    assert (found[:, :, :2] > image[:, :, :2] + 0.3).all()


def test_one_network_is_called_once_for_all_concepts():
    calls = []

    def network(params, x, c_noise, *, text):
        calls.append(x.shape[0])
        return x * text[:, None, None, None]

    params, texts = {}, [jnp.full(2, value) for value in (0.0, 1.0, 2.0)]
    plain, *others = (dm.denoiser(network, params, dm.EDM(), text=text) for text in texts)
    dm.with_concepts(plain, [(other, dm.Concept()) for other in others])(X_T, SIGMA)
    assert calls == [6]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: dm.Concept(threshold=1.0), "threshold=1.0"),
        (lambda: dm.Concept(scale=float("nan")), "scale=nan"),
        (lambda: dm.Concept(sigma_max=0.0), "sigma_max=0.0"),
        (lambda: dm.with_concepts(base, []), "there is no concept"),
    ],
)
def test_what_makes_no_sense_is_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()
