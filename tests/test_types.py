"""Types of what comes in: labels of any integer type are the same classes; images are floats."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import diffusion as dm
import unet_flax
from diffusion.data import ImageArrays
from diffusion.pixels import from_pixels, to_pixels
from diffusion.training.loss import loss
from diffusion.training.step import drop_label
from unet_flax import EDM2Config, OneHot, Table, UNetConfig
from unet_flax.embeddings import as_int32

TYPES = [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.int64, np.uint64]
BASE = dict(image_size=4, in_channels=1, channels=4, channel_mult=(1,), attention_resolutions=())
CONFIGS = {
    "table": UNetConfig(**BASE, num_groups=2, num_res_blocks=1, num_classes=100, label=Table()),
    "one_hot": UNetConfig(**BASE, num_groups=2, num_res_blocks=1, num_classes=100, label=OneHot()),
    "edm2": EDM2Config(**BASE, head_dim=4, num_res_blocks=1, num_classes=100),
}
LABELS = [0, 3, 99, 100, 127]


@pytest.fixture(scope="module", params=CONFIGS)
def embed(request):
    """What a label becomes in a network, as a function."""
    network, params = unet_flax.functional(
        nnx.jit(lambda: unet_flax.make(CONFIGS[request.param], nnx.Rngs(0)))()
    )

    def shaken(leaf):  # at initialisation the output is zero
        return leaf + 0.1 * jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape)

    params = jax.tree.map(shaken, params)

    def embed(label):
        x = jnp.ones((label.shape[0], 4, 4, 1))
        return network(params, x, jnp.zeros(label.shape[0]), label=label)

    return embed, jax.jit(embed)


FEW = (np.uint8, np.int64)


@pytest.mark.parametrize(
    "dtype", [t if t in FEW else pytest.param(t, marks=pytest.mark.slow) for t in TYPES]
)
def test_a_class_is_the_same_in_every_integer_type(embed, dtype):
    _, jitted = embed
    expected = jitted(jnp.asarray(LABELS, jnp.int32))
    assert np.isnan(expected[3:]).all() and not np.isnan(expected[:3]).any()
    label = np.asarray(LABELS, dtype)
    np.testing.assert_array_equal(jitted(label), expected)


@pytest.mark.slow
def test_a_class_of_uint8_is_the_same_uncompiled(embed):
    eager, jitted = embed
    label = jnp.asarray(LABELS[:3], jnp.uint8)  # sums are rounded otherwise
    np.testing.assert_allclose(eager(label), jitted(label.astype(jnp.int32)), atol=1e-5)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit])
def test_a_dropped_label_is_the_null_class_in_every_integer_type(dtype, wrap):
    drop = wrap(lambda label: drop_label(jax.random.key(0), label, 0.5))
    label = np.arange(100)
    got = drop(jnp.asarray(label.astype(dtype)))
    np.testing.assert_array_equal(got, drop(jnp.asarray(label.astype(np.int32))))
    assert got.dtype == jnp.int32 and (got == -1).any() and (got >= 0).any()


def test_a_label_beyond_int32_stays_no_class():
    label = jnp.asarray([2**32 - 1, 5], jnp.uint32)  # as int32 the first would be -1
    assert drop_label(jax.random.key(0), label, 0.0).tolist() == [2**31 - 1, 5]
    assert as_int32(label).tolist() == [2**31 - 1, 5]


def network(params, x, c_noise, *, label=None, dropout_key=None):
    return x * params["w"]


def step_of(batch):
    step = dm.make_train_step(
        network, dm.Eps(), dm.LogNormal(), optax.sgd(0.1), dm.EMA(), label_dropout=0.5
    )
    state = dm.TrainState.create({"w": jnp.ones(())}, optax.sgd(0.1), dm.EMA())
    return step(state, batch, jax.random.key(0))


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.bool_])
def test_images_of_integers_are_refused_by_the_step(dtype):
    with pytest.raises(ValueError, match="the batch's 'image' of type .* must be float"):
        step_of({"image": np.zeros((2, 4, 4, 1), dtype)})


def test_a_batch_without_images_is_refused():
    with pytest.raises(ValueError, match=r"no 'image', only \['pixels'\]"):
        step_of({"pixels": np.zeros((2, 4, 4, 1), np.float32)})


PIXELS = np.zeros((2, 4, 4, 1), np.uint8)
SIGMAS = jnp.array([1.0, 0.5, 0.0])


@pytest.mark.parametrize(
    "use",
    [
        lambda: loss.__wrapped__(network, {"w": 1.0}, dm.Eps(), PIXELS, jnp.ones(2), PIXELS),
        lambda: dm.inpaint.__wrapped__(network, PIXELS, PIXELS[..., 0] > 0),
        lambda: dm.super_resolve.__wrapped__(network, PIXELS),
        lambda: dm.begin_from.__wrapped__(PIXELS, PIXELS, SIGMAS, 0.5),
        lambda: dm.invert.__wrapped__(network, PIXELS, SIGMAS),
        lambda: dm.ddpm_invert.__wrapped__(network, PIXELS, SIGMAS, jax.random.key(0)),
        lambda: dm.null_text_invert.__wrapped__(
            network, lambda null: network, jnp.zeros(1), PIXELS, SIGMAS
        ),
        lambda: dm.log_density.__wrapped__(network, PIXELS, jax.random.key(0)),
        lambda: to_pixels.__wrapped__(PIXELS),
    ],
)
def test_images_of_integers_are_refused_by_name(use):
    # __wrapped__: as it is used, without the checks of types that the tests switch on
    with pytest.raises(ValueError, match="of type uint8 must be float"):
        use()


def arrays_of(pixels, labels=None):
    """ImageArrays without the checks of types that the tests switch on."""
    arrays = object.__new__(ImageArrays)
    fields = dict(pixels=pixels, labels=labels, label_names=(), batch_size=2, conditions={})
    for name, value in fields.items():
        object.__setattr__(arrays, name, value)
    arrays.__post_init__()


def test_pixels_that_are_no_bytes_are_refused():
    arrays_of(PIXELS, np.zeros(2, np.uint8))
    for make in (from_pixels.__wrapped__, arrays_of):
        for dtype in (np.float32, np.int32):
            with pytest.raises(ValueError, match=r"pixels of type (float|int)32 must be uint8"):
                make(PIXELS.astype(dtype))
    with pytest.raises(ValueError, match=r"must be \(N, H, W, C\)"):
        arrays_of(PIXELS[..., 0])
    with pytest.raises(ValueError, match="labels of type float32"):
        arrays_of(PIXELS, np.zeros(2, np.float32))
