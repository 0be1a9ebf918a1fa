"""Laws of the reported cost of a recipe."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import diffusion as dm
from commands import cost, train_request
from diffusion.run import hardware

SMALL = """digits --model.channels 8 --model.num-groups 4 --model.channel-mult 1
    --model.attention-resolutions 8""".split()


def recipe(remat: str, accumulate: str, *options: str):
    saving = ["--model.remat", remat, "--run.accumulate", accumulate]
    return train_request.parse([*SMALL, *saving, *options]).recipe


def test_options_that_save_memory_do_not_change_the_count_of_operations():
    plain, _ = cost.flops_of_step(recipe("false", "1"))
    assert cost.flops_of_step(recipe("true", "2"))[0] == plain


def test_bytes_per_device_are_those_of_its_shard():
    mesh = dm.Mesh(data=1, fsdp=4).make()
    sharded = NamedSharding(mesh, PartitionSpec("fsdp"))
    tree = {"a": jax.device_put(np.zeros((8, 3), np.float32), sharded), "b": jnp.zeros(5, jnp.int8)}
    assert cost.bytes_per_device(tree) == 8 // 4 * 3 * 4 + 5


def test_the_dry_run_counts_the_operations_of_the_peak_and_of_all_images(monkeypatch):
    monkeypatch.setitem(hardware.PEAK_FLOPS, jax.devices()[0].device_kind, 1e12)
    large = ["--model.channels", "64", "--run.num-steps", f"{10**9}"]  # so that digits are printed
    frugal = recipe("true", "2", *large, "--optimizer.decay-steps", "none")
    mesh = frugal.mesh.make()
    flops_per_image = 1e12 * mesh.size / cost.peak_images_per_second(frugal, mesh)
    said = "\n".join(cost.lines(frugal, mesh))
    assert f"training             {flops_per_image / 1e9:.2f} GFLOP an image" in said
    flops = flops_per_image * 10**9 * frugal.data.batch_size
    images = f"{1e3 * frugal.data.batch_size:.1f} M images"
    assert f"{images}, {flops:.2e} FLOP: {flops / 1e14 / 3600:.1f} h at 100 TFLOP/s" in said
    forward = float(re.search(r"forward +(\S+) GFLOP an image", said)[1])
    # backward costs twice as much, and the optimiser something
    assert flops_per_image / 1e9 == pytest.approx(3 * forward, rel=0.1)
