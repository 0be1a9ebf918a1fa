"""Laws of what a tracker is told."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from diffusion import tracker

SHORT = """train.py digits --data.batch-size 8 --model.channels 8 --model.num-groups 4
    --run.log-every-steps 1 --run.num-samples 4 --sampling.num-steps 2
    --optimizer.decay-steps none --run.tracker trackio""".split()


@pytest.mark.parametrize("name", ["mlflow", "os"])
def test_an_unknown_tracker_is_refused(name):
    with pytest.raises(ValueError, match="none of wandb, trackio"):
        tracker.check(name)


def test_a_tracker_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(sys, "path", [])  # nothing can be found any more
    monkeypatch.delitem(sys.modules, "trackio", raising=False)
    with pytest.raises(ValueError, match="pip install trackio"):
        tracker.check("trackio")


@pytest.mark.slow
def test_a_run_that_goes_on_is_one_run_in_the_tracker(tmp_path):
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
    told = subprocess.run(
        [sys.executable, "-c", read], env=os.environ | store, check=True, capture_output=True
    )
    assert told.stdout.decode().strip() == "[1, 2, 3, 4]"
