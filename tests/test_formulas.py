"""Formulas that few results depend on, each against its source."""

import dataclasses
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
import scipy.stats
from flax import nnx

import diffusion as dm
from configs import Adam
from diffusion.sampling import ode, pndm
from unet_flax import AttentionPool, CrossAttention, EDM2Config, ResBlock, Resize, UNetConfig
from unet_flax.blocks import ACTIVATIONS
from unet_flax.classic import Classifier, ConvBlock
from unet_flax.edm2 import Branch, EDM2UNet
from unet_flax.encoder import runner

KEY = jax.random.key(0)


def exact(weights):
    return [Fraction(weight).limit_denominator(10**6) for weight in weights]


def test_runge_kuttas_weights_meet_the_order_conditions():
    # Hairer, Norsett & Wanner 1993, section II.1: quadrature of powers, and rows that sum to nodes
    nodes, error = exact(ode._NODES), exact(ode._ERROR)
    fifth = [*exact(ode._STAGES[-1]), Fraction(0)]
    for power in range(5):
        moments = [node**power for node in nodes]
        assert sum(b * m for b, m in zip(fifth, moments, strict=True)) == Fraction(1, power + 1)
        if power < 4:  # the other solution is of order 4
            assert sum(e * m for e, m in zip(error, moments, strict=True)) == 0
    for node, stage in zip(nodes, ode._STAGES, strict=True):
        assert sum(exact(stage)) == node


def test_pseudo_multisteps_weights_are_exact_for_polynomials():
    for number, weights in enumerate(pndm.WEIGHTS, 1):
        for power in range(number):  # the estimates lie at 0, -1, -2, ... and the step is [0, 1]
            terms = [w * Fraction(-j) ** power for j, w in enumerate(exact(weights))]
            assert sum(terms) == Fraction(1, power + 1)


def test_runge_kuttas_step_has_simpsons_rule_where_eps_depends_on_sigma_alone():
    chain = dm.VPLinear()
    first, middle, last = (chain.table[timestep] for timestep in (800, 700, 600))
    sigmas = jnp.array([first, last, 0.0], jnp.float32)
    at = dm.StepContext(jnp.int32(0), sigmas, jnp.int32(2), KEY)
    sampler, x = pndm.PNDMFromRungeKutta(chain), jnp.ones((1, 2))
    got, _ = sampler.step(lambda x, sigma: x - sigma / (1 + sigma), x, sampler.init(x), at)
    mean = (1 / (1 + first) + 4 / (1 + middle) + 1 / (1 + last)) / 6
    np.testing.assert_allclose(got, np.full((1, 2), 1 + (last - first) * mean), rtol=1e-5)


@pytest.mark.parametrize(
    "sampler",
    [dm.Euler(eta=1.0), dm.Ancestral(0.0), dm.KDPM2(eta=1.0), dm.DPMSolverSDE(), dm.SASolver()]
    + [dm.DPMSolverSDE2S()],
    ids=lambda sampler: type(sampler).__name__,
)
def test_where_the_estimate_is_0_the_noise_has_the_reverse_sdes_variance(sampler):
    x_T, sigmas = 2.0 * jax.random.normal(KEY, (1, 40_000)), jnp.array([3.0, 2.0, 1.2, 0.9])
    got = sampler(lambda x, sigma: 0 * x, x_T, sigmas, jax.random.key(1))
    variance = 2.0**2
    for sigma, sigma_next in zip([3.0, 2.0, 1.2], [2.0, 1.2, 0.9], strict=True):
        q = sigma_next / sigma  # x <- q^2 x + sigma_next sqrt(1 - q^2) z
        variance = q**4 * variance + sigma_next**2 * (1 - q**2)
    assert float(got.var()) == pytest.approx(variance, rel=5 * np.sqrt(2 / 40_000))


def updates(optimizer, grads, params):
    """What the optimiser adds to the weights in each step."""
    state, added = optimizer.init(params), []
    for grad in grads:
        update, state = optimizer.update(
            jax.tree.map(lambda p, g=grad: g + 0 * p, params), state, params
        )
        added.append(jax.tree.map(np.asarray, update))
    return added


