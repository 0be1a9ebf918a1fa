"""Each block against its plain formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from unet_flax import (
    CrossAttention,
    Downsample,
    Fourier,
    GroupNorm,
    ResBlock,
    SelfAttention,
    Upsample,
    sinusoidal,
)
from unet_flax.blocks import dropout
from unet_flax.embeddings import OneHotLabel
from unet_flax.resample import BOX, Double, Halve, InputPyramid


@pytest.fixture(scope="module")
def x():
    return 3.0 + 2.0 * jax.random.normal(jax.random.key(0), (2, 4, 4, 8))


def plain_group_norm(x, scale, bias, groups, eps):
    B, H, W, C = x.shape
    grouped = x.reshape(B, H * W, groups, C // groups)
    mean = grouped.mean((1, 3), keepdims=True)
    var = jnp.square(grouped - mean).mean((1, 3), keepdims=True)
    normal = ((grouped - mean) / jnp.sqrt(var + eps)).reshape(x.shape)
    return normal * scale[None, None, None] + bias[None, None, None]


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_group_norm_equals_its_formula_forward_and_gradient(x, groups):
    norm = GroupNorm(8, groups)
    graph, params = nnx.split(norm)
    keys = jax.random.split(jax.random.key(1), 2)
    scale, bias = (jax.random.normal(key, (8,)) for key in keys)
    weight = jax.random.normal(jax.random.key(2), x.shape)

    def ours(x, scale, bias):
        return nnx.merge(graph, {"scale": scale, "bias": bias})(x)

    def plain(x, scale, bias):
        return plain_group_norm(x, scale, bias, groups, 1e-6)

    # mean 3, std 2: E[x^2] - E[x]^2 loses a factor 13 / 4 of float32's 1e-7
    np.testing.assert_allclose(ours(x, scale, bias), plain(x, scale, bias), atol=2e-5)
    gradients = [
        jax.grad(lambda *args, f=f: (f(*args) * weight).sum(), argnums=(0, 1, 2))(x, scale, bias)
        for f in (ours, plain)
    ]
    for got, expected in zip(*gradients, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-4)


@pytest.mark.parametrize("ratio", [0, 1, 10, 100, 1000])
@pytest.mark.parametrize("size", [8, 32])
def test_group_norms_error_grows_as_the_square_of_mean_over_std(size, ratio):
    x = (ratio + np.random.default_rng(0).standard_normal((4, size, size, 64))).astype(np.float32)
    groups = x.astype(np.float64).reshape(4, size * size, 16, 4)
    mean, var = groups.mean((1, 3), keepdims=True), groups.var((1, 3), keepdims=True)
    expected = ((groups - mean) / np.sqrt(var + 1e-6)).reshape(x.shape)
    error = np.abs(GroupNorm(64, 16)(jnp.asarray(x)) - expected).max()
    # float32 rounds E[x^2] = (1 + r^2) var by 6e-8 of it, and the sums before it some times over
    assert error < 1e-6 * (1 + ratio**2)


def test_group_norm_of_a_constant_image_is_finite():
    out = GroupNorm(8, 2)(jnp.full((1, 4, 4, 8), 1000.0))
    assert jnp.isfinite(out).all()


@pytest.mark.parametrize("num_heads", [1, 4])
def test_attention_equals_its_formula(x, num_heads):
    attention = SelfAttention(8, num_heads, num_groups=2, rngs=nnx.Rngs(0))
    attention.heads.proj.kernel[...] = jax.random.normal(jax.random.key(3), (8, 8))
    tokens = attention.norm(x).reshape(2, 16, 8)

    inner = attention.heads

    def split(linear):
        return linear(tokens).reshape(2, 16, num_heads, 8 // num_heads)

    q, k, v = (split(linear) for linear in (inner.query, inner.key, inner.value))
    logits = jnp.einsum("blhd,bmhd->bhlm", q, k) / np.sqrt(8 // num_heads)
    out = jnp.einsum("bhlm,bmhd->blhd", jax.nn.softmax(logits), v).reshape(2, 16, 8)
    expected = x + attention.heads.proj(out).reshape(x.shape)
    np.testing.assert_allclose(attention(x), expected, atol=1e-4)


def test_attention_starts_as_the_identity(x):
    attention = SelfAttention(8, num_groups=2, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(attention(x), x)


def test_attention_heads_must_divide_the_channels():
    with pytest.raises(ValueError, match="num_heads=3"):
        SelfAttention(8, 3, num_groups=2, rngs=nnx.Rngs(0))


def test_res_block_starts_as_its_skip_path(x):
    emb = jnp.ones((2, 16))
    block = ResBlock(8, 8, 16, num_groups=2, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(block(x, emb), x)


def test_downsample_pads_below_and_right_like_tensorflow():
    down = Downsample(1, rngs=nnx.Rngs(0))
    down.conv.kernel[...] = jnp.zeros((3, 3, 1, 1)).at[0, 0].set(1.0)
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    # the window's first corner falls on the even pixels themselves: nothing is padded before them
    np.testing.assert_array_equal(down(x)[0, :, :, 0], x[0, ::2, ::2, 0])


def test_upsample_repeats_each_pixel():
    up = Upsample(1, rngs=nnx.Rngs(0))
    up.conv.kernel[...] = jnp.zeros((3, 3, 1, 1)).at[1, 1].set(1.0)
    x = jnp.arange(4.0).reshape(1, 2, 2, 1)
    np.testing.assert_array_equal(up(x)[0, :, :, 0], x[0, :, :, 0].repeat(2, 0).repeat(2, 1))


def test_sinusoids_run_from_frequency_1_to_1_over_max_period():
    c_noise = jnp.array([0.0, 1.0, 999.0])
    embedding = sinusoidal(c_noise, 8, max_period=10_000.0)
    np.testing.assert_allclose(embedding[:, 0], np.sin([0.0, 1.0, 999.0]), atol=1e-4)
    np.testing.assert_allclose(
        embedding[:, 3], np.sin(np.array([0.0, 1.0, 999.0]) / 1e4), atol=1e-6
    )
    np.testing.assert_allclose(embedding[:, 4], np.cos([0.0, 1.0, 999.0]), atol=1e-4)


def test_an_odd_embedding_ends_in_zero():
    assert sinusoidal(jnp.ones(2), 5).shape == (2, 5)
    assert not sinusoidal(jnp.ones(2), 5)[:, -1].any()


def test_openais_sinusoids_have_cosines_first_and_stop_short_of_the_last_frequency():
    # guided-diffusion, nn.py: cos || sin of t * exp(-ln(10000) * i / half)
    t = np.array([3.0, 700.0])
    angles = t[:, None] * np.exp(-np.log(10_000) * np.arange(4) / 4)[None, :]
    expected = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    got = sinusoidal(jnp.asarray(t, jnp.float32), 8, cos_first=True, shift=0.0)
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_fourier_features_are_cosines_and_sines_of_their_frequencies():
    features = Fourier(scale=2.0, cos_first=True).make(8, rngs=nnx.Rngs(0))
    w = features.frequencies[...]
    assert w.shape == (4,)
    got = features(jnp.array([0.25, -1.0]))
    angles = 2 * np.pi * np.outer([0.25, -1.0], w)
    expected = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_a_one_hot_label_is_a_vector_of_length_sqrt_of_the_classes():
    label = OneHotLabel(3, 5, rngs=nnx.Rngs(0))
    label.linear.bias[...] = jnp.arange(5.0)
    got = label(jnp.array([2, -1, 3, -2]))
    np.testing.assert_allclose(got[0], np.sqrt(3) * label.linear.kernel[2] + jnp.arange(5.0))
    np.testing.assert_allclose(got[1], jnp.arange(5.0))  # the null class is the zero vector
    assert jnp.isnan(got[2:]).all()


def test_scale_shift_modulates_what_is_normalised(x):
    block = ResBlock(8, 8, 3, num_groups=2, scale_shift=True, skip_scale=0.5, rngs=nnx.Rngs(0))
    block.conv_out.kernel[...] = jnp.zeros((3, 3, 8, 8)).at[1, 1].set(jnp.eye(8))
    emb = jnp.ones((2, 3))
    scale, shift = jnp.split(block.emb_proj(nnx.silu(emb))[:, None, None, :], 2, axis=-1)
    h = block.norm_out(block.conv_in(nnx.silu(block.norm_in(x)))) * (1 + scale) + shift
    np.testing.assert_allclose(block(x, emb), 0.5 * (x + nnx.silu(h)), atol=1e-4)


def test_normalised_queries_and_keys_ignore_their_size(x):
    attention = SelfAttention(8, 2, num_groups=2, qk_norm=True, rngs=nnx.Rngs(0))
    attention.heads.proj.kernel[...] = jnp.eye(8)
    before = attention(x)
    attention.heads.query.kernel[...] *= 100.0
    np.testing.assert_allclose(attention(x), before, atol=1e-4)


def test_masked_tokens_of_a_context_do_not_matter(x):
    attention = CrossAttention(8, 5, 2, num_groups=2, rngs=nnx.Rngs(0))
    attention.heads.proj.kernel[...] = jnp.eye(8)
    context = jax.random.normal(jax.random.key(5), (2, 4, 5))
    mask = jnp.array([[True, True, False, False], [True, True, True, False]])
    y = attention(x, context, mask)
    np.testing.assert_allclose(attention(x[:1], context[:1, :2]), y[:1], atol=1e-5)
    changed = jnp.where(mask[:, :, None], context, 100.0)
    np.testing.assert_allclose(attention(x, changed, mask), y, atol=1e-5)
    assert jnp.abs(attention(x, changed) - y).max() > 1e-2


TAPS = [BOX, (1.0, 3.0, 3.0, 1.0), (1.0, 2.0, 5.0, 5.0, 2.0, 1.0)]


def plain_filter(x, taps, *, stride=1, dilation=1, padding):
    """The filter as one two-dimensional convolution of each channel with itself."""
    kernel = np.outer(taps, taps) / np.sum(taps) ** 2
    kernel = jnp.asarray(kernel, jnp.float32)[:, :, None, None].repeat(x.shape[-1], axis=3)
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(padding, padding)] * 2,
        lhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


@pytest.mark.parametrize("taps", TAPS)
def test_halving_is_a_convolution_of_stride_2(x, taps):
    expected = plain_filter(x, taps, stride=2, padding=len(taps) // 2 - 1)
    np.testing.assert_allclose(Halve(taps)(x), expected, atol=1e-5)


@pytest.mark.parametrize("taps", TAPS)
def test_doubling_is_a_convolution_between_zeros(x, taps):
    expected = 4 * plain_filter(x, taps, dilation=2, padding=len(taps) // 2)
    np.testing.assert_allclose(Double(taps)(x), expected, atol=1e-5)


def test_doubling_by_a_box_repeats_whatever_the_dimensions():
    x = jnp.arange(8.0).reshape(1, 2, 2, 2, 1)
    expected = np.asarray(x).repeat(2, 1).repeat(2, 2).repeat(2, 3)
    np.testing.assert_array_equal(Double()(x), expected)
    np.testing.assert_array_equal(Double((2.0, 2.0))(x), expected)  # by the general way


def test_a_pyramids_convolution_reaches_as_far_as_its_filter(x):
    pyramid = InputPyramid(8, 8, TAPS[1], rngs=nnx.Rngs(0))
    wide = jnp.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))
    kernel = pyramid.conv.kernel[...]
    numbers = ("NHWC", "HWIO", "NHWC")
    h = jax.lax.conv_general_dilated(wide, kernel, (1, 1), "VALID", dimension_numbers=numbers)
    expected = plain_filter(h, TAPS[1], stride=2, padding=0)
    np.testing.assert_allclose(pyramid(x), expected, atol=1e-4)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.999])
@pytest.mark.parametrize("channels", [1, 7, 64])
def test_dropout_zeroes_its_share_and_keeps_the_mean(rate, channels):
    ones = jnp.ones((40_000 // channels, channels))
    y, back = jax.vjp(lambda x: dropout(x, rate, jax.random.key(0)), ones)
    np.testing.assert_allclose(y[y != 0], 1 / (1 - rate), rtol=0.01)  # the rate is rounded
    spread = np.sqrt(rate * (1 - rate) / y.size)
    assert abs((y == 0).mean() - rate) < 4 * spread
    np.testing.assert_array_equal(back(ones)[0], y)  # the gradient has the same mask


def test_dropouts_two_values_to_a_word_have_nothing_in_common():
    y = dropout(jnp.ones((20_000, 2)), 0.5, jax.random.key(1)) - 1
    assert abs((y[:, 0] * y[:, 1]).mean()) < 4 / np.sqrt(20_000)


def test_without_a_key_or_a_rate_nothing_is_dropped(x):
    np.testing.assert_array_equal(dropout(x, 0.3, None), x)
    np.testing.assert_array_equal(dropout(x, 0.0, jax.random.key(0)), x)
    assert dropout(x.astype(jnp.bfloat16), 0.3, jax.random.key(0)).dtype == jnp.bfloat16
