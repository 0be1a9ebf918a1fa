"""Slow tests: an interrupted run loses nothing but time."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from runs import (
    AS_HERE,
    ROOT,
    SMALL,
    assert_bitwise_equal,
    begun,
    final_state,
    records,
    train_small,
)

import diffusion as dm
from commands import build, config_file
from diffusion.run import checkpoint

pytestmark = pytest.mark.slow
FOREVER = ("--run.num-steps", "1000000", "--run.log-every-steps", "4")


def goes_on_as_if_nothing_had_been(run_dir, whole):
    """Trains four more steps, and compares with an uninterrupted run."""
    reached = max(checkpoint.steps(run_dir), default=0)
    goal = ("--run.num-steps", str(reached + 4))
    train_small(run_dir, *goal)
    train_small(whole, *goal)
    assert_bitwise_equal(final_state(run_dir), final_state(whole))
    steps = [record["step"] for record in records(run_dir)]
    assert steps == sorted(set(steps))  # nothing written twice
    assert all(entry.name.isdigit() for entry in (run_dir / "checkpoints").iterdir())
    names = {entry.name for entry in run_dir.iterdir() if "tfevents" not in entry.name}
    expected = {"checkpoints", "config.json", "metrics.jsonl", "samples", "weights.safetensors"}
    assert names == expected  # nothing stray


def test_ten_kills_at_random_moments_lose_nothing_but_time(tmp_path):
    chance = random.Random(0)
    for _ in range(10):
        process = begun(tmp_path / "killed", *FOREVER)
        for line in process.stdout:
            if "parameters, steps" in line:
                break
        time.sleep(chance.uniform(0.0, 12.0))  # while it compiles, steps, saves
        process.send_signal(signal.SIGKILL)
        process.communicate()
    goes_on_as_if_nothing_had_been(tmp_path / "killed", tmp_path / "whole")


def test_a_run_that_is_killed_in_its_first_save_resumes(tmp_path):
    process = begun(tmp_path / "killed", *FOREVER)
    folder = tmp_path / "killed" / "checkpoints"
    while not (folder.is_dir() and any(folder.iterdir())):
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert any("tmp" in entry.name for entry in folder.iterdir())  # the save was not finished
    goes_on_as_if_nothing_had_been(tmp_path / "killed", tmp_path / "whole")


def test_twenty_resumes_continue_at_their_step_and_leave_no_stray_files(tmp_path, capsys):
    for step in range(1, 21):
        train_small(tmp_path / "often", "--run.num-steps", str(step))
        assert f"parameters, steps {step - 1} to {step}\n" in capsys.readouterr().out
        assert checkpoint.steps(tmp_path / "often")[-1] == step
    goes_on_as_if_nothing_had_been(tmp_path / "often", tmp_path / "whole")


def test_a_second_interrupt_leaves_at_once(tmp_path):
    process = begun(tmp_path, *FOREVER, "--run.sample-every-steps", "4")
    for line in process.stdout:
        if line.startswith("step 4/"):
            break
    began = time.monotonic()
    process.send_signal(signal.SIGINT)  # it is drawing samples, so it cannot stop yet
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert (
        error.split()
        == """train.py: saving a checkpoint before stopping; Ctrl-C again stops at once.
        train.py: stopped; checkpoints are kept.""".split()
    )
    assert time.monotonic() - began < 30


ON_A_SMALL_DISK = """
import subprocess, sys
if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", sys.argv[-1]]).returncode:
    sys.exit(77)
import train
try:
    train.main(sys.argv[1:-1])
finally:
    from diffusion.run import checkpoint
    print("whole:", checkpoint.steps(sys.argv[-1] + "/run"))
"""


def test_a_disk_that_is_really_full_ends_in_one_line_that_names_a_whole_checkpoint(tmp_path):
    alone = ("unshare", "--user", "--map-root-user", "--mount", sys.executable, "-c")
    words = (*SMALL, "--run-dir", f"{tmp_path}/run", "--run.keep-checkpoints", "100")
    process = subprocess.run(
        [*alone, ON_A_SMALL_DISK, *words, *FOREVER, tmp_path],
        cwd=ROOT,
        env=os.environ | AS_HERE,
        capture_output=True,
        text=True,
    )
    if process.returncode == 77 or "unshare" in process.stderr:
        pytest.skip("a disk of its own cannot be had here")
    assert process.returncode == 1
    steps = json.loads(process.stdout.splitlines()[-1].removeprefix("whole: "))
    last = f"last checkpoint: {tmp_path}/run/checkpoints/{steps[-1]}. "
    assert f"(No space left on device); {last}" in process.stderr
    assert process.stderr.count("\n") == 1


def test_one_two_four_and_eight_devices_train_alike(tmp_path):
    states = []
    for devices in ("1", "2", "4", "8"):
        # Adam's usual eps of 1e-8 would show rounding: it divides small gradients by their own size
        options = ("--mesh.data", devices, "--run.num-steps", "20", "--optimizer.eps", "0.01")
        process = begun(tmp_path / devices, *options, JAX_NUM_CPU_DEVICES="8")
        _, error = process.communicate()
        assert process.returncode == 0, error
        recipe = config_file.from_json(checkpoint.read_config(tmp_path / devices))
        recipe = dataclasses.replace(recipe, mesh=dm.Mesh(data=1))
        states.append(build.start(build.job(recipe, tmp_path / devices, recipe.mesh.make())))
    losses = [[r["loss"] for r in records(tmp_path / devices)] for devices in "1248"]
    np.testing.assert_allclose(losses, [losses[0]] * 4, rtol=1e-5)
    for state in states[1:]:
        for a, b in zip(
            jax.tree.leaves(state.params), jax.tree.leaves(states[0].params), strict=True
        ):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
