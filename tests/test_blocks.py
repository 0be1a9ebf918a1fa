"""Each block against its plain formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from unet_flax import Downsample, GroupNorm, ResBlock, SelfAttention, Upsample, sinusoidal


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
