"""Laws of the small text encoder, and of the U-Net that reads texts by it."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import TINY, compiled, drawn
from flax import nnx

import unet_flax
from unet_flax import TextEncoder, TextEncoderConfig, UNet, UNetConfig
from unet_flax.functional import with_params
from unet_flax.inputs import check_call

TEXT = TextEncoderConfig(vocab_size=7, num_tokens=4, channels=8, num_layers=1, num_heads=2)
READS = dataclasses.replace(TINY, dropout=0.0, num_classes=None, text=TEXT)
X, C_NOISE = jnp.ones((2, 8, 8, 2)), jnp.zeros(2)


@pytest.fixture(scope="module")
def encoder():
    return drawn(nnx.eval_shape(lambda: TextEncoder(TEXT, rngs=nnx.Rngs(0))))


@pytest.fixture(scope="module")
def unet():
    return compiled(drawn(nnx.eval_shape(lambda: UNet(READS, rngs=nnx.Rngs(0)))))


def test_padding_counts_nowhere_but_at_the_start(encoder):
    _, mask = encoder(jnp.array([[3, 2, 0, 0], [0, 0, 0, 0], [6, 5, 4, 3]]))
    assert mask.tolist() == [[True, True, False, False], [True, False, False, False], [True] * 4]


def test_what_counts_does_not_see_the_padding(encoder):
    short = dataclasses.replace(TEXT, num_tokens=2)
    _, params = unet_flax.functional(encoder)
    cut = params | {"position": params["position"][:2]}
    context, _ = encoder(jnp.array([[3, 2, 0, 0]]))
    shorter = nnx.eval_shape(lambda: TextEncoder(short, rngs=nnx.Rngs(0)))
    alone, _ = with_params(shorter, cut)(jnp.array([[3, 2]]))
    np.testing.assert_allclose(context[:, :2], alone, rtol=1e-5, atol=1e-6)


def test_the_order_of_words_matters(encoder):
    one, other = (encoder(jnp.array([tokens]))[0] for tokens in ([2, 3, 0, 0], [3, 2, 0, 0]))
    assert jnp.abs(one.sum(1) - other.sum(1)).max() > 1e-3


@pytest.mark.parametrize("token", [-1, 7])
def test_a_number_that_is_no_token_gives_nan_and_no_other_word(encoder, token):
    context, _ = encoder(jnp.array([[token, 1, 0, 0]]))
    assert jnp.isnan(context).any()


def test_without_a_text_each_image_gets_the_null_text(unet):
    null = unet(X, C_NOISE, text=jnp.zeros((2, 4), jnp.int32))
    np.testing.assert_array_equal(unet(X, C_NOISE), null)
    assert jnp.abs(unet(X, C_NOISE, text=jnp.array([[1, 0, 0, 0]] * 2)) - null).max() > 1e-3


def test_each_image_is_drawn_by_its_own_text(unet):
    both = unet(X, C_NOISE, text=jnp.array([[1, 2, 0, 0], [3, 0, 0, 0]]))
    same = unet(X, C_NOISE, text=jnp.array([[1, 2, 0, 0]] * 2))
    np.testing.assert_allclose(both[0], same[0], rtol=1e-5, atol=1e-6)
    assert jnp.abs(both[1] - same[1]).max() > 1e-3


def test_the_sizes_of_texts_come_from_the_data():
    open_config = UNetConfig(image_size=None, in_channels=None, text=TextEncoderConfig(channels=8))
    fitted = unet_flax.fitted(open_config, image_size=16, in_channels=3, text_size=(50, 9))
    assert (fitted.text.vocab_size, fitted.text.num_tokens) == (50, 9)
    assert fitted.inputs["text"] == (9,)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: TextEncoderConfig(channels=6, num_heads=4), "num_heads=4 does not divide"),
        (lambda: TextEncoderConfig(vocab_size=1), "vocab_size=1"),
        (lambda: dataclasses.replace(READS, context_channels=3), "use one of the two"),
        (
            lambda: dataclasses.replace(
                READS, attention_resolutions=(), middle=unet_flax.Middle(attention=False)
            ),
            "nothing attends",
        ),
        (lambda: unet_flax.fitted(READS, image_size=8, in_channels=2), "the data has no texts"),
        (
            lambda: unet_flax.fitted(
                dataclasses.replace(READS, text=None), image_size=8, in_channels=2, text_size=(7, 4)
            ),
            "the data has texts",
        ),
        (
            lambda: unet_flax.fitted(READS, image_size=8, in_channels=2, text_size=(9, 4)),
            "text.vocab_size=7 does not fit the data, which has 9",
        ),
        (lambda: TextEncoder(TextEncoderConfig(), rngs=nnx.Rngs(0)), "not known yet"),
        (lambda: check_call(READS, X, C_NOISE, {"text": jnp.zeros((2, 4))}), "no tokens"),
        (
            lambda: check_call(READS, X, C_NOISE, {"text": jnp.zeros((2, 3), jnp.int32)}),
            r"takes \(2, 4\)",
        ),
    ],
)
def test_what_contradicts_is_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()
