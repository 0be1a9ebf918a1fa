"""Laws of leaving out conditions in training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import conditions
from diffusion.training.condition_dropout import drop_conditions

N = 20_000
COND = {
    "text": jnp.ones((N, 3), jnp.int32),
    "condition": jnp.ones((N, 1, 1, 2)),
    "label": jnp.zeros(N, jnp.int32),
}


def lost(text, image):
    dropped = drop_conditions(jax.random.key(0), COND, text=text, image=image)
    assert dropped["label"] is COND["label"]
    return np.asarray(dropped["text"] == 0).all(1), np.asarray(dropped["condition"] == 0).all(
        (1, 2, 3)
    )


@pytest.mark.parametrize(
    ("text", "image", "both"),
    [
        (0.1, 0.1, 0.05),
        (0.2, 0.1, 0.05),
        (0.3, 0.0, 0.0),
        (0.0, 0.3, 0.0),
        (0.1, 0.6, 0.1),
        (1.0, 1.0, 1.0),
    ],
)
def test_texts_and_images_are_left_out_at_their_rates_alone_and_together(text, image, both):
    no_text, no_image = lost(text, image)
    # five standard deviations of a share of N draws
    found = no_text.mean(), no_image.mean(), (no_text & no_image).mean()
    for share, rate in zip(found, (text, image, both), strict=True):
        assert abs(share - rate) <= 5 * np.sqrt(rate * (1 - rate) / N)


def test_a_text_of_context_and_mask_is_left_out_as_a_whole():
    cond = {"context": jnp.ones((N, 2, 3)), "context_mask": jnp.ones((N, 2), bool)}
    dropped = drop_conditions(jax.random.key(1), cond, text=0.5)
    is_null = np.asarray(dropped["context"] == 0).all((1, 2))
    np.testing.assert_array_equal(np.asarray(dropped["context_mask"][:, 1]), ~is_null)
    assert dropped["context_mask"][:, 0].all()


def test_without_rates_nothing_changes():
    assert drop_conditions(jax.random.key(0), COND) is COND


def test_the_null_class_is_minus_one_and_keeps_its_type():
    null = conditions.null("label", jnp.zeros(2, jnp.int8))
    assert null.tolist() == [-1, -1] and null.dtype == jnp.int8
