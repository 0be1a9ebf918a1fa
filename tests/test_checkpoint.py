"""Laws of checkpoints: each is complete, or rejected."""

import dataclasses
import gc
import os
import resource

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import diffusion as dm
from diffusion.run import checkpoint, fingerprint, packing

OPTIMIZER, EMA = optax.adam(1e-3), dm.EMA()


def make_state(step):
    params = {
        "layers": {0: {"kernel": jax.random.normal(jax.random.key(step), (64, 64))}},
        "scale": jnp.full(3, float(step)),
    }
    state = dm.TrainState.create(params, OPTIMIZER, EMA, dm.Uncertainty(4))
    return dataclasses.replace(state, step=jnp.int32(step))


def target():
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), make_state(0)
    )


@pytest.fixture
def run_dir(tmp_path):
    checkpoints = checkpoint.Checkpoints(tmp_path, keep=2)
    for step in (10, 20, 30):
        checkpoints.save(make_state(step))
    checkpoints.close()
    return tmp_path


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def test_what_is_restored_is_what_was_saved(run_dir):
    assert_equal(checkpoint.restore(run_dir, target()), make_state(30))
    assert_equal(checkpoint.restore(run_dir, target(), step=20), make_state(20))


def test_the_average_can_be_restored_alone(run_dir):
    average, step = checkpoint.restore_average(run_dir, target().ema)
    assert step == 30
    assert_equal(average, make_state(30).ema)


def test_only_the_latest_are_kept(run_dir):
    assert checkpoint.steps(run_dir) == [20, 30]


def largest_file(folder):
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def flip_a_bit(folder):
    path = largest_file(folder)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_short(folder):
    path = largest_file(folder)
    path.write_bytes(path.read_bytes()[:100])


def remove(folder):
    largest_file(folder).unlink()


def overwrite(folder):
    (folder / "_METADATA").write_text("garbage")


# Orbax abandons the arrays that it was reading, and Python warns about that
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", [flip_a_bit, cut_short, remove, overwrite])
@pytest.mark.parametrize("item", ["ema", "training"])
def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_offered(run_dir, damage, item):
    damage(run_dir / "checkpoints" / "30" / item)
    (run_dir / "checkpoints" / "10").mkdir()  # an older one is not offered
    with pytest.raises(ValueError, match=r"30 is damaged.*one before it is step 20"):
        checkpoint.restore(run_dir, target())
    gc.collect()  # so that the warning comes in this test
    assert_equal(checkpoint.restore(run_dir, target(), step=20), make_state(20))


@pytest.mark.parametrize(
    ("dtype", "shape", "name"),
    [("float16", (3,), "scale"), ("float32", (4,), "scale"), ("float32", (3,), "bias")],
)
def test_the_checksum_of_the_layout_depends_on_types_shapes_and_names(dtype, shape, name):
    right = fingerprint.layout({"scale": np.zeros(3, np.float32)})
    assert fingerprint.layout({"scale": jnp.ones(3)}) == right
    assert fingerprint.layout({name: np.zeros(shape, dtype)}) != right


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "float64", "bool"])
@pytest.mark.parametrize("shape", [(), (5,), (4, 3), (2, 4, 6)])
def test_the_checksum_depends_on_every_bit_but_not_on_the_sharding(shape, dtype):
    rng = np.random.default_rng(0)
    whole = np.asarray(3 * rng.standard_normal(shape)).astype(jnp.dtype(dtype))
    sum_of = fingerprint.weighted_sum
    right = sum_of(whole, [0] * whole.ndim)
    for bit in range(8 * whole.nbytes if dtype != "bool" else 0):
        changed = np.frombuffer(whole.tobytes(), np.uint8).copy()
        changed[bit // 8] ^= 1 << bit % 8
        assert sum_of(changed.view(whole.dtype).reshape(shape), [0] * whole.ndim) != right
    for axis in range(whole.ndim):
        first, second = np.split(whole, [whole.shape[axis] // 2], axis)
        origin = [first.shape[axis] if other == axis else 0 for other in range(whole.ndim)]
        parts = [sum_of(first, [0] * whole.ndim), sum_of(second, origin)]
        assert np.sum(parts, dtype=np.uint32) == right


def test_a_checkpoint_that_cannot_be_opened_is_not_reported_as_damaged(run_dir):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            checkpoint.restore(run_dir, target())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert_equal(checkpoint.restore(run_dir, target()), make_state(30))


def test_arrays_of_one_type_and_shape_are_one_array_on_disk(run_dir):
    stacks = packing.pack(make_state(30))
    assert {name: len(stack) for name, stack in stacks.items()} == {
        "int32_scalar": 2,  # the step, and the optimiser's own count
        "float32_64x64": 4,  # weights, two moments and the average
        "float32_3": 4,
        "float32_4": 3,  # the learned uncertainty has no average
    }
    shapes = jax.tree.map(lambda a: (a.shape, str(a.dtype)), stacks)
    assert shapes == jax.tree.map(lambda a: (a.shape, str(a.dtype)), packing.empty_stacks(target()))
    assert_equal(packing.unpack(stacks, target()), make_state(30))


def test_a_folder_without_a_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        checkpoint.restore(tmp_path, target())


def test_a_step_that_is_not_there_is_named(run_dir):
    with pytest.raises(FileNotFoundError, match=r"it has \[20, 30\]"):
        checkpoint.restore(run_dir, target(), step=25)


def test_an_incomplete_save_is_not_a_checkpoint(run_dir):
    (run_dir / "checkpoints" / "40.orbax-checkpoint-tmp").mkdir()
    assert checkpoint.steps(run_dir) == [20, 30]


def test_config_comes_back_as_written(tmp_path):
    checkpoint.write_config(tmp_path / "run", {"a": {"b": [1, 2.5, None, "x"]}})
    assert checkpoint.read_config(tmp_path / "run") == {"a": {"b": [1, 2.5, None, "x"]}}


def test_a_damaged_config_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json is damaged"):
        checkpoint.read_config(tmp_path)


# the writes that the failed one aborts raise errors, and Python warns about each
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_save_on_a_full_disk_names_the_last_checkpoint_which_stays_complete(run_dir):
    checkpoints = checkpoint.Checkpoints(run_dir, keep=2)
    says = rf"File too large\); last checkpoint: {run_dir}/checkpoints/30\. "
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # largest size of a file
    try:
        with pytest.raises(checkpoint.SaveError, match=says):
            checkpoints.save(make_state(40))
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    checkpoints.close()  # does not raise a second time
    gc.collect()
    assert checkpoint.steps(run_dir) == [20, 30]
    again = checkpoint.Checkpoints(run_dir, keep=2)
    again.save(make_state(40))
    again.close()
    assert_equal(checkpoint.restore(run_dir, target()), make_state(40))
    assert sorted(p.name for p in (run_dir / "checkpoints").iterdir()) == ["30", "40"]
