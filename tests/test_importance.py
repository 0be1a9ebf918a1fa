"""Laws of timesteps drawn by the size of their losses."""

import dataclasses
from collections import defaultdict, deque

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from runs import assert_bitwise_equal, final_state, samples
from test_learned_variance import CHAIN, LEARNED, network, parameters
from test_learned_variance_runs import iddpm
from test_seams import trained

import diffusion as dm
import sample
from diffusion.noise.importance import Drawn
from diffusion.run import checkpoint

NOISE = dm.ImportanceSampled(CHAIN, history=3, uniform_share=0.1)
KEY = jax.random.key(0)


def drawn(timestep):
    ones = jnp.ones(len(timestep))
    return Drawn(ones, ones, jnp.asarray(timestep, jnp.int32))


def filled(noise, sizes):
    """The memory after losses of these sizes, one for each timestep, often enough."""
    memory = noise.init()
    for _ in range(noise.history):
        memory = noise.update(memory, drawn(range(len(sizes))), jnp.asarray(sizes, jnp.float32))
    return memory


def test_of_each_timestep_the_last_losses_are_remembered():
    rng = np.random.default_rng(0)
    memory, expected = NOISE.init(), defaultdict(lambda: deque(maxlen=3))
    for _ in range(6):
        timestep, losses = rng.integers(0, 4, 12), rng.uniform(0, 1, 12).astype(np.float32)
        memory = jax.jit(NOISE.update)(memory, drawn(timestep), jnp.asarray(losses))
        for t, loss in zip(timestep, losses, strict=True):  # up to 12 of one, more than are kept
            expected[t].append(loss)
    for t in range(10):
        kept = np.sort(memory["losses"][t])[3 - len(expected[t]) :]
        np.testing.assert_array_equal(kept, np.sort(expected[t]))


def test_draws_are_uniform_until_every_timestep_has_its_history():
    sizes = np.arange(1.0, 11.0)
    memory = filled(NOISE, sizes)
    memory["counts"] = memory["counts"].at[4].set(2)
    for unknown in (NOISE.init(), memory):
        np.testing.assert_allclose(NOISE.probabilities(unknown), 0.1, rtol=1e-6)
    expected = 0.9 * sizes / sizes.sum() + 0.1 / 10
    np.testing.assert_allclose(NOISE.probabilities(filled(NOISE, sizes)), expected, rtol=1e-6)
    nothing = NOISE.probabilities(filled(NOISE, np.zeros(10)))
    np.testing.assert_allclose(nothing, 0.1, rtol=1e-6)


def test_size_is_the_root_of_the_mean_square():
    memory = NOISE.init()
    for losses in np.array([[1.0, 0.0], [2.0, 3.0], [2.0, 4.0]]):
        each = np.full(10, losses[1])
        each[0] = losses[0]
        memory = NOISE.update(memory, drawn(range(10)), jnp.asarray(each, jnp.float32))
    p = NOISE.probabilities(memory)
    ratio = (p[0] - 0.01) / (p[1] - 0.01)
    assert float(ratio) == pytest.approx(np.sqrt((1 + 4 + 4) / (0 + 9 + 16)), rel=1e-5)


def test_weighted_draws_have_the_mean_of_uniform_ones():
    sizes = np.linspace(0.1, 3.0, 10)
    memory = filled(NOISE, sizes)
    found = NOISE.draw(memory, KEY, (100_000,))
    share = np.bincount(found.timestep, minlength=10) / 100_000
    p = NOISE.probabilities(memory)
    np.testing.assert_allclose(share, p, atol=0.006)  # four standard errors of a share of 0.2
    np.testing.assert_allclose(found.weight, 1 / (10 * p[found.timestep]), rtol=1e-6)
    np.testing.assert_allclose(found.sigma, CHAIN.table[found.timestep], rtol=1e-6)
    values = jnp.cos(found.timestep)
    assert float((found.weight * values).mean()) == pytest.approx(
        np.cos(np.arange(10)).mean(), abs=0.01
    )


