"""Small runs of the commands, in this process and in others."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import train
from commands import build, config_file
from diffusion.run import checkpoint

ROOT = Path(__file__).parent.parent
SMALL = """digits --data.batch-size 8 --model.channels 8 --model.num-groups 4
    --model.channel-mult 1 --model.attention-resolutions= --model.middle.exists false
    --run.log-every-steps 2 --run.save-every-steps 3 --run.sample-every-steps 100
    --run.num-samples 10
    --sampling.num-steps 2 --optimizer.decay-steps none --mesh.data 1""".split()
STEPS = 12


def train_small(run_dir, *options):
    train.main([*SMALL, "--run-dir", str(run_dir), "--run.num-steps", str(STEPS), *options])


def final_state(run_dir):
    recipe = config_file.from_json(checkpoint.read_config(run_dir))
    return build.start(build.job(recipe, run_dir, recipe.mesh.make()))


def assert_bitwise_equal(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def records(run_dir):
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


AS_HERE = {"JAX_DEFAULT_MATMUL_PRECISION": "highest", "JAX_NUM_CPU_DEVICES": "4"}
"""What conftest sets, for a process of its own."""


def begun(run_dir, *options, program=("train.py",), **environment):
    """A run in a process of its own."""
    return subprocess.Popen(
        [sys.executable, *program, *SMALL, "--run-dir", str(run_dir), *options],
        cwd=ROOT,
        env=os.environ | AS_HERE | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def mistake(main, argv, capsys):
    with pytest.raises(SystemExit) as exit:
        main([str(word) for word in argv])
    assert exit.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error


def samples(folder):
    with np.load(folder / "samples.npz", allow_pickle=False) as arrays:
        return arrays["arr_0"], arrays["labels"]
