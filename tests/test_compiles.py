"""Laws of compiling: one loop for a kind of sampler, whatever its numbers are."""

import jax
import jax.numpy as jnp
import pytest
from sampler_table import VARIANTS, with_other_numbers

import diffusion as dm

# one of each kind and each static field: the others differ in their numbers alone
DISTINCT = {jax.tree.structure(sampler): sampler for sampler in VARIANTS}.values()
REPAINTS = (
    dm.RePaint(dm.Heun()),
    dm.RePaint(dm.Heun(churn=5.0), num_resample=3, jump_length=2),
)
PAIRS = [*((sampler, with_other_numbers(sampler)) for sampler in DISTINCT), REPAINTS]


@pytest.mark.parametrize(("sampler", "other"), PAIRS, ids=repr)
def test_new_weights_seeds_labels_scales_settings_and_steps_compile_nothing(sampler, other):
    traces = []

    def network(params, x, c_noise, *, label):
        traces.append(1)
        return params * jnp.tanh(x) + 0.1 * label[:, None]

    def log_p(params, x, sigma):
        return -params * jnp.square(x).sum(1)

    def run(sampler=sampler, *, params=0.5, label=0.0, seed=0, scale=1.5, num_steps=10):
        labels = jnp.full(2, label)
        cond = dm.denoiser(network, jnp.float32(params), dm.EDM(), label=labels)
        uncond = dm.denoiser(network, jnp.float32(params), dm.EDM(), label=labels - 1)
        denoise = dm.classifier_free(cond, uncond, scale, rescale=scale / 10)
        denoise = dm.in_interval(denoise, cond, scale / 100, 10 * scale)
        classifier = jax.tree_util.Partial(log_p, jnp.float32(params))
        denoise = dm.clip(dm.classifier_guided(denoise, classifier, scale / 100))
        sigmas = dm.Karras()(num_steps)[:-1]  # what is left of the noise is not clipped
        return sampler(denoise, jnp.ones((2, 3)), sigmas, jax.random.key(seed))

    first = run()
    compiled = len(traces)
    for again in (run(params=0.7), run(label=1.0), run(scale=2.5)):
        assert jnp.abs(again - first).max() > 0
    run(seed=1)
    run(num_steps=23)
    run(other)
    assert len(traces) == compiled > 0


def test_a_sampler_and_its_inversion_share_a_loop():
    traces = []

    def denoise(x, sigma):
        traces.append(1)
        return 0.5 * x

    dm.Heun()(denoise, jnp.ones((1, 2)), dm.Karras()(5), jax.random.key(0))
    compiled = len(traces)
    dm.invert(denoise, jnp.ones((1, 2)), dm.Karras()(7), dm.Heun())
    assert len(traces) == compiled > 0


def test_longer_grids_share_a_loop_up_to_1024_steps():
    traces = []

    def denoise(x, sigma):
        traces.append(1)
        return 0.5 * x

    for num_steps, compiled in ((1, 1), (1024, 1), (1025, 2), (2049, 2), (2050, 3)):
        dm.Euler()(denoise, jnp.ones((1, 2)), dm.Exponential()(num_steps), jax.random.key(0))
        assert len(traces) == compiled, num_steps
