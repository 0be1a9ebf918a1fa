"""Laws of the measurements during training."""

import io
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from diffusion.run.hardware import fits_on_device, memory_gib, peak_flops
from diffusion.run.meter import Meter
from diffusion.run.progress import Progress

NAN = float("nan")


def measured(
    loss, skipped=0.0, sums=(0.0, 0.0, 0.0, 0.0), counts=(0.0, 0.0, 0.0, 0.0), weight_norm=1.0
):
    values = dict(loss=loss, grad_norm=2 * loss, weight_norm=weight_norm, skipped=skipped)
    values |= dict(level_sums=jnp.array(sums), level_counts=jnp.array(counts))
    return {name: jnp.asarray(value, jnp.float32) for name, value in values.items()}


def single(*metrics):
    return [(one, 1) for one in metrics]


def stacked(*metrics):
    return jax.tree.map(lambda *values: jnp.stack(values), *metrics)


def test_a_reading_is_the_mean_since_the_last_one():
    meter = Meter(batch_size=4)
    meter.add(single(measured(1.0), measured(3.0)))
    first = meter.read()
    assert (first["loss"], first["grad_norm"]) == (2.0, 4.0) and first["images_per_second"] > 0
    meter.add(single(measured(5.0)))
    assert meter.read()["loss"] == 5.0


def test_steps_of_one_dispatch_count_each():
    meter = Meter(batch_size=4)
    unused = measured(NAN)  # a dispatch that took fewer steps than it has rows
    meter.add([(stacked(measured(1.0), measured(3.0), unused), 2), *single(measured(5.0))])
    assert meter.read()["loss"] == 3.0


def test_the_speed_is_the_images_of_all_steps_over_the_time_since_the_last_reading():
    start = time.perf_counter()
    meter = Meter(batch_size=1000)
    several = [(stacked(*[measured(1.0)] * 2), 2), *single(*[measured(1.0)] * 48)]
    for steps, dispatches in ((50, several), (1, single(measured(1.0)))):
        meter.add(dispatches)
        time.sleep(0.02)
        speed = meter.read()["images_per_second"]
        assert 1000 * steps / (time.perf_counter() - start) < speed < 1000 * steps / 0.02


def test_the_loss_by_noise_level_is_a_mean_over_images():
    meter = Meter(batch_size=4)
    meter.add(single(measured(1.0, sums=(2.0, 0, 0, 9.0), counts=(1.0, 0, 0, 3.0))))
    meter.add(single(measured(1.0, sums=(4.0, 0, 0, 0), counts=(3.0, 0, 0, 0))))
    values = meter.read()
    assert values["loss_sigma_below_0.1"] == 1.5 and values["loss_sigma_above_10"] == 3.0
    assert "loss_sigma_0.1_to_1" not in values


def test_skipped_steps_are_counted_and_left_out_of_the_means():
    meter = Meter(batch_size=1)
    meter.add([(stacked(measured(1.0), measured(NAN, 1.0), measured(NAN, 1.0)), 3)])
    values = meter.read()
    assert values["loss"] == 1.0 and values["skipped_steps"] == 2.0
    meter.add(single(measured(NAN, 1.0)))
    assert "loss" not in meter.read()
    meter.add(single(measured(1.0)))
    assert "skipped_steps" not in meter.read() and meter.fault is None


def skipping(readings, max_skipped_steps=2):
    """The fault after readings of steps that are skipped (x) or taken (.)."""
    meter = Meter(1, max_skipped_steps)
    for reading in readings:
        meter.add(single(*(measured(NAN, 1.0) if c == "x" else measured(1.0) for c in reading)))
        meter.read()
    return meter.fault


@pytest.mark.parametrize(
    ("readings", "fault"),
    [
        ([".xx.xx."], None),
        ([".xxx"], "in 3 steps in a row"),
        (["xxx."], "in 3 steps in a row"),  # although the reading ends with one that was taken
        ([".xx", "x.x."], "in 3 steps in a row"),  # across two readings
        ([".x", "x.x."], None),
        (["x." * 20], None),  # half of the last 40
        (["x." * 20, "xx"], "in 21 of 40 steps"),
        (["xx." * 10], None),  # 20 of 30, so not yet more than half of 40
        (["xx." * 10, "xx"], "in 22 of 32 steps"),  # more than half of 40 already
        (["xx." * 6, "." * 40, "xx." * 6], None),  # only the last 40 steps count
    ],
)
def test_too_many_skipped_steps_are_a_fault(readings, fault):
    found = skipping(readings)
    assert found is None if fault is None else fault in found


def test_with_no_allowed_skip_the_first_is_a_fault():
    assert skipping(["."], 0) is None and "in 1 steps in a row" in skipping(["x"], 0)


def test_infinite_weights_are_a_fault_that_stays():
    meter = Meter(batch_size=1)
    meter.add(single(measured(1.0), measured(1.0, weight_norm=float("inf")), measured(1.0)))
    meter.read()
    assert meter.fault == "weights are not finite"
    meter.add(single(measured(1.0)))
    meter.read()
    assert meter.fault == "weights are not finite"


def test_utilisation_is_the_speed_over_the_peaks():
    meter = Meter(batch_size=8, peak_images_per_second=1000.0)
    meter.add(single(measured(1.0)))
    values = meter.read()
    assert values["flops_utilization"] == values["images_per_second"] / 1000


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA L40S", 362e12),
        ("TPU v5p", 459e12),
        ("TPU v5 lite", 197e12),
    ],
)
def test_the_peak_is_looked_up_by_the_devices_name(kind, peak):
    assert peak_flops(SimpleNamespace(device_kind=kind)) == peak
    assert peak_flops(jax.devices()[0]) is None  # CPUs are not in the table


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="not Linux")
def test_without_an_accelerator_memory_is_the_largest_that_the_process_had():
    measured_kib = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert memory_gib() == pytest.approx(int(measured_kib[1]) / 2**20, rel=0.01)


def test_there_is_no_speed_right_after_the_clock_is_restarted():
    meter = Meter(batch_size=1)
    meter.add(single(measured(1.0)))
    meter.restart_clock()
    assert "images_per_second" not in meter.read()


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_shows_the_images_seen_and_the_time_left(monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    progress = Progress(num_steps=10, first=2, batch_size=8)
    progress.advance(1)
    progress.report(3, {"loss": 0.25, "images_per_second": 4.0})
    progress.close()
    # 7 steps of 8 images are left, at 4 images a second
    assert " 30%|" in terminal.getvalue()
    assert "24.0/80.0 img, loss 0.2500, 4 img/s, 0:00:14 left" in terminal.getvalue()


@pytest.mark.parametrize(
    ("platform", "stats", "num_bytes", "suits"),
    [
        ("cpu", None, 1, False),
        ("gpu", {"bytes_limit": 400}, 100, True),
        ("gpu", {"bytes_limit": 400}, 101, False),
        ("tpu", None, 10**12, True),  # does not report its memory
    ],
)
def test_a_dataset_is_kept_on_an_accelerator_with_enough_memory(platform, stats, num_bytes, suits):
    device = SimpleNamespace(platform=platform, memory_stats=lambda: stats)
    assert fits_on_device(num_bytes, device) == suits
