"""Laws of classifiers of noisy images, and of guidance by them."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import compiled, drawn
from flax import nnx
from oracles import mixture
from test_readme import snippets

import diffusion as dm
import unet_flax
from unet_flax import AttentionPool, Middle, UNetClassifierConfig, UNetConfig

UNET = UNetConfig(
    image_size=8,
    in_channels=2,
    channels=8,
    channel_mult=(1, 2),
    num_res_blocks=1,
    attention_resolutions=(4,),
    num_groups=4,
    scale_shift=True,
    resampling=unet_flax.Residual(),
)
CONFIG = UNetClassifierConfig(UNET, num_classes=5, pool_head_dim=4)
X = jnp.asarray(np.random.default_rng(0).standard_normal((3, 8, 8, 2)), jnp.float32)
C_NOISE = jnp.array([0.1, 0.5, 2.0])


@pytest.fixture(scope="module")
def classifier():
    return drawn(nnx.eval_shape(lambda: unet_flax.make(CONFIG, nnx.Rngs(0))))


def test_before_training_every_class_has_the_same_probability():
    fresh = unet_flax.make(CONFIG, nnx.Rngs(0))
    np.testing.assert_array_equal(compiled(fresh)(X, C_NOISE), jnp.zeros((3, 5)))


def test_permuting_the_batch_permutes_the_logits(classifier):
    order = jnp.array([2, 0, 1])
    logits = compiled(classifier)(X, C_NOISE)
    permuted = compiled(classifier)(X[order], C_NOISE[order])
    np.testing.assert_allclose(permuted, logits[order], rtol=1e-4, atol=1e-4)
    other = compiled(classifier)(X, C_NOISE + 1)
    assert logits.dtype == jnp.float32 and (jnp.abs(other - logits).max(1) > 1e-3).all()


def test_centring_maps_images_in_0_to_1_onto_minus_1_to_1():
    small = dict(image_size=4, in_channels=1, channels=4, channel_mult=(1,), num_res_blocks=1)
    small |= dict(attention_resolutions=(), num_groups=4, middle=Middle(exists=False))

    def logits(x, **options):  # the drawn weights are equal
        config = UNetClassifierConfig(
            UNetConfig(**small, **options), num_classes=3, pool_head_dim=4
        )
        module = nnx.eval_shape(lambda: unet_flax.make(config, nnx.Rngs(0)))
        return compiled(drawn(module))(x, jnp.ones(2))

    x = jnp.asarray(np.random.default_rng(0).random((2, 4, 4, 1)), jnp.float32)
    np.testing.assert_allclose(logits(x, center_input=True), logits(2 * x - 1), atol=1e-5)


def test_every_parameter_has_a_gradient(classifier):
    network, params = unet_flax.functional(classifier)
    total = jax.jit(jax.grad(lambda p: jnp.square(network(p, X, C_NOISE)).sum()))
    for path, gradient in jax.tree.leaves_with_path(total(params)):
        # a key's bias adds the same to all logits of a query, which the softmax takes out
        is_key_bias = "key" in jax.tree_util.keystr(path) and gradient.ndim == 1
        assert is_key_bias or jnp.abs(gradient).max() > 0, path


def test_its_parameters_make_the_module_again(classifier):
    _, params = unet_flax.functional(classifier)
    again = unet_flax.module(CONFIG, params)
    np.testing.assert_array_equal(compiled(again)(X, C_NOISE), compiled(classifier)(X, C_NOISE))


def test_the_pool_is_attention_of_the_mean_position():
    """Against the formula of Vaswani et al. 2017, section 3.2, head by head in numpy."""
    pool = drawn(AttentionPool(6, 8, 3, head_dim=4, rngs=nnx.Rngs(0)))
    x = np.random.default_rng(1).standard_normal((2, 2, 3, 8))
    weights = jax.tree.map(np.asarray, unet_flax.functional(pool)[1])
    tokens = x.reshape(2, 6, 8)
    tokens = np.concatenate([tokens.mean(1, keepdims=True), tokens], 1) + weights["position"]
    heads = weights["heads"]
    q, k, v = (tokens @ heads[n]["kernel"] + heads[n]["bias"] for n in ("query", "key", "value"))
    parts = []
    for head in (slice(0, 4), slice(4, 8)):
        logits = np.einsum("bd,bld->bl", q[:, 0, head], k[..., head]) / 2
        share = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        parts.append(np.einsum("bl,bld->bd", share, v[..., head]))
    expected = np.concatenate(parts, 1) @ heads["proj"]["kernel"] + heads["proj"]["bias"]
    np.testing.assert_allclose(pool(jnp.asarray(x, jnp.float32)), expected, atol=1e-5)


def of(**changes):
    return UNetConfig(**dict(image_size=8, channels=8, channel_mult=(1,), num_groups=4,
                             attention_resolutions=()) | changes)  # fmt: skip


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: UNetClassifierConfig(of(num_classes=3), 5), "unet takes label"),
        (lambda: UNetClassifierConfig(of(self_conditioning=True), 5), "unet takes x_0_hat"),
        (lambda: UNetClassifierConfig(of(), 5), "pool_head_dim=64 does not divide the width 8"),
        (lambda: UNetClassifierConfig(of(), 0, 8), "num_classes=0"),
        (
            lambda: unet_flax.make(UNetClassifierConfig(of(image_size=None), 5, 8), nnx.Rngs(0)),
            "image_size=None is not known yet",
        ),
        (lambda: log_p(-1), "label=-1"),
    ],
)
def test_impossible_settings_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_images_of_another_size_are_refused(classifier):
    with pytest.raises(ValueError, match="do not fit this network"):
        classifier(X[:, :4], C_NOISE)


# the mixture of three Gaussians in the plane of `oracles`, and its classes' exact log-odds
MEANS, WEIGHTS, STD = (
    np.array([[-1.0, 0.5], [0.8, 0.8], [0.3, -1.0]]),
    np.array([0.3, 0.5, 0.2]),
    0.25,
)


def exact_classifier(params, x, c_noise):
    """Logits of the class given x_t = x, under `dm.Score`, whose c_noise is ln(sigma / 2)."""
    variance = STD**2 + (2 * jnp.exp(c_noise)) ** 2
    squared = jnp.square(x[:, None, :] - jnp.asarray(MEANS, x.dtype)[None]).sum(-1)
    return params + jnp.log(jnp.asarray(WEIGHTS, x.dtype))[None] - squared / (2 * variance[:, None])


def log_p(label):
    return dm.log_probability(exact_classifier, jnp.float32(0.0), dm.Score(), label)


PLANE = jnp.asarray(np.random.default_rng(0).standard_normal((50, 2)), jnp.float32)


@pytest.mark.parametrize("sigma", [0.1, 1.0, 5.0])
def test_the_classes_probabilities_are_one_together(sigma):
    total = sum(jnp.exp(log_p(label)(PLANE, jnp.float32(sigma))) for label in range(3))
    np.testing.assert_allclose(total, 1.0, rtol=1e-5)
    labels = jnp.asarray(np.arange(50) % 3, jnp.uint8)
    each = jnp.stack([log_p(label)(PLANE, jnp.float32(sigma)) for label in range(3)])
    together = log_p(labels)(PLANE, jnp.float32(sigma))
    np.testing.assert_allclose(together, each[np.arange(50) % 3, np.arange(50)], rtol=1e-5)
    assert jnp.isnan(log_p(3)(PLANE, jnp.float32(sigma))).all()


@pytest.mark.parametrize("label", [0, 1, 2])
def test_guidance_by_the_exact_classifier_is_the_denoiser_of_the_class(label):
    sigma = jnp.linspace(0.1, 5.0, 50)
    guided = dm.classifier_guided(mixture, log_p(label))(PLANE, sigma)
    mean, gain = jnp.asarray(MEANS[label], jnp.float32)[None], STD**2 / (STD**2 + sigma**2)
    np.testing.assert_allclose(guided, mean + gain[:, None] * (PLANE - mean), atol=2e-5)


def test_guided_samples_are_those_of_the_class_and_a_scale_of_0_changes_nothing():
    sigmas = dm.Karras(0.01, 20.0)(30)
    x_T = sigmas[0] * jax.random.normal(jax.random.key(0), (5000, 2))
    draw = lambda denoise: dm.Heun()(denoise, x_T, sigmas, jax.random.key(1))  # noqa: E731
    samples = draw(dm.classifier_guided(mixture, log_p(2)))
    # the standard error of a mean is 0.25 / sqrt(5000) = 0.0035, of a deviation 0.0025
    np.testing.assert_allclose(samples.mean(0), MEANS[2], atol=0.015)
    np.testing.assert_allclose(samples.std(0), STD, atol=0.015)
    unguided = draw(dm.classifier_guided(mixture, log_p(2), scale=0.0))
    np.testing.assert_allclose(unguided, draw(mixture), atol=1e-6)


def test_new_weights_labels_and_scales_compile_nothing():
    traces = []

    def traced(params, x, c_noise):
        traces.append(1)
        return exact_classifier(params, x, c_noise)

    def run(weights, label, scale):
        one = dm.log_probability(traced, jnp.float32(weights), dm.Score(), label)
        denoise = dm.classifier_guided(mixture, one, scale)
        return dm.Euler()(denoise, PLANE, dm.Karras()(5), jax.random.key(0))

    run(0.0, 1, 1.0)
    before = len(traces)
    run(1.0, 2, 3.0)
    assert len(traces) == before


def test_the_page_trains_a_classifier_and_guides_with_it():
    page = Path(__file__).parent.parent / "docs" / "samplers.md"
    (snippet,) = snippets(page.read_text())
    # smaller, since compiling is what it costs
    snippet = snippet.replace("channel_mult=(1, 2)", "channel_mult=(1,)")
    snippet = snippet.replace("attention_resolutions=(4,)", "attention_resolutions=()")
    names = {"denoise": lambda x_t, sigma: x_t / (1 + sigma**2)}
    exec(snippet, names)
    assert np.mean(names["losses"][-5:]) < 0.9 * names["losses"][0]

    @jax.jit
    def rise(x_t):
        """By how much a step towards the guided estimate raises the log-probability."""
        sigma = jnp.float32(1.0)
        towards = x_t + 0.1 * (names["guided"](x_t, sigma) - x_t)
        return names["log_p"](towards, sigma) - names["log_p"](x_t, sigma)

    assert (rise(jnp.zeros((2, 8, 8, 1))) > 0).all()
