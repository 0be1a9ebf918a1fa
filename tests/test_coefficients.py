"""Constants that only a network sees, against the papers' formulas in float64."""

import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax import nnx

import diffusion as dm
from diffusion.denoiser import Preconditioning
from unet_flax import EDM2Config, Fourier, Sinusoidal, UNet, UNetConfig
from unet_flax.edm2 import MPBlock
from unet_flax.embeddings import LabelEmbedding
from unet_flax.magnitude import MPFourier, unit

TIMESTEP = np.array([0, 1, 40, 300, 700, 998, 999])
ALPHA_BAR = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[TIMESTEP]  # Ho et al. 2020, section 4
SIGMA = np.sqrt((1 - ALPHA_BAR) / ALPHA_BAR)
S, SMALLEST = 0.7, 0.02  # sigma_data, and sigma_min of the consistency model

T = SIGMA / (1 + SIGMA)  # of flow matching
ONE, ZERO = np.ones_like(SIGMA), np.zeros_like(SIGMA)
FORMULAS = [
    (  # Karras et al. 2022, table 1
        dm.EDM(S),
        S**2 / (SIGMA**2 + S**2),
        SIGMA * S / np.sqrt(S**2 + SIGMA**2),
        1 / np.sqrt(SIGMA**2 + S**2),
        np.log(SIGMA) / 4,
    ),
    # Ho et al. 2020: x_0 = (x - sqrt(1 - alpha_bar) eps) / sqrt(alpha_bar), x = sqrt(alpha_bar) x_t
    (dm.Eps(), ONE, -SIGMA, np.sqrt(ALPHA_BAR), TIMESTEP),
    (dm.X0(), ZERO, ONE, np.sqrt(ALPHA_BAR), TIMESTEP),
    # Salimans & Ho 2022, appendix D: x_0 = alpha x - sigma_vp v
    (dm.V(), ALPHA_BAR, -np.sqrt(1 - ALPHA_BAR), np.sqrt(ALPHA_BAR), TIMESTEP),
    (dm.Score(), ONE, SIGMA, ONE, np.log(SIGMA / 2)),  # Karras et al. 2022, table 1, column VE
    (dm.Velocity(), 1 - T, -T, 1 - T, 1000 * T),  # x_0 = z - t (eps - x_0)
    (  # Song et al. 2023, appendix C; c_noise in their code: 1000 * 0.25 * log(sigma)
        dm.Consistency(S, SMALLEST),
        S**2 / ((SIGMA - SMALLEST) ** 2 + S**2),
        S * (SIGMA - SMALLEST) / np.sqrt(S**2 + SIGMA**2),
        1 / np.sqrt(SIGMA**2 + S**2),
        1000 * 0.25 * np.log(SIGMA),
    ),
]


@pytest.mark.parametrize(
    ("preconditioning", "c_skip", "c_out", "c_in", "c_noise"),
    FORMULAS,
    ids=lambda value: type(value).__name__ if hasattr(value, "__dataclass_fields__") else "",
)
def test_a_preconditionings_coefficients_are_the_papers(
    preconditioning, c_skip, c_out, c_in, c_noise
):
    got = preconditioning(jnp.asarray(SIGMA, jnp.float32))
    for value, expected in zip(got[:3], (c_skip, c_out, c_in), strict=True):
        # sigma - sigma_min loses what float32 rounds from sigma = 0.01: 5e-8 of it
        np.testing.assert_allclose(value, expected, rtol=2e-6)
    # timesteps are interpolated in ln(sigma), which has 1e-4 of a step's digits near 0
    np.testing.assert_allclose(got.c_noise, c_noise, rtol=2e-6, atol=1e-2 * (c_noise is TIMESTEP))


def test_the_table_has_every_preconditioning():
    assert {type(row[0]) for row in FORMULAS} == set(typing.get_args(Preconditioning))


