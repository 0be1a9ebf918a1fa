"""Laws of the autoencoder: shapes, gradients, counts, and the divergence of its latents."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from conftest import compiled, drawn
from flax import nnx

import unet_flax
from diffusion import kl_divergence
from unet_flax import Autoencoder, AutoencoderConfig, presets
from unet_flax.autoencoder import sample

TINY = AutoencoderConfig(
    image_channels=2, latent_channels=3, channels=4, channel_mult=(1, 2), num_res_blocks=1,
    num_groups=2,
)  # fmt: skip


def abstract(config):
    return nnx.eval_shape(lambda: Autoencoder(config, rngs=nnx.Rngs(0)))


@pytest.fixture(scope="module")
def autoencoder():
    return drawn(abstract(TINY))


@pytest.fixture(scope="module")
def image():
    return jax.random.uniform(jax.random.key(0), (3, 8, 8, 2), minval=-1)


@pytest.fixture(scope="module")
def reconstruct(autoencoder):
    return compiled(autoencoder)


def count(module):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))


@pytest.mark.parametrize(
    ("config", "encoder", "decoder", "quant_conv", "post_quant_conv"),
    [
        # diffusers' AutoencoderKL of the same configurations
        (presets.sd_autoencoder(), 34_163_592, 49_490_179, 72, 20),
        (presets.sd3_autoencoder(), 34_274_208, 49_545_475, 0, 0),
    ],
)
def test_the_halves_have_the_published_parameters(
    config, encoder, decoder, quant_conv, post_quant_conv
):
    module = abstract(config)
    assert count(module.encoder) == encoder + quant_conv
    assert count(module.decoder) == decoder + post_quant_conv


@pytest.mark.parametrize("size", [(8, 8), (12, 20), (10, 2)])
def test_decoded_images_have_the_shape_of_the_encoded(autoencoder, size):
    network, params = unet_flax.functional(autoencoder)
    image = jax.ShapeDtypeStruct((5, *size, 2), jnp.float32)
    decoded, mean, log_variance = jax.eval_shape(network, params, image)
    assert decoded == image
    latent = jax.ShapeDtypeStruct((5, size[0] // 2, size[1] // 2, 3), jnp.float32)
    assert mean == log_variance == latent
    assert TINY.downsample_factor == 2


def test_what_bfloat16_computes_is_returned_as_float32():
    config = dataclasses.replace(TINY, dtype="bfloat16", param_dtype="bfloat16")
    network, params = unet_flax.functional(abstract(config))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")}
    outputs = jax.eval_shape(network, params, jax.ShapeDtypeStruct((1, 8, 8, 2), jnp.float32))
    assert {output.dtype for output in outputs} == {jnp.dtype("float32")}


def test_the_halves_are_pure_functions(autoencoder, reconstruct, image):
    decoded, mean, log_variance = reconstruct(image)
    for a, b in zip(compiled(autoencoder.encoder)(image), (mean, log_variance), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)  # compiled apart, sums are rounded otherwise
    np.testing.assert_allclose(compiled(autoencoder.decoder)(mean), decoded, atol=1e-5)


def test_permuting_the_batch_permutes_the_output(reconstruct, image):
    order = jnp.array([2, 0, 1])
    for permuted, y in zip(reconstruct(image[order]), reconstruct(image), strict=True):
        np.testing.assert_allclose(permuted, y[order], atol=1e-5)


def test_every_parameter_gets_a_gradient(autoencoder, image):
    network, params = unet_flax.functional(autoencoder)

    @jax.jit
    def gradient(params):
        def loss(params):
            decoded, mean, log_variance = network(params, image, jax.random.key(0))
            return jnp.square(decoded - image).sum() + kl_divergence(mean, log_variance).sum()

        return jax.grad(loss)(params)

    untouched = [
        jax.tree_util.keystr(path)
        for path, grad in jax.tree_util.tree_leaves_with_path(gradient(params))
        if not jnp.abs(grad).max() > 0
    ]
    # a key's bias adds the same number to all logits of a query, so softmax cannot see it
    assert all("'key'" in path and "'bias'" in path for path in untouched), untouched


def test_without_a_key_the_mean_is_decoded(reconstruct, image):
    decoded, mean, _ = reconstruct(image)
    noisy, again, _ = reconstruct(image, jax.random.key(0))
    np.testing.assert_array_equal(again, mean)
    assert jnp.abs(noisy - decoded).max() > 1e-2


def test_a_new_autoencoder_is_made_of_its_configuration_and_parameters(autoencoder):
    _, params = unet_flax.functional(autoencoder)
    again = unet_flax.module(TINY, params)
    assert unet_flax.functional(again)[0] == unet_flax.functional(autoencoder)[0]


def divergence(mean, log_variance):
    """The definition's integral, of one value."""
    q, p = scipy.stats.norm(mean, math.exp(log_variance / 2)), scipy.stats.norm()
    within = mean - 12 * q.std(), mean + 12 * q.std()  # e^-72 of the mass is outside
    return scipy.integrate.quad(lambda x: q.pdf(x) * (q.logpdf(x) - p.logpdf(x)), *within)[0]