def test_the_learning_rate_rises_falls_and_ends_where_it_is_said():
    # the gradient is always 1, so Adam's step is the learning rate
    weight, steps = jnp.zeros(()), np.arange(14)
    warmup = 0.1 * np.minimum(steps / 4, 1)
    cosine = warmup * (1 + np.cos(np.pi * np.clip((steps - 4) / 8, 0, 1))) / 2
    got = updates(Adam(0.1, warmup_steps=4, decay_steps=12).make(), np.ones(14), weight)
    np.testing.assert_allclose(got, -cosine, atol=1e-6)
    root = warmup * np.sqrt(6 / np.maximum(steps, 6))  # Karras et al. 2023, equation 67
    got = updates(Adam(0.1, warmup_steps=4, sqrt_decay_steps=6).make(), np.ones(14), weight)
    np.testing.assert_allclose(got, -root, atol=1e-6)


def test_adams_moments_are_the_papers():
    grads, m, v = [1.0, 3.0, -2.0], 0.0, 0.0
    got = updates(Adam(0.1, b1=0.8, b2=0.95, eps=0.5).make(), grads, jnp.zeros(()))
    for t, (grad, update) in enumerate(zip(grads, got, strict=True), 1):
        m, v = 0.8 * m + 0.2 * grad, 0.95 * v + 0.05 * grad**2
        expected = -0.1 * m / (1 - 0.8**t) / (np.sqrt(v / (1 - 0.95**t)) + 0.5)
        np.testing.assert_allclose(update, expected, rtol=1e-5)


def test_the_optimiser_is_given_the_loss():
    def replace(grads, state, params=None, *, value, **_):
        return jax.tree.map(lambda grad: value + 0 * grad, grads), state

    optimizer, ema = (
        optax.GradientTransformationExtraArgs(optax.init_empty_state, replace),
        dm.EMA(),
    )
    step = dm.make_train_step(
        lambda params, x, c_noise, *, dropout_key=None: params["w"] * x,
        *(dm.EDM(), dm.LogNormal(), optimizer, ema),
    )
    state = dm.TrainState.create({"w": jnp.zeros(())}, optimizer, ema)
    state, metrics = step(state, {"image": jnp.ones((4, 1, 1, 1))}, KEY)
    assert metrics["loss"] > 0
    np.testing.assert_allclose(state.params["w"], metrics["loss"], rtol=1e-6)


def test_weights_of_drawn_timesteps_count_in_the_gradient_as_in_the_loss():
    noise = dm.ImportanceSampled(dm.VPLinear(4, beta_end=0.5), history=1, uniform_share=0.1)
    optimizer, ema = optax.sgd(0.0), dm.EMA()
    step = dm.make_train_step(
        lambda params, x, c_noise, *, dropout_key=None: params["w"] + 0 * x,
        *(dm.X0(noise.schedule), noise, optimizer, ema),
    )
    state = dm.TrainState.create({"w": jnp.zeros(())}, optimizer, ema, noise=noise)
    memory = {"losses": jnp.array([[0.1], [1.0], [2.0], [9.0]]), "counts": jnp.ones(4, jnp.int32)}
    state = dataclasses.replace(state, memory=memory)
    _, metrics = step(state, {"image": jnp.full((8, 1, 1, 1), 3.0)}, KEY)
    # every loss is (w - 3)^2 = 9, its slope -6, so both are their weights' mean times that
    assert abs(float(metrics["loss"]) - 9) > 0.1
    np.testing.assert_allclose(metrics["grad_norm"] / 6, metrics["loss"] / 9, rtol=1e-5)


def test_activations_are_their_formulas():
    x = np.linspace(-4, 4, 33)
    formulas = {
        "silu": x / (1 + np.exp(-x)),
        "mish": x * np.tanh(np.log1p(np.exp(x))),
        "gelu": x * scipy.special.ndtr(x),  # as PyTorch's default, without tanh
        "relu": np.maximum(x, 0),
    }
    assert formulas.keys() == ACTIVATIONS.keys()
    for name, expected in formulas.items():
        np.testing.assert_allclose(
            ACTIVATIONS[name](jnp.asarray(x, jnp.float32)), expected, atol=2e-6
        )


CENTRE = jnp.zeros((3, 3, 32, 32)).at[1, 1].set(jnp.eye(32))


