"""Laws of the training step."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import TINY, drawn
from flax import nnx

import diffusion as dm
import unet_flax
from diffusion import sharding
from diffusion.data import ImageArrays
from diffusion.run import hardware
from diffusion.run.feed import OnDevice, Prefetched, make_feed
from diffusion.training.step import drop_label
from unet_flax import Middle, UNet

# not Adam: it would move a weight by the full rate even if the gradient is only rounding error
OPTIMIZER = optax.sgd(1e-2, momentum=0.9)
# what a step does hardly depends on the network, and compiling that is what these tests cost
SMALL = dataclasses.replace(
    TINY, channel_mult=(1,), attention_resolutions=(), middle=Middle(exists=False)
)
EMA = dm.EMA(0.9)
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def network():
    return unet_flax.functional(nnx.eval_shape(lambda: UNet(SMALL, rngs=nnx.Rngs(0))))[0]


@pytest.fixture(scope="module")
def params():
    return unet_flax.functional(drawn(UNet(SMALL, rngs=nnx.Rngs(0))))[1]


@pytest.fixture(scope="module")
def train_step(network):
    return dm.make_train_step(
        network, dm.EDM(), dm.LogNormal(), OPTIMIZER, EMA, label_dropout=0.2, augment=dm.Flip()
    )


@pytest.fixture
def state(params):
    params = jax.tree.map(jnp.copy, params)  # the step donates its state
    return dm.TrainState.create(params, OPTIMIZER, EMA)


def batch(step, size=8):
    rng = np.random.default_rng(step)
    image = rng.uniform(-1, 1, (size, 8, 8, 2)).astype(np.float32)
    return {"image": image, "label": rng.integers(0, 3, size).astype(np.int32)}


def run(train_step, state, steps, mesh=None):
    losses = []
    for step in steps:
        now = batch(step) if mesh is None else sharding.shard_batch(mesh, batch(step))
        state, metrics = train_step(state, now, KEY)
        losses.append(float(metrics["loss"]))
    return state, losses


def copied(state):
    return jax.tree.map(jnp.copy, state)


def equal(a, b):
    return all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def test_two_runs_are_bitwise_equal(train_step, state):
    first, losses = run(train_step, copied(state), range(3))
    again, losses_again = run(train_step, copied(state), range(3))
    assert losses == losses_again and equal(first, again)


@pytest.fixture(scope="module")
def plain_step(network):
    return dm.make_train_step(network, dm.EDM(), dm.LogNormal(), OPTIMIZER, EMA)


@pytest.mark.parametrize("devices", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_accumulated_gradients_are_those_of_the_whole_batch(network, plain_step, state, devices):
    mesh = dm.Mesh(data=devices).make()
    step = dm.make_train_step(
        dropped(network), dm.EDM(), dm.LogNormal(), OPTIMIZER, EMA, accumulate=2
    )
    whole = dm.make_train_step(dropped(network), dm.EDM(), dm.LogNormal(), OPTIMIZER, EMA)
    (one, losses), (other, others) = (
        run(train_step, sharding.place(mesh, copied(state)), range(2), mesh)
        for train_step in (whole, step)
    )
    np.testing.assert_allclose(losses, others, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(other.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def dropped(network):
    """The network without dropout, whose masks differ between parts."""
    return lambda params, x, c_noise, *, dropout_key, **cond: network(params, x, c_noise, **cond)


def test_a_step_that_is_not_finite_changes_only_the_step_count(plain_step, state):
    before = copied(state)
    wrong = batch(0)
    wrong["image"][0, 0, 0, 0] = np.nan
    after, metrics = plain_step(state, wrong, KEY)
    assert metrics["skipped"] == 1 and after.step == before.step + 1
    assert equal(dataclasses.replace(after, step=before.step), before)
    after, metrics = plain_step(after, batch(1), KEY)
    assert metrics["skipped"] == 0 and not equal(after.params, before.params)


def test_the_loss_is_reported_by_noise_level(plain_step, state):
    _, metrics = plain_step(state, batch(0), KEY)
    assert metrics["level_counts"].sum() == 8
    assert float(metrics["level_sums"].sum()) == pytest.approx(8 * float(metrics["loss"]), rel=1e-5)


def test_several_steps_per_dispatch_equal_single_steps(plain_step, state):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (20, 8, 8, 2), np.uint8)
    labels = rng.integers(0, 3, 20).astype(np.int32)
    dataset = ImageArrays(pixels, labels, ("a", "b", "c"), batch_size=8)
    mesh = dm.Mesh(data=1).make()
    prefetched = Prefetched(plain_step, dataset, mesh, key=KEY, seed=0, first=0)
    # of four steps three in one dispatch, and one left over
    on_device = OnDevice(plain_step, dataset.resident(), mesh, key=KEY, seed=0, steps=3)
    (one, singles), (other, stacked) = (
        feed.run(sharding.place(mesh, copied(state)), 0, 4) for feed in (prefetched, on_device)
    )
    prefetched.close()
    losses = np.concatenate([metrics["loss"][:steps] for metrics, steps in stacked])
    np.testing.assert_allclose([metrics["loss"] for metrics, _ in singles], losses, rtol=1e-5)
    assert one.step == other.step == 4
    parts, _ = on_device.run(sharding.place(mesh, copied(state)), 0, 1)
    assert equal(on_device.run(parts, 1, 4)[0], other)  # bitwise equal, whatever the grouping
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(other.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_dataset_that_fits_is_kept_on_the_device(monkeypatch):
    dataset = ImageArrays(np.zeros((9, 8, 8, 2), np.uint8), None, (), batch_size=8)
    mesh, step = dm.Mesh(data=1).make(), lambda state, batch, key: (state, {})

    def steps_per_dispatch(limit):
        monkeypatch.setattr(hardware, "fits_on_device", lambda num_bytes, _: num_bytes <= limit)
        feed = make_feed(step, dataset, mesh, key=KEY, seed=0, first=0, steps_per_dispatch=None)
        return feed.steps_per_dispatch

    num_bytes = 9 * 8 * 8 * 2
    assert (steps_per_dispatch(num_bytes), steps_per_dispatch(num_bytes - 1)) == (10, 1)


def test_an_error_in_reading_a_batch_reaches_the_loop(plain_step, state):
    class Broken(ImageArrays):
        def batch(self, seed, step, rows):
            raise OSError("the disk is gone")

    dataset = Broken(np.zeros((9, 8, 8, 2), np.uint8), None, (), batch_size=8)
    feed = Prefetched(plain_step, dataset, dm.Mesh(data=1).make(), key=KEY, seed=0, first=0)
    with pytest.raises(OSError, match="the disk is gone"):
        feed.run(state, 0, 1)


def test_every_weighting_uncertainty_and_coupling_trains(network, params):
    uncertainty = dm.Uncertainty(num_features=8)
    state = dm.TrainState.create(jax.tree.map(jnp.copy, params), OPTIMIZER, EMA, uncertainty)
    step = dm.make_train_step(
        network,
        dm.V(),
        dm.Stratified(dm.VPCosine()),
        OPTIMIZER,
        EMA,
        weighting=dm.MinSNR(),
        uncertainty=uncertainty,
        coupling=dm.MinibatchOT(),
    )
    state, losses = run(step, state, [0] * 8)
    assert np.mean(losses[4:]) < np.mean(losses[:4])  # the same batch in every step
    assert jnp.abs(state.uncertainty["kernel"]).max() > 0


def test_steps_in_two_pieces_equal_steps_in_one(train_step, state):
    whole, _ = run(train_step, copied(state), range(4))
    half, _ = run(train_step, copied(state), range(2))
    assert equal(run(train_step, half, range(2, 4))[0], whole)


def test_the_step_counts_and_its_noise_follows_the_count(train_step, state):
    same_batch = batch(0)
    first, m0 = train_step(copied(state), same_batch, KEY)
    later = dataclasses.replace(copied(state), step=jnp.int32(7))
    _, m7 = train_step(later, same_batch, KEY)
    assert int(first.step) == 1
    assert float(m0["loss"]) != float(m7["loss"])


def test_training_lowers_the_loss_of_one_repeated_batch(train_step, network, state):
    now = batch(0)
    keys = jax.random.split(jax.random.key(9), 2)
    sigma, eps = jnp.full(8, 0.5), jax.random.normal(keys[1], now["image"].shape)

    def fixed_loss(params):
        label = jnp.asarray(now["label"])
        x_0 = jnp.asarray(now["image"])
        return float(dm.loss(network, params, dm.EDM(), x_0, sigma, eps, label=label).mean())

    before = fixed_loss(state.params)
    for _ in range(30):
        state, _ = train_step(state, now, KEY)
    assert fixed_loss(state.params) < 0.9 * before


def test_the_average_is_of_the_updated_weights(train_step, state):
    before = copied(state)
    after, _ = train_step(state, batch(0), KEY)
    expected = EMA.update(before.ema, after.params, jnp.int32(0), 8)
    # fused multiply-adds in the compiled step round one time fewer
    for got, want in zip(jax.tree.leaves(after.ema), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)


def test_labels_are_dropped_one_by_one_at_the_given_rate():
    label = jnp.arange(10_000) % 10
    dropped = drop_label(jax.random.key(0), label, 0.1)
    assert set(np.unique(dropped[dropped != label])) == {-1}
    # 10,000 draws: standard error 0.003
    np.testing.assert_allclose((dropped == -1).mean(), 0.1, atol=0.012)


def test_training_drops_labels():
    def by_label(params, x, c_noise, *, dropout_key, label):
        return x * params["w"] * (label + 2.0)[:, None, None, None]

    def trained(rate, label):
        state = dm.TrainState.create({"w": jnp.ones(())}, OPTIMIZER, EMA)
        step = dm.make_train_step(
            by_label, dm.EDM(), dm.LogNormal(), OPTIMIZER, EMA, label_dropout=rate
        )
        return step(state, batch(0) | {"label": label}, KEY)[0]

    label = batch(0)["label"]
    null = np.full_like(label, -1)
    assert equal(trained(1.0, label), trained(1.0, null))
    assert not equal(trained(0.0, label), trained(0.0, null))


@pytest.mark.parametrize(
    "mesh", [pytest.param(dm.Mesh(data=4), marks=pytest.mark.slow), dm.Mesh(data=2, fsdp=2)]
)
def test_many_devices_train_as_one(train_step, state, mesh):
    mesh = mesh.make()
    alone, losses = run(train_step, copied(state), range(3))
    cut = sharding.place(mesh, copied(state))
    together, losses_together = run(train_step, cut, range(3), mesh)
    # the same sums in another order, in three steps
    np.testing.assert_allclose(losses, losses_together, rtol=1e-5)
    for got, want in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)


def test_data_parallel_steps_reduce_all_gradients_at_once(plain_step, state):
    mesh = dm.Mesh(data=4).make()
    lowered = plain_step.lower(
        sharding.place(mesh, state), sharding.shard_batch(mesh, batch(0)), KEY
    )
    reductions = re.findall(r"= .* all-reduce(?:-start)?\(", lowered.compile().as_text())
    assert len(reductions) == 1


def test_fsdp_shards_the_state_over_the_devices(train_step, state):
    mesh = dm.Mesh(data=1, fsdp=4).make()
    cut = sharding.place(mesh, state)
    after, _ = run(train_step, cut, range(1), mesh)
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(after))
    total = sum(leaf.nbytes for leaf in jax.tree.leaves(after))
    # arrays without an axis that 4 divides (biases of 2 channels, counters) are replicated
    assert held / total < 0.27


def test_a_batch_that_the_devices_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="batch_size=6"):
        sharding.check_batch_size(dm.Mesh(data=4).make(), 6)
    with pytest.raises(ValueError, match="batch_size=8 .* accumulate=4 times the 4 devices"):
        sharding.check_batch_size(dm.Mesh(data=4).make(), 8, accumulate=4)


@pytest.mark.parametrize(
    "mesh", [dm.Mesh(data=8), dm.Mesh(fsdp=3), dm.Mesh(data=0), dm.Mesh(fsdp=0)]
)
def test_a_mesh_that_does_not_fit_is_refused(mesh):
    with pytest.raises(ValueError, match="mesh"):
        mesh.make()


def test_flip_mirrors_about_half_of_the_images_and_only_mirrors():
    image = jax.random.normal(KEY, (1000, 2, 3, 1))
    flipped = dm.Flip()(jax.random.key(1), {"image": image})["image"]
    mirrored = (flipped == image[:, :, ::-1]).all((1, 2, 3))
    kept = (flipped == image).all((1, 2, 3))
    assert (mirrored | kept).all()
    np.testing.assert_allclose(mirrored.mean(), 0.5, atol=0.08)  # five standard errors