def test_the_divergence_is_the_integral_of_its_definition():
    rng = np.random.default_rng(0)
    mean, log_variance = rng.standard_normal((2, 2, 1, 2, 3))
    expected = [
        sum(map(divergence, m.ravel(), s.ravel())) for m, s in zip(mean, log_variance, strict=True)
    ]
    got = kl_divergence(jnp.asarray(mean, jnp.float32), jnp.asarray(log_variance, jnp.float32))
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_the_divergence_of_unit_noise_is_zero_and_exact_beside_it():
    latent = (1, 2, 2, 1)
    assert kl_divergence(jnp.zeros(latent), jnp.zeros(latent)) == 0
    # (e^s - 1 - s) / 2 = s^2 / 4 to 3e-4 of itself; e^s - 1 alone is rounded by 6e-8 in float32
    got = kl_divergence(jnp.zeros(latent), jnp.full(latent, 1e-3))
    np.testing.assert_allclose(got, 4 * 1e-6 / 4, rtol=1e-3)


def test_a_sample_has_the_mean_and_the_variance():
    mean, log_variance = jnp.full(200_000, 3.0), jnp.full(200_000, math.log(4.0))
    drawn = sample(mean, log_variance, jax.random.key(0))
    # five standard errors of 2 / sqrt(200,000), and of the variance 4 sqrt(2 / 200,000)
    assert abs(drawn.mean() - 3) < 0.023 and abs(drawn.var() - 4) < 0.064


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image_channels", 0),
        ("latent_channels", 4.0),
        ("channel_mult", ()),
        ("channel_mult", (1, 0.3)),
        ("num_res_blocks", 0),
        ("num_groups", 3),
        ("use_quant_conv", 1),
        ("scaling_factor", 0.0),
        ("shift_factor", None),
        ("dtype", "float16"),
    ],
)
def test_a_field_that_cannot_be_is_named(field, value, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    with pytest.raises(ValueError, match=rf"^{field}="):
        dataclasses.replace(TINY, **{field: value})


@pytest.mark.parametrize(
    ("shape", "dtype", "says"),
    [
        ((1, 9, 8, 2), np.float32, r"height and width \(9, 8\) is not divisible by 2 ="),
        ((1, 8, 8, 3), np.float32, r"image of shape \(1, 8, 8, 3\) does not fit"),
        ((8, 8, 2), np.float32, r"image of shape \(8, 8, 2\) does not fit"),
        ((1, 8, 8, 2), np.uint8, "image of type uint8 must be float"),
    ],
)
def test_an_image_that_does_not_fit_is_refused(autoencoder, monkeypatch, shape, dtype, says):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as users run it
    with pytest.raises(ValueError, match=says):
        autoencoder.encode(np.zeros(shape, dtype))


def test_a_latent_of_other_channels_is_refused(autoencoder):
    with pytest.raises(ValueError, match=r"latent of shape \(1, 4, 4, 2\) does not fit"):
        autoencoder.decode(jnp.zeros((1, 4, 4, 2)))