def test_a_residual_blocks_branch_is_dropped_at_its_rate():
    x, emb = jax.random.normal(KEY, (2, 16, 16, 32)), jnp.zeros((2, 4))
    block = ResBlock(32, 32, 4, num_groups=2, dropout=0.3, rngs=nnx.Rngs(0))
    block.conv_out.kernel[...] = CENTRE
    branch = block(x, emb, jax.random.key(1)) - x
    share = float((jnp.abs(branch) < 1e-6).mean())
    assert share == pytest.approx(0.3, abs=5 * np.sqrt(0.21 / x.size))


def test_a_magnitude_preserving_branch_is_dropped_at_its_rate():
    config = EDM2Config(16, channels=32, channel_mult=(1,), attention_resolutions=(), head_dim=32)
    branch = Branch(dataclasses.replace(config, dropout=0.3), 32, 32, 4, rngs=nnx.Rngs(0))
    branch.conv_out.kernel[...] = CENTRE
    x = jax.random.normal(KEY, (2, 16, 16, 32))
    y = branch(x, jnp.zeros((2, 4)), jax.random.key(1))
    share = float((y == 0).mean())
    assert share == pytest.approx(0.3, abs=5 * np.sqrt(0.21 / x.size))


class Drawing(nnx.Module):
    """A block that returns a draw of its key."""

    def __call__(self, h, emb, dropout_key):
        return jax.random.uniform(dropout_key)


def test_every_block_has_a_dropout_key_of_its_own():
    config = UNetConfig(8, channels=8, channel_mult=(1,), attention_resolutions=(), num_groups=4)
    run = runner(config, jnp.zeros((1, 4)), KEY)
    draws = [float(run(Drawing(), jnp.zeros(()))) for _ in range(4)]
    assert len(set(draws)) == 4


def test_every_block_of_edm2_has_a_dropout_key_of_its_own():
    config = EDM2Config(4, 1, 4, (1,), 1, attention_resolutions=(), head_dim=4, dropout=0.5)
    unet = EDM2UNet(config, rngs=nnx.Rngs(0))
    call = lambda key: unet(jnp.zeros((1, 4, 4, 1)), jnp.zeros(1), dropout_key=key)  # noqa: E731
    operations = str(jax.make_jaxpr(call)(KEY))
    # encoder 1, middle 2, decoder 2
    assert operations.count("random_fold_in ") == operations.count("random_bits[") == 5


