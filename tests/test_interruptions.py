"""An interrupted run loses nothing but time, and reports the reason in one line."""

import logging
import shutil
import signal
import sys
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import (
    SMALL,
    assert_bitwise_equal,
    begun,
    final_state,
    mistake,
    records,
    train_small,
)

import train
from commands import build, cli, train_request
from diffusion.run import checkpoint, lock, signals


def test_a_killed_run_resumes_bit_for_bit(tmp_path):
    killed = tmp_path / "killed"
    process = begun(killed, "--run.num-steps", "1000000")
    deadline = time.monotonic() + 120
    while not checkpoint.steps(killed) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)  # somewhere between two of its saves
    process.communicate()
    reached = checkpoint.steps(killed)[-1]

    goal = str(reached + 4)
    train_small(killed, "--run.num-steps", goal)
    train_small(tmp_path / "whole", "--run.num-steps", goal)
    assert_bitwise_equal(final_state(killed), final_state(tmp_path / "whole"))
    steps = [record["step"] for record in records(killed)]
    assert steps == sorted(set(steps))  # nothing written twice
    assert all(path.name.isdigit() for path in (killed / "checkpoints").iterdir())  # nothing stray


@pytest.mark.parametrize("name", ["SIGTERM", pytest.param("SIGINT", marks=pytest.mark.slow)])
def test_a_run_that_receives_a_signal_saves_and_can_resume(tmp_path, name):
    process = begun(tmp_path, "--run.num-steps", "100000", "--run.log-every-steps", "1")
    for line in process.stdout:
        if line.startswith("step 5/"):
            break
    process.send_signal(getattr(signal, name))
    out, error = process.communicate(timeout=60)
    # 143 and 130, as shells report signals, so that the run does not count as finished
    assert process.returncode == 128 + getattr(signal, name)
    assert ("Ctrl-C again stops at once" in error) if name == "SIGINT" else not error
    reached = checkpoint.steps(tmp_path)[-1]
    assert f"{name}: saved step {reached} of 100000; run the same command to resume." in out
    assert reached >= 5
    train_small(tmp_path / "whole", "--run.num-steps", str(reached))
    assert_bitwise_equal(final_state(tmp_path), final_state(tmp_path / "whole"))
    train_small(tmp_path, "--run.num-steps", str(reached + 1))
    assert checkpoint.steps(tmp_path)[-1] == reached + 1


def test_a_removed_folder_is_an_error_in_one_line_and_is_not_created_again(tmp_path):
    recipe, run_dir = train_request.parse([*SMALL, "--run.num-steps", "3"]).recipe, tmp_path / "run"
    build.claim(run_dir, recipe, recipe.data.load())
    job = build.job(recipe, run_dir, recipe.mesh.make())
    state, checkpoints = build.start(job), build.checkpoints(job)
    shutil.rmtree(run_dir)
    with pytest.raises(checkpoint.SaveError, match="the folder is gone.*no checkpoint yet"):
        checkpoints.save(state)
    checkpoints.close()  # does not raise a second time
    assert not run_dir.exists()


def test_a_folder_that_another_run_has_created_again_is_not_written(tmp_path):
    recipe, run_dir = train_request.parse([*SMALL, "--run.num-steps", "3"]).recipe, tmp_path / "run"
    build.claim(run_dir, recipe, recipe.data.load())
    job = build.job(recipe, run_dir, recipe.mesh.make())
    state, first = build.start(job), build.checkpoints(job)
    run_dir.rename(tmp_path / "away")
    build.claim(run_dir, recipe, recipe.data.load())
    second = build.checkpoints(job)
    with pytest.raises(checkpoint.SaveError, match="the folder is gone"):
        first.save(state)
    second.close()
    assert checkpoint.steps(run_dir) == []


@pytest.mark.slow
def test_a_new_run_removes_the_grids_of_an_earlier_one(tmp_path):
    goal = ("--run.num-steps", "2")
    train_small(tmp_path / "again", *goal, "--run.seed", "1")
    shutil.rmtree(tmp_path / "again" / "checkpoints")
    train_small(tmp_path / "again", *goal)
    train_small(tmp_path / "clean", *goal)
    grids = [(tmp_path / name / "samples" / "2.png").read_bytes() for name in ("again", "clean")]
    assert grids[0] == grids[1]


def test_logs_that_cannot_be_written_are_an_error_in_one_line(tmp_path, capfd):
    train_small(tmp_path, "--run.num-steps", "3")
    shutil.rmtree(tmp_path / "samples")
    (tmp_path / "samples").touch()
    with pytest.raises(SystemExit) as exit:
        train_small(tmp_path, "--run.num-steps", "4")
    assert exit.value.code == 1
    error = capfd.readouterr().err
    assert "could not be written (File exists); last checkpoint: " in error
    assert error.count("\n") == 1