def test_published_values_are_the_defaults():
    assert dm.EDM() == dm.EDM(sigma_data=0.5)
    assert dm.Consistency() == dm.Consistency(sigma_data=0.5, sigma_min=0.002)
    assert dm.LogNormal() == dm.LogNormal(mean=-1.2, std=1.2)  # Karras et al. 2022, table 1
    assert Fourier().scale == 16  # Song et al. 2021 and Karras et al. 2022
    config = EDM2Config(64)  # Karras et al. 2023, table 6
    assert (config.label_balance, config.concat_balance) == (0.5, 0.5)
    assert (config.res_balance, config.attention_balance, config.largest) == (0.3, 0.3, 256)


def test_sinusoidal_features_are_ddpms():
    # Ho et al. 2020, get_timestep_embedding: exp(-ln(10000) i / (half - 1)), sines first
    frequency = np.exp(-np.log(10_000) * np.arange(4) / 3)
    angles = np.outer(TIMESTEP, frequency)
    got = Sinusoidal(channels=8)(jnp.asarray(TIMESTEP, jnp.float32))
    # an angle of 999 in float32 is rounded by 3e-5
    np.testing.assert_allclose(got, np.hstack([np.sin(angles), np.cos(angles)]), atol=1e-4)


WIDE = 4000


def is_drawn_from(values, distribution):
    return scipy.stats.kstest(np.ravel(values), distribution).pvalue > 1e-3


def test_fourier_frequencies_are_normal_with_the_scale():
    features = Fourier(scale=3.0, channels=2 * WIDE).make(8, rngs=nnx.Rngs(0))
    assert is_drawn_from(features.frequencies[...], scipy.stats.norm(0, 3).cdf)


def test_magnitude_preserving_frequencies_are_unit_normal_and_phases_whole_turns():
    features = MPFourier(WIDE, rngs=nnx.Rngs(0))
    assert is_drawn_from(features.frequencies[...], scipy.stats.norm().cdf)
    assert is_drawn_from(features.phases[...], scipy.stats.uniform().cdf)
    size = jnp.square(features(jnp.array([0.0, 0.3, -2.0]))).mean(1)
    np.testing.assert_allclose(size, 1.0, atol=5 * np.sqrt(0.5 / WIDE))  # Var[2 cos^2] = 1/2


def test_a_class_starts_as_a_unit_normal_vector():
    table = LabelEmbedding(3, WIDE // 4, rngs=nnx.Rngs(0)).table[...]
    assert is_drawn_from(table, scipy.stats.norm().cdf)


def test_a_vector_of_size_1e_4_is_brought_to_one_half():
    # Karras et al. 2023, equation 30: x / (epsilon + |x|), epsilon = 1e-4
    np.testing.assert_allclose(unit(jnp.full((1, 8), 1e-4)), 0.5, rtol=1e-5)


@pytest.mark.parametrize("is_encoder", [False, True])
def test_a_magnitude_preserving_block_clips_its_result(is_encoder):
    config = EDM2Config(4, channels=4, channel_mult=(1,), attention_resolutions=(), head_dim=4)
    block = MPBlock(config, 4, 4, 4, is_encoder=is_encoder, rngs=nnx.Rngs(0))
    x = 1e6 * jax.random.normal(jax.random.key(0), (1, 4, 4, 4))
    y = block(x, jnp.zeros((1, 4)), None)
    assert float(jnp.abs(y).max()) <= 256
    if not is_encoder:  # an encoder's block brings its input to unit size
        np.testing.assert_array_equal(jnp.abs(y), 256)


def test_an_embedding_is_four_times_as_wide_where_nothing_else_is_said():
    config = UNetConfig(8, channels=8, channel_mult=(1,), attention_resolutions=(), num_groups=4)
    unet = nnx.eval_shape(lambda: UNet(config, rngs=nnx.Rngs(0)))
    assert unet.embedding.linear_out.kernel.shape == (32, 32)  # Ho et al. 2020: 4 ch
