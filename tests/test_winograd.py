"""Laws of the convolutions with half the products."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from unet_flax import UNet, UNetConfig, blocks, edm2, winograd


def plain(x, kernel):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=winograd.LAYOUT
    )


def drawn(*shape):
    x = jax.random.normal(jax.random.key(0), (2, *shape))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, shape[-1], 6)) / np.sqrt(9 * shape[-1])
    return x, kernel


@pytest.mark.parametrize("shape", [(16, 16, 5), (3, 4, 5), (1, 8, 64), (28, 20, 1)])
def test_is_the_plain_convolution(shape):
    x, kernel = drawn(*shape)
    y = winograd.winograd(x, kernel)
    # five standard deviations of POINTS' rounding and of the plain sum's
    np.testing.assert_allclose(y, plain(x, kernel), atol=5e-6)


def test_rounds_less_than_twice_as_much():
    x, kernel = drawn(32, 32, 128)
    with jax.enable_x64(True):
        exact = plain(x.astype(jnp.float64), kernel.astype(jnp.float64))
    exact = np.asarray(exact)
    ours, theirs = (np.std(f(x, kernel) - exact) for f in (winograd.winograd, plain))
    assert ours < 2 * theirs


@pytest.mark.parametrize("num_taps", [2, 3, 5])
def test_its_transforms_multiply_polynomials(num_taps):
    A_T, G, B_T = winograd.transforms((0.0, 1.0, -1.0, 2.0, -0.5), num_taps)
    rng = np.random.default_rng(0)
    taps, values = rng.standard_normal(num_taps), rng.standard_normal(6)
    expected = np.correlate(values, taps, "valid")
    np.testing.assert_allclose(A_T @ ((G @ taps) * (B_T @ values)), expected, rtol=1e-12)


def test_has_the_derivatives_of_the_plain_convolution():
    x, kernel = drawn(8, 8, 5)
    dx, dkernel = jnp.cos(x), jnp.cos(kernel)

    def loss(convolve, x, kernel):
        return jnp.sin(convolve(x, kernel)).sum()

    both = [partial(loss, winograd.winograd), partial(loss, plain)]
    for derivative in (
        lambda f: jax.grad(f, (0, 1))(x, kernel),
        lambda f: jax.grad(f)(x, kernel),
        lambda f: jax.grad(f, 1)(x, kernel),
        lambda f: jax.jvp(f, (x, kernel), (dx, dkernel)),
        lambda f: jax.jvp(jax.grad(f), (x, kernel), (dx, dkernel)),
    ):
        ours, theirs = map(derivative, both)
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)  # of sums of 768


def test_a_gradient_of_the_image_alone_computes_none_of_the_kernel():
    x, kernel = drawn(8, 8, 5)
    text = str(jax.make_jaxpr(jax.grad(lambda x: winograd.winograd(x, kernel).sum()))(x))
    assert text.count("conv_general_dilated[") == 2


def test_maps_over_networks_and_over_examples():
    x, kernel = drawn(8, 8, 5)
    kernels = jnp.stack([kernel, -2 * kernel])

    def gradient(x, kernel):
        return jax.grad(lambda k: jnp.sin(winograd.winograd(x[None], k)).sum())(kernel)

    mapped = jax.vmap(gradient, (0, None))(x, kernel)
    for image, one in zip(x, mapped, strict=True):
        np.testing.assert_allclose(one, gradient(image, kernel), atol=1e-4)
    y = jax.vmap(winograd.winograd, (None, 0))(x, kernels)
    np.testing.assert_allclose(y[1], -2 * y[0], atol=1e-5)


def shapes(*image, kernel=(3, 3, 64, 64), dtype=jnp.float32):
    return jax.ShapeDtypeStruct(image, dtype), jax.ShapeDtypeStruct(kernel, dtype)


def test_is_chosen_where_it_can_be_computed_and_is_faster():
    choose = winograd.is_faster
    fits = shapes(8, 32, 32, 64)
    assert choose(*fits, "cpu")
    assert not choose(*fits, "gpu")
    assert not choose(*shapes(8, 32, 32, 64, dtype=jnp.bfloat16), "cpu")
    assert not choose(*shapes(8, 32, 30, 64), "cpu")
    assert not choose(*shapes(8, 8, 8, 64), "cpu")
    assert not choose(*shapes(8, 32, 32, 3, kernel=(3, 3, 3, 64)), "cpu")
    assert not choose(*shapes(8, 32, 32, 64, kernel=(1, 1, 64, 64)), "cpu")
    assert not choose(*shapes(8, 32, 32, 32, 64, kernel=(3, 3, 3, 64, 64)), "cpu")


def counted(jaxpr):
    return str(jaxpr).count("conv_general_dilated[")


@pytest.mark.parametrize("strides", [1, 2])
def test_networks_take_it_but_for_strides(strides):
    conv = blocks.conv(64, 64, strides=strides, rngs=nnx.Rngs(0))
    x = jnp.zeros((1, 16, 16, 64))
    assert counted(jax.make_jaxpr(conv)(x)) == (6 if strides == 1 else 1)
    mp_conv = edm2.MPConv(64, 64, 3, rngs=nnx.Rngs(0))
    assert counted(jax.make_jaxpr(mp_conv)(x)) == 6


def test_a_network_has_the_same_output_either_way(monkeypatch):
    config = UNetConfig(image_size=16, channels=64, channel_mult=(1, 1), num_res_blocks=1)
    graph, state = nnx.split(UNet(config, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    state = jax.tree.map(
        lambda leaf: leaf + 0.05 * rng.standard_normal(leaf.shape, np.float32), state
    )  # or zeros hide all
    x = jax.random.normal(jax.random.key(2), (2, 16, 16, 3))

    def forward():
        return jax.jit(lambda state, x: nnx.merge(graph, state)(x, jnp.ones(2)))(state, x)

    fast = forward()
    monkeypatch.setattr(winograd, "is_faster", lambda *_: False)
    slow = forward()
    assert jnp.abs(fast - slow).max() > 0
    np.testing.assert_allclose(fast, slow, atol=1e-5 * float(jnp.abs(slow).max()))


@pytest.mark.parametrize("settings", [{"kernel_dilation": 2}, {"feature_group_count": 2}])
def test_dilation_and_groups_are_heeded(settings):
    conv = partial(nnx.Conv, 128, 128, (3, 3), **settings)
    x = jax.random.normal(jax.random.key(0), (1, 16, 16, 128))
    ours = conv(conv_general_dilated=winograd.convolve, rngs=nnx.Rngs(0))
    theirs = conv(rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(ours(x), theirs(x))