def test_losses_that_depend_on_the_timestep_alone_get_no_variance():
    noise = dataclasses.replace(NOISE, uniform_share=0.0)
    sizes = np.linspace(0.1, 3.0, 10)
    found = noise.draw(filled(noise, sizes), KEY, (1000,))
    weighted = found.weight * jnp.asarray(sizes, jnp.float32)[found.timestep]
    np.testing.assert_allclose(weighted, sizes.mean(), rtol=1e-5)


@pytest.mark.parametrize("accumulate", [1, 4])
def test_training_remembers_the_bound_of_each_timestep(accumulate):
    variance = dataclasses.replace(LEARNED, bound_alone=True)
    noise = dataclasses.replace(NOISE, history=1)
    optimizer, ema = optax.sgd(0.0), dm.EMA(0.9)  # so that the losses stay what they are
    train_step = dm.make_train_step(
        network, dm.Eps(CHAIN), noise, optimizer, ema, variance=variance, accumulate=accumulate
    )
    state = dm.TrainState.create(parameters(), optimizer, ema, noise=noise)
    image = 0.5 * np.random.default_rng(0).standard_normal((64, 200, 1), np.float32)
    for _ in range(3):
        state, metrics = train_step(state, {"image": image}, KEY)
    assert int(state.memory["counts"].sum()) == 3 * 64 and metrics["skipped"] == 0
    x_0 = jnp.asarray(image)
    for t in (0, 3, 9):
        eps = jax.random.normal(jax.random.key(t), x_0.shape)
        sigma = jnp.full(64, CHAIN.table[t], jnp.float32)
        costs = dm.loss(network, state.params, dm.Eps(CHAIN), x_0, sigma, eps, variance=variance)
        spread = 6 * float(costs.std())  # of one loss around the mean of its timestep
        remembered = float(state.memory["losses"][t, 0])
        assert remembered == pytest.approx(float(costs.mean()), abs=spread)


def test_a_step_that_is_not_finite_is_not_remembered():
    optimizer, ema = optax.sgd(0.1), dm.EMA(0.9)
    step = dm.make_train_step(network, dm.Eps(CHAIN), NOISE, optimizer, ema, variance=LEARNED)
    state = dm.TrainState.create(parameters(), optimizer, ema, noise=NOISE)
    state, metrics = step(state, {"image": np.full((8, 4, 1), np.nan, np.float32)}, KEY)
    assert metrics["skipped"] == 1 and not state.memory["counts"].any()


def remembering_run(num_steps):
    chain = dm.VPLinear(2, 0.3, 0.9)  # so short that every timestep is soon remembered
    variance = dm.LearnedVariance(bound_alone=True)
    noise = dm.ImportanceSampled(history=1)
    return iddpm(num_steps, schedule=chain, variance=variance, noise=noise)


@pytest.mark.slow
def test_a_run_with_memory_resumes_bit_for_bit_and_is_sampled(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    trained(remembering_run(6), whole)
    for goal in (3, 6):
        trained(remembering_run(goal), parts)
    state = final_state(whole)
    assert_bitwise_equal(final_state(parts), state)
    assert int(state.memory["counts"].sum()) == 6 * 8
    sample.main([str(whole), "--num-images", "2", "--out", str(tmp_path / "out")])
    assert samples(tmp_path / "out")[0].shape == (2, 8, 8, 1)


def test_a_run_without_memory_keeps_its_checkpoints_layout(run_dir):
    state = final_state(run_dir)
    assert state.memory == {}
    assert "memory" not in checkpoint._items(state)[checkpoint.TRAINING]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: dm.ImportanceSampled(history=0), "history=0"),
        (lambda: dm.ImportanceSampled(uniform_share=1.5), "uniform_share=1.5"),
        (lambda: dm.ImportanceSampled(dm.VPCosine()), "num_timesteps=None, but VPCosine"),
        (lambda: dm.ImportanceSampled(CHAIN, 20), "num_timesteps=20, but the chain has 10"),
    ],
)
def test_impossible_settings_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_the_recipe_gives_it_the_schedule():
    recipe = dataclasses.replace(iddpm(), noise=dm.ImportanceSampled())
    resolved = recipe.resolved()
    assert resolved.noise.schedule == recipe.schedule and len(resolved.noise.table) == 4000
