"""Laws of the reported cost of a recipe."""

import jax
import pytest

from commands import cost, train_request
from diffusion.run import hardware

SMALL = """digits --model.channels 8 --model.num-groups 4 --model.channel-mult 1
    --model.attention-resolutions 8""".split()


def recipe(remat: str, accumulate: str):
    options = ["--model.remat", remat, "--run.accumulate", accumulate]
    return train_request.parse([*SMALL, *options]).recipe


@pytest.mark.parametrize(("remat", "accumulate"), [("true", "1"), ("false", "2")])
def test_options_that_save_memory_do_not_change_the_count_of_operations(remat, accumulate):
    plain, _ = cost.flops_of_step(recipe("false", "1"))
    assert cost.flops_of_step(recipe(remat, accumulate))[0] == plain


def test_the_peak_and_the_dry_run_count_the_same_operations(monkeypatch):
    monkeypatch.setitem(hardware.PEAK_FLOPS, jax.devices()[0].device_kind, 1e12)
    frugal = recipe("true", "2")
    mesh = frugal.mesh.make()
    flops_per_image = 1e12 * mesh.size / cost.peak_images_per_second(frugal, mesh)
    said = f"training             {flops_per_image / 1e9:.2f} GFLOP an image"
    assert said in list(cost.lines(frugal, mesh))
