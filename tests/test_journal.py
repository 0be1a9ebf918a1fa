"""Laws of what a run writes down."""

import json

import jax.numpy as jnp
import numpy as np

from diffusion.journal import Journal, Meter


def test_a_reading_is_the_mean_since_the_last_one():
    meter = Meter(batch_size=4)
    for loss in (1.0, 3.0):
        meter.add({"loss": jnp.float32(loss), "grad_norm": jnp.float32(2 * loss)})
    first = meter.read()
    assert (first["loss"], first["grad_norm"]) == (2.0, 4.0) and first["images_per_second"] > 0
    meter.add({"loss": jnp.float32(5.0), "grad_norm": jnp.float32(0.0)})
    assert meter.read()["loss"] == 5.0


def test_one_step_that_is_not_finite_shows_in_the_mean():
    meter = Meter(batch_size=1)
    for loss in (1.0, float("nan"), 1.0):
        meter.add({"loss": jnp.float32(loss)})
    assert np.isnan(meter.read()["loss"])


def test_a_clock_that_has_just_been_restarted_states_no_speed():
    meter = Meter(batch_size=1)
    meter.add({"loss": jnp.float32(1.0)})
    meter.restart_clock()
    assert meter.read() == {"loss": 1.0}


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
