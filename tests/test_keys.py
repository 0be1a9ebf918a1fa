"""One seed draws the same under every setting of JAX; old keys are refused in one line."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import diffusion as dm
import unet_flax
from commands import draw, pipeline
from diffusion.training.loss import loss
from unet_flax import EDM2Config, Fourier, OneHot, UNetConfig

OLD = jax.random.PRNGKey(0)
IMAGE = np.zeros((2, 8, 8, 1), np.float32)
GRID = jnp.array([1.0, 0.5, 0.0])


def network(params, x, c_noise, *, dropout_key=None, augment_label=None):
    return x * params["w"]


def train(key, image=IMAGE, noise=dm.LogNormal(), augment=dm.Flip()):  # noqa: B008
    optimizer, uncertainty = optax.adam(1e-3), dm.Uncertainty(8)
    step = dm.make_train_step(
        network, dm.EDM(), noise, optimizer, dm.EMA(), uncertainty=uncertainty, augment=augment
    )
    params = {"w": jnp.ones((), jnp.float32)}
    return step(
        dm.TrainState.create(params, optimizer, dm.EMA(), uncertainty), {"image": image}, key
    )


def zero(x_t, sigma):
    return 0 * x_t


@pytest.mark.parametrize(
    "use",
    [
        lambda key: train(key),
        lambda key: dm.Flip.__call__.__wrapped__(dm.Flip(), key, {"image": jnp.asarray(IMAGE)}),
        lambda key: dm.NonLeaky.__call__.__wrapped__(dm.NonLeaky(), key, {"image": IMAGE}),
        lambda key: loss(
            network, {"w": 1.0}, dm.EDM(), jnp.asarray(IMAGE), jnp.ones(2), jnp.asarray(IMAGE),
            dropout_key=key,
        ),
        lambda key: dm.log_density.__wrapped__(zero, jnp.asarray(IMAGE), key),
        lambda key: dm.bits_per_dim.__wrapped__(zero, jnp.zeros((2, 8, 8, 1), jnp.uint8), key),
        lambda key: dm.variational_bound.__wrapped__(
            zero, jnp.zeros((2, 8, 8, 1), jnp.uint8), GRID, key
        ),
        lambda key: dm.trajectory.__wrapped__(dm.Euler(), zero, jnp.asarray(IMAGE), GRID, key),
        *(
            lambda key, sampler=sampler: type(sampler).__call__.__wrapped__(
                sampler, zero, jnp.asarray(IMAGE), GRID, key
            )
            for sampler in (dm.Euler(), dm.Heun(), dm.Ancestral(), dm.RK45(), dm.RePaint())
        ),
    ],
)  # fmt: skip
def test_old_keys_are_refused_in_one_line(use):
    with pytest.raises(ValueError, match=r"key is an array of uint32; make it by jax\.random\.key"):
        use(OLD)


def test_keys_of_another_generator_draw_the_same_for_each_image():
    x_T = jnp.ones((6, 4, 4, 1))

    def images(impl, count):
        keys = jax.random.split(jax.random.key(5, impl=impl), 6)[:count]
        return dm.Ancestral()(zero, x_T[:count], GRID + 0.1, keys)

    whole = images("rbg", 6)
    np.testing.assert_array_equal(images("rbg", 2), whole[:2])
    np.testing.assert_array_equal(images("threefry2x32", 6), whole)


def test_images_do_not_depend_on_the_chunk_under_another_generator(run_dir):
    labels = np.arange(10, dtype=np.int32)
    trained = pipeline.read(run_dir)
    sampling = dataclasses.replace(trained.sampling, sampler=dm.Ancestral(), num_steps=3)
    trained = dataclasses.replace(trained, sampling=sampling)
    expected = draw.draw(trained, labels, seed=1)
    with jax.default_prng_impl("rbg"):
        for chunk_size in (4, 64):
            drawn = draw.draw(trained, labels, seed=1, chunk_size=chunk_size)
            np.testing.assert_array_equal(drawn, expected)


def same_under_x64(make):
    """What `make` makes without and with x64: the same, in float32."""
    plain = make()
    with jax.enable_x64(True):
        wide = make()
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(wide), strict=True):
        assert a.dtype == b.dtype, (a.dtype, b.dtype)
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)


NOISES = [
    *(dm.LogNormal(), dm.LogitNormal(), dm.UniformTime(), dm.Stratified(), dm.VPLinear()),
    *(dm.VPCosine(), dm.VPSigmoid(), dm.VPContinuous(), dm.SubVP(), dm.VE(), dm.Flow()),
    dm.Stratified(dm.VPCosine()),
]


@pytest.mark.parametrize("noise", NOISES, ids=lambda noise: type(noise).__name__)
def test_noise_levels_are_the_same_under_x64(noise):
    same_under_x64(lambda: noise(jax.random.key(1), (7,)))


@pytest.mark.parametrize("noise", NOISES[4:11], ids=lambda noise: type(noise).__name__)
def test_timesteps_are_the_same_type_under_x64(noise):
    same_under_x64(lambda: noise.timestep(jnp.array([0.1, 1.0, 5.0], jnp.float32)))


@pytest.mark.parametrize(
    ("augment", "dtype"),
    [
        (dm.Flip(), np.float64),
        (dm.NonLeaky(1.0), np.float32),
        pytest.param(dm.Flip(), np.float32, marks=pytest.mark.slow),
        pytest.param(dm.NonLeaky(1.0), np.float64, marks=pytest.mark.slow),
    ],
)
def test_a_training_step_is_the_same_under_x64(augment, dtype):
    image = np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 1)).astype(dtype)
    same_under_x64(lambda: train(jax.random.key(2), image, augment=augment))


BASE = dict(image_size=4, in_channels=1, channels=4, channel_mult=(1,), attention_resolutions=())


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(UNetConfig(**BASE, num_groups=2, num_classes=3), marks=pytest.mark.slow),
        UNetConfig(**BASE, num_groups=2, num_classes=3, label=OneHot(), noise_features=Fourier()),
        pytest.param(EDM2Config(**BASE, head_dim=4, num_classes=3), marks=pytest.mark.slow),
    ],
)
def test_weights_and_outputs_are_the_same_under_x64(config):
    def make():
        @jax.jit
        def of_seed():
            unet = unet_flax.make(config, nnx.Rngs(0))
            x, sigma = jnp.ones((2, 4, 4, 1), jnp.float32), jnp.zeros(2, jnp.float32)
            return unet_flax.functional(unet)[1], unet(x, sigma, label=jnp.zeros(2, jnp.int32))

        return of_seed()

    same_under_x64(make)
