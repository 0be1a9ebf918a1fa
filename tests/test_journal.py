"""Laws of what a run writes down."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from diffusion.hardware import peak_flops
from diffusion.journal import Journal, Meter


def measured(
    loss, skipped=0.0, sums=(0.0, 0.0, 0.0, 0.0), counts=(0.0, 0.0, 0.0, 0.0), weight_norm=1.0
):
    values = dict(loss=loss, grad_norm=2 * loss, weight_norm=weight_norm, skipped=skipped)
    values |= dict(level_sums=jnp.array(sums), level_counts=jnp.array(counts))
    return {name: jnp.asarray(value, jnp.float32) for name, value in values.items()}


def stacked(*metrics):
    return jax.tree.map(lambda *values: jnp.stack(values), *metrics)


def test_a_reading_is_the_mean_since_the_last_one():
    meter = Meter(batch_size=4)
    meter.add([measured(1.0), measured(3.0)], 2)
    first = meter.read()
    assert (first["loss"], first["grad_norm"]) == (2.0, 4.0) and first["images_per_second"] > 0
    meter.add([measured(5.0)], 1)
    assert meter.read()["loss"] == 5.0


def test_steps_of_one_dispatch_count_each():
    meter = Meter(batch_size=4)
    meter.add([stacked(measured(1.0), measured(3.0)), measured(5.0)], 3)
    assert meter.read()["loss"] == 3.0


def test_the_loss_by_noise_level_is_a_mean_over_images():
    meter = Meter(batch_size=4)
    meter.add([measured(1.0, sums=(2.0, 0, 0, 9.0), counts=(1.0, 0, 0, 3.0))], 1)
    meter.add([measured(1.0, sums=(4.0, 0, 0, 0), counts=(3.0, 0, 0, 0))], 1)
    values = meter.read()
    assert values["loss_sigma_below_0.1"] == 1.5 and values["loss_sigma_above_10"] == 3.0
    assert "loss_sigma_0.1_to_1" not in values


def test_skipped_steps_are_counted_and_left_out_of_the_means():
    meter = Meter(batch_size=1)
    nan = float("nan")
    meter.add([stacked(measured(1.0), measured(nan, 1.0), measured(nan, 1.0))], 3)
    values = meter.read()
    assert values["loss"] == 1.0 and values["skipped_steps"] == 2.0
    assert meter.skipped_in_a_row == 2
    meter.add([measured(nan, 1.0)], 1)
    assert "loss" not in meter.read() and meter.skipped_in_a_row == 3
    meter.add([measured(1.0)], 1)
    assert "skipped_steps" not in meter.read() and meter.skipped_in_a_row == 0


def test_a_row_of_skipped_steps_counts_although_the_reading_ends_with_one_that_was_taken():
    meter, nan = Meter(batch_size=1), float("nan")
    meter.add([measured(1.0), measured(nan, 1.0), measured(nan, 1.0)], 3)
    meter.read()
    meter.add([measured(nan, 1.0), measured(1.0), measured(nan, 1.0), measured(1.0)], 4)
    meter.read()
    assert meter.skipped_in_a_row == 3
    meter.add([measured(1.0)], 1)
    meter.read()
    assert meter.skipped_in_a_row == 0


def test_bytes_that_are_no_text_are_taken_out_of_the_records(tmp_path):
    write(tmp_path, 0, [1, 2])
    with open(tmp_path / "metrics.jsonl", "ab") as lines:
        lines.write(b"\xff\xfe{\n")
    write(tmp_path, 2, [3])
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]


def test_weights_once_infinite_are_lost():
    meter = Meter(batch_size=1)
    meter.add([measured(1.0), measured(1.0, weight_norm=float("inf")), measured(1.0, 1.0)], 3)
    meter.read()
    assert meter.is_lost
    meter.add([measured(1.0)], 1)
    meter.read()
    assert meter.is_lost and not Meter(batch_size=1).is_lost


def test_utilisation_is_the_speed_over_the_peaks():
    meter = Meter(batch_size=8, peak_images_per_second=1000.0)
    meter.add([measured(1.0)], 1)
    values = meter.read()
    assert values["flops_utilization"] == values["images_per_second"] / 1000


@pytest.mark.parametrize(("kind", "peak"), [("NVIDIA H200", 989e12), ("TPU v5p", 459e12)])
def test_the_peak_is_that_of_the_kind_of_device(kind, peak):
    assert peak_flops(SimpleNamespace(device_kind=kind)) == peak
    assert peak_flops(jax.devices()[0]) is None  # a CPU has none that is worth stating


def test_a_clock_that_has_just_been_restarted_states_no_speed():
    meter = Meter(batch_size=1)
    meter.add([measured(1.0)], 1)
    meter.restart_clock()
    assert "images_per_second" not in meter.read()


def write(run_dir, after, steps):
    journal = Journal(run_dir, after)
    for step in steps:
        journal.metrics(step, {"loss": float(step)})
    journal.close()


def test_lines_beyond_the_checkpoint_and_cut_lines_are_taken_out_on_resuming(tmp_path):
    write(tmp_path, 0, [10, 20, 30])
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 40, "lo')  # killed while writing
    write(tmp_path, 20, [30, 40])
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20, 30, 40]
