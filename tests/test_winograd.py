"""Laws of the convolutions with half the products."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import export

from unet_flax import UNet, UNetConfig, blocks, edm2, winograd


def plain(x, kernel):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=winograd.LAYOUT
    )


def drawn(*shape, out=6):
    """Images and a kernel; what they give has unit variance."""
    x = jax.random.normal(jax.random.key(0), (2, *shape))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, shape[-1], out)) / np.sqrt(9 * shape[-1])
    return x, kernel


@pytest.mark.parametrize("shape", [(16, 16, 5), (3, 4, 5), (1, 8, 64), (28, 20, 1)])
def test_is_the_plain_convolution(shape):
    x, kernel = drawn(*shape)
    y = winograd.winograd(x, kernel)
    # five standard deviations of POINTS' rounding and of the plain sum's
    np.testing.assert_allclose(y, plain(x, kernel), atol=5e-6)


def test_what_is_chosen_is_the_plain_convolution():
    x, kernel = drawn(32, 32, 64, out=64)
    assert winograd.is_faster(x, kernel, "cpu")
    # a tile's first output rounds most, by a standard deviation of 1e-6: ten of them
    np.testing.assert_allclose(winograd.winograd(x, kernel), plain(x, kernel), atol=1e-5)


def in_order(x, kernel):
    """The plain convolution of the first image, each float32 sum added up term by term."""
    padded = np.pad(np.asarray(x[0]), ((1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(0, 1))
    terms = np.moveaxis(windows, 2, -1)[..., None] * np.asarray(kernel)  # (H, W, 3, 3, C, out)
    terms = terms.reshape(*x.shape[1:3], -1, kernel.shape[-1])
    return np.cumsum(terms, axis=2, dtype=np.float32)[:, :, -1]


def test_rounds_less_than_twice_as_much_as_a_sum_in_order():
    # XLA's own convolution adds up as many partial sums as the processor has lanes, so how much it
    # rounds differs between machines
    x, kernel = drawn(32, 32, 128)
    with jax.enable_x64(True):
        exact = plain(x.astype(jnp.float64), kernel.astype(jnp.float64))
    exact = np.asarray(exact)[0]
    ours = np.std(winograd.winograd(x, kernel)[0] - exact)
    assert ours < 2 * np.std(in_order(x, kernel) - exact)


@pytest.mark.parametrize("points", [(0.0, 1.0, -1.0), (0.0, 1.0, -1.0, 2.0, -0.5), winograd.POINTS])
def test_its_transforms_multiply_polynomials(points):
    A_T, G, B_T = winograd.transforms(points)
    rng = np.random.default_rng(0)
    taps, values = rng.standard_normal(3), rng.standard_normal(len(points) + 1)
    expected = np.correlate(values, taps, "valid")
    np.testing.assert_allclose(
        A_T @ ((G @ taps) * (B_T @ values)), expected, rtol=1e-12, atol=1e-13
    )


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
    ):
        ours, theirs = map(derivative, both)
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_array_equal(a, b)


def test_has_second_derivatives():
    x, kernel = drawn(8, 8, 5)

    def product(convolve):
        """Of the second derivative and a direction."""
        gradient = jax.grad(lambda x: jnp.sin(convolve(x, kernel)).sum())
        return jax.jvp(gradient, (x,), (jnp.cos(x),))[1]

    # unit variance: as for values
    np.testing.assert_allclose(product(winograd.winograd), product(plain), atol=1e-5)


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
    assert not choose(*shapes(64, 32, 32, 64), "cpu")
    assert not choose(*shapes(1, 16, 16, 512, kernel=(3, 3, 512, 512)), "cpu")


@pytest.mark.parametrize("sizes", ["b, 16, 16, 64", "2, h, 4*w, 64"])
def test_sizes_may_be_symbols(sizes):
    conv = blocks.conv(64, 64, rngs=nnx.Rngs(0))
    x = jax.ShapeDtypeStruct(export.symbolic_shape(sizes), jnp.float32)
    image = jax.random.normal(jax.random.key(0), (2, 16, 16, 64))
    called = export.export(jax.jit(lambda x: conv(x)))(x).call(image)
    np.testing.assert_allclose(called, conv(image), atol=1e-5)


def test_images_may_lie_on_several_devices():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    x, kernel = jax.random.normal(jax.random.key(0), (4, 16, 16, 64)), drawn(16, 16, 64)[1]
    whole = jax.jit(winograd.winograd)(x, kernel)
    parts = jax.jit(winograd.winograd, in_shardings=(split, None), out_shardings=split)(x, kernel)
    assert parts.sharding == split
    np.testing.assert_allclose(parts, whole, atol=1e-5)  # products in another order


def test_takes_the_precision_that_it_is_told():
    conv = blocks.conv(64, 64, precision="highest", rngs=nnx.Rngs(0))
    text = str(jax.make_jaxpr(conv)(jnp.zeros((1, 16, 16, 64))))
    assert text.count("precision=(Precision.HIGHEST, Precision.HIGHEST)") == 6


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