def test_attention_to_a_context_starts_as_its_scaled_input():
    x = jax.random.normal(KEY, (1, 4, 4, 8))
    attention = CrossAttention(8, 5, 2, num_groups=2, skip_scale=0.5, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(attention(x, jnp.ones((1, 3, 5))), 0.5 * x, rtol=1e-6)


def test_a_pools_positions_are_normal_with_a_variance_of_one_over_the_channels():
    pool = AttentionPool(100, 16, 3, 8, rngs=nnx.Rngs(0))
    values = np.ravel(pool.position[...])
    assert scipy.stats.kstest(values, scipy.stats.norm(0, 0.25).cdf).pvalue > 1e-3


def test_bilinear_resizing_keeps_a_ramp_a_ramp():
    up = Resize("bilinear").up(1, ResBlock, rngs=nnx.Rngs(0))
    up.conv.kernel[...] = jnp.zeros((3, 3, 1, 1)).at[1, 1].set(1.0)
    x = jnp.broadcast_to(jnp.arange(6.0)[None, None, :, None], (1, 4, 6, 1))
    inner = up(x)[0, 2, 1:-1, 0]
    np.testing.assert_allclose(jnp.diff(inner), 0.5, atol=1e-5)


def test_the_classic_block_ends_in_a_relu_and_keeps_nine_tenths_of_its_running_means():
    block = ConvBlock(2, 16, rngs=nnx.Rngs(0))
    x = jax.random.normal(KEY, (4, 8, 8, 2)) + 1
    mean = block.conv_1(x).mean((0, 1, 2))
    block.train()
    y = block(x)
    assert (y >= 0).all() and (y == 0).mean() > 0.3
    np.testing.assert_allclose(block.norm_1.mean[...], 0.1 * mean, rtol=1e-4, atol=1e-6)


def test_the_classic_classifier_answers_for_the_mean_of_its_features():
    classifier = Classifier(3, 1, 4, 1, rngs=nnx.Rngs(0))
    classifier.eval()
    x = jax.random.normal(KEY, (2, 8, 8, 1))
    features = classifier.encoder(x)[0].mean((1, 2))
    np.testing.assert_allclose(classifier(x), classifier.head(features), atol=1e-5)


@pytest.mark.parametrize(("label", "is_class"), [(0, True), (2, True), (3, False)])
def test_the_probability_of_no_class_is_nan(label, is_class):
    log_p = dm.log_probability(
        lambda p, x, c: p + 0 * x[:, :1], jnp.arange(3.0)[None], dm.EDM(), label
    )
    got = log_p(jnp.ones((2, 1)), jnp.float32(1))
    expected = jax.nn.log_softmax(jnp.arange(3.0))[label] if is_class else jnp.nan
    np.testing.assert_allclose(got, jnp.full(2, expected), rtol=1e-6)


def test_a_weighting_without_a_sigma_data_has_edms():
    sigma = jnp.array([0.01, 0.5, 30.0])
    expected = (sigma**2 + 0.5**2) / (sigma * 0.5) ** 2  # Karras et al. 2022, table 1
    np.testing.assert_allclose(dm.EDMWeighting()(sigma, jnp.ones(3)), expected, rtol=1e-6)


def test_a_rounded_timestep_is_the_nearest_or_the_one_strictly_below():
    chain = dm.VPChain(timestep_rounding="down")
    at, between = chain.table[[0, 5, 999]], np.sqrt(chain.table[5] * chain.table[6])
    sigma = jnp.asarray([*at, between], jnp.float32)
    np.testing.assert_array_equal(chain.timestep(sigma), [0, 4, 998, 5])
    nearest = dataclasses.replace(chain, timestep_rounding="nearest")
    np.testing.assert_array_equal(nearest.timestep(sigma[:3]), [0, 5, 999])


def test_sigmoid_betas_are_geodiffs():
    # diffusers, DDPMScheduler: sigmoid(linspace(-6, 6)) (end - start) + start
    chain = dm.VPChain(num_timesteps=50, beta_schedule="sigmoid", beta_start=0.01, beta_end=0.3)
    expected = scipy.special.expit(np.linspace(-6, 6, 50)) * (0.3 - 0.01) + 0.01
    np.testing.assert_allclose(chain.betas, expected, rtol=1e-12)


def test_a_chain_of_zero_terminal_snr_is_rescaled_as_published():
    # Lin et al. 2023, Algorithm 1
    chain = dm.VPChain(num_timesteps=20, beta_start=0.01, beta_end=0.3)
    root = np.sqrt(np.cumprod(1 - chain.betas))
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    got = dataclasses.replace(chain, zero_terminal_snr=True).table
    np.testing.assert_allclose(1 / np.sqrt(1 + got[:-1] ** 2), root[:-1], rtol=1e-9)


@pytest.mark.parametrize(
    ("process", "reached"),
    # Song et al. 2021, equations 32 and 29 at t = 1: the integral of beta is (0.1 + 20) / 2
    [(dm.VPContinuous, np.sqrt(np.expm1(10.05))), (dm.SubVP, 2 * np.sinh(10.05 / 2))],
)
def test_a_process_reaches_its_largest_sigma_by_the_end_or_is_refused(process, reached):
    assert process(sigma_max=0.999 * reached).time(0.999 * reached) < 1
    with pytest.raises(ValueError, match="lies beyond t = 1"):
        process(sigma_max=1.001 * reached)


def test_flow_times_are_even_before_their_shift():
    # Esser et al. 2024, equation 23, of times from 1 down to t_min
    t = np.linspace(1, 0.1, 10)[1:]
    shifted = 3 * t / (1 + 2 * t)
    got = dm.FlowTimes(shift=3.0, t_min=0.1)(10)
    np.testing.assert_allclose(got[1:-1], shifted / (1 - shifted), rtol=1e-6)
    assert float(got[0]) == pytest.approx(0.99999 / (1 - 0.99999), rel=1e-3)


@pytest.mark.parametrize(("strength", "num_steps"), [(0.29, 29), (0.001, 1), (0.996, 100)])
def test_the_share_of_the_steps_is_rounded_to_the_nearest_number(strength, num_steps):
    image = jnp.zeros((1, 2))  # 0.29 * 100 is 28.999999999999996
    _, rest = dm.begin_from(image, image, dm.Karras()(100), strength)
    assert len(rest) - 1 == num_steps