def test_one_process_at_a_time_can_train_in_a_folder(tmp_path, capsys):
    argv = [*SMALL, "--run.num-steps", "1", "--run-dir", tmp_path]
    with lock.held(tmp_path):
        assert f"another process trains in {tmp_path}" in mistake(train.main, argv, capsys)
    assert list(tmp_path.iterdir()) == []
    train_small(tmp_path, "--run.num-steps", "1")
    train_small(tmp_path, "--run.num-steps", "2")  # the first has released the lock


IN_A_COMPILER = """
import hashlib
from diffusion.run import signals
with signals.stop_requests() as stop_request:
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2 * 10**9)  # Python runs no signal handler meanwhile
"""


def test_a_second_interrupt_ends_the_program_even_in_a_long_c_call(tmp_path):
    process = begun(tmp_path, program=("-c", IN_A_COMPILER))
    assert process.stdout.readline() == "ready\n"
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
    _, error = process.communicate(timeout=20)
    assert process.returncode == 130 and "stopped; checkpoints are kept" in error


def test_what_handled_signals_before_handles_them_afterwards():
    def handlers():
        return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    before = handlers()
    with signals.stop_requests():
        assert all(now != then for now, then in zip(handlers(), before, strict=True))
    assert handlers() == before


def test_the_first_signal_decides_and_an_interrupt_after_another_signal_does_not_exit(capfd):
    with signals.stop_requests() as stop_request:
        assert stop_request() is None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.raise_signal(number)
            deadline = time.monotonic() + 10
            while stop_request() is None and time.monotonic() < deadline:
                time.sleep(0.001)
        while "saving a checkpoint" not in capfd.readouterr().err:
            assert time.monotonic() < deadline
        assert stop_request() == signal.SIGTERM


@pytest.mark.parametrize(
    ("program", "advice"),
    [
        (
            train_request.one_line_errors,
            "; to use less, lower --data.batch-size, raise --run.accumulate",
        ),
        (partial(cli.one_line_errors, saves_memory="lower x"), "; to use less, lower x.\n"),
        (cli.one_line_errors, ").\n"),
    ],
)
def test_a_device_without_enough_memory_is_one_line(capsys, program, advice):
    with pytest.raises(SystemExit) as exit, program():
        jnp.zeros(2**50).block_until_ready()
    error = capsys.readouterr().err
    assert exit.value.code == 1 and error.count("\n") == 1
    assert "out of memory" in error and advice in error


def test_a_loss_that_is_nan_stops_the_run_and_names_the_last_checkpoint(tmp_path, capsys):
    train_small(tmp_path, "--run.num-steps", "3")
    config = checkpoint.read_config(tmp_path)
    config["optimizer"]["learning_rate"] = 1e15
    config["optimizer"]["warmup_steps"] = 0
    checkpoint.write_config(tmp_path, config)
    with pytest.raises(SystemExit) as exit:
        train_small(tmp_path, "--optimizer.learning-rate", "1e15", "--optimizer.warmup-steps", "0")
    assert exit.value.code == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "not finite in 6 steps in a row" in error and "last checkpoint: " in error
    saved = checkpoint.steps(tmp_path)[-1]
    assert f"{tmp_path}/checkpoints/{saved}." in error
    assert np.isfinite(jax.tree.leaves(final_state(tmp_path).params)[0]).all()


def test_weights_that_a_step_makes_infinite_are_not_saved(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit:  # the loss of step 1 is fine, its update is not
        train_small(
            tmp_path,
            *("--run.save-every-steps", "1", "--optimizer.learning-rate", "1e38"),
            *("--optimizer.warmup-steps", "0"),
            *("--optimizer.clip-norm", "none"),
        )
    assert exit.value.code == 1
    assert "weights are not finite, up to step 1 " in capsys.readouterr().err
    assert checkpoint.steps(tmp_path) == []


def test_a_grid_of_samples_that_are_nan_does_not_end_the_training(tmp_path, capsys):
    train_small(
        tmp_path,
        *("--run.num-steps", "4", "--run.sample-every-steps", "2", "--sampling.guidance", "1e38"),
    )
    out = capsys.readouterr().out
    assert ": no grid of samples: samples are nan" in out and checkpoint.steps(tmp_path)[-1] == 4


@pytest.mark.parametrize(
    ("kept", "says"), [("", "stopped.\n"), ("x is kept", "stopped; x is kept.\n")]
)
def test_what_is_stopped_says_what_it_leaves(capsys, kept, says):
    with pytest.raises(SystemExit, match="130"), cli.one_line_errors(kept=kept):
        raise KeyboardInterrupt
    assert capsys.readouterr().err.endswith(says)


def test_a_command_restores_the_logging_and_the_hook_that_it_sets():
    def settings():
        return [logging.getLogger(name).level for name in ("absl", "asyncio")], sys.unraisablehook

    before = settings()
    with cli.one_line_errors():
        assert settings() != before
    assert settings() == before
