"""Laws of what is logged to a tracker."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from diffusion.run import tracker

SHORT = """train.py digits --data.batch-size 8 --model.channels 8 --model.num-groups 4
    --run.log-every-steps 1 --run.num-samples 4 --sampling.num-steps 2
    --optimizer.decay-steps none --run.tracker trackio""".split()


@pytest.mark.parametrize("name", ["mlflow", "os"])
def test_an_unknown_tracker_is_refused(name):
    with pytest.raises(ValueError, match="is not one of wandb, trackio, none"):
        tracker.check(name)


def test_a_tracker_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(sys, "path", [])  # nothing can be found any more
    monkeypatch.delitem(sys.modules, "trackio", raising=False)
    with pytest.raises(ValueError, match="pip install trackio"):
        tracker.check("trackio")


def test_a_tracker_that_cannot_start_is_an_error_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(
        tracker.TrackerError, match="run.tracker=trackio cannot start .* offline mode"
    ):
        tracker.Tracker("trackio", tmp_path, {})


LISTS = """
calls = []
def init(**options): calls.append(("init", options["name"]))
def log(values, step):
    if step == 3: raise ConnectionError("no way")
    calls.append((step, *values))
def Image(pixels): return pixels
def finish(): pass
"""


def test_a_tracker_logs_each_step_once_and_its_failure_does_not_end_the_run(
    tmp_path, monkeypatch, capsys
):
    (tmp_path / "trackio.py").write_text(LISTS)  # a module that stores what is logged
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "trackio", raising=False)
    (tmp_path / "trackio.json").touch()  # empty, as after a kill while it was written
    for first, last in ((1, 4), (3, 5)):  # the second run resumes from step 2
        logger = tracker.Tracker("trackio", tmp_path, {})
        for step in range(first, last + 1):
            logger.metrics(step, {"loss": float(step)})
            if step != 1:
                logger.samples(step, np.zeros((2, 2, 1), np.uint8))
        logger.close()
    (_, name), *steps = sys.modules["trackio"].calls
    first, again = steps[: steps.index(("init", name))], steps[steps.index(("init", name)) + 1 :]
    assert first == [(1, "loss"), (2, "loss"), (2, "samples"), (4, "loss"), (4, "samples")]
    assert again == [(4, "samples"), (5, "loss"), (5, "samples")]  # a grid that may be missing
    assert capsys.readouterr().out.count("trackio failed to log (no way)") == 1


@pytest.mark.slow
def test_a_resumed_run_is_one_run_in_the_tracker(tmp_path):
    pytest.importorskip("trackio")
    store = {"TRACKIO_DIR": str(tmp_path / "store"), "HF_HUB_OFFLINE": "1"}
    for goal in ("2", "4"):
        subprocess.run(
            [sys.executable, *SHORT, "--run-dir", str(tmp_path / "a"), "--run.num-steps", goal],
            cwd=Path(__file__).parent.parent,
            env=os.environ | store,
            check=True,
        )
    read = """
from trackio.sqlite_storage import SQLiteStorage as store
[run] = store.get_runs("unet-flax")
print([record["step"] for record in store.get_logs("unet-flax", run) if "loss" in record])
"""
    logged = subprocess.run(
        [sys.executable, "-c", read], env=os.environ | store, check=True, capture_output=True
    )
    assert logged.stdout.decode().strip() == "[1, 2, 3, 4]"
