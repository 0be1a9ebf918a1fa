"""Laws of many hosts, tried with two processes of two devices each on this machine."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import train
from configs import build, schema
from diffusion import checkpoint, hosts

ROOT = Path(__file__).parent.parent
SMALL = """digits --data.batch-size 8 --model.channels 8 --model.num-groups 4
    --model.channel-mult 1 --model.attention-resolutions 8 --run.log-every-steps 2
    --run.save-every-steps 3 --run.sample-every-steps 100 --run.num-samples 10
    --sampling.num-steps 2 --optimizer.decay-steps none""".split()
TRAIN = "import sys, train; train.main(sys.argv[1:])"
TRAIN_RESUME_SAMPLE = """
import sys, sample, train
words = sys.argv[1:]
run_dir = words[words.index("--run-dir") + 1]
train.main([*words, "--run.num-steps", "3"])
train.main([*words[: words.index("--coordinator")], "--run.num-steps", "6"])
sample.main([run_dir, "--num-images", "6"])
"""


def begun(program, run_dir, *options):
    """Two hosts that run the same program."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    environment = os.environ | {
        "JAX_DEFAULT_MATMUL_PRECISION": "highest",
        "JAX_NUM_CPU_DEVICES": "2",
    }
    argv = [*SMALL, "--run-dir", str(run_dir), *options, "--coordinator", address]
    return [
        subprocess.Popen(
            [sys.executable, "-c", program, *argv, "--num-hosts", "2", "--host-index", str(index)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in (0, 1)
    ]


def ended(processes):
    """What each of them has written; raises where one has failed."""
    try:
        outs = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, out in zip(processes, outs, strict=True):
        assert process.returncode == 0, out[-2000:]
    return outs


def final_state(run_dir):
    recipe = schema.from_json(checkpoint.read_config(run_dir))
    return build.start(recipe, run_dir, recipe.mesh.make())[1]


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", ["1", "2"])
def test_two_hosts_are_one_run(tmp_path, fsdp):
    two, one = tmp_path / "two", tmp_path / "one"
    main, other = ended(begun(TRAIN_RESUME_SAMPLE, two, "--mesh.fsdp", fsdp))
    assert "steps 3 to 6" in main and "6 images of step 6" in main
    assert "step" not in other  # the main host speaks for all
    train.main([*SMALL, "--run-dir", str(one), "--run.num-steps", "6", "--mesh.fsdp", fsdp])
    for a, b in zip(
        jax.tree.leaves(final_state(two)), jax.tree.leaves(final_state(one)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    for run_dir in (one, two):
        assert len((run_dir / "metrics.jsonl").read_text().splitlines()) == 4  # once each
    assert {"grid.png", "samples.npz", "00005.png"} <= {p.name for p in (two / "images").iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_where_one_host_is_killed_the_other_ends_and_the_run_resumes(tmp_path, victim):
    processes = begun(TRAIN, tmp_path, "--run.num-steps", "100000")
    while not checkpoint.steps(tmp_path):
        time.sleep(0.1)
    processes[victim].kill()
    _, error = processes[victim].communicate()
    out, _ = processes[1 - victim].communicate(timeout=60)
    assert processes[1 - victim].returncode != 0
    assert "another task died" in out or "has lost another" in out
    reached = checkpoint.steps(tmp_path)[-1]
    main, _ = ended(begun(TRAIN, tmp_path, "--run.num-steps", str(reached + 2)))
    assert f"steps {reached} to {reached + 2}" in main


@pytest.mark.slow
def test_where_one_host_is_asked_to_stop_all_save_and_leave(tmp_path):
    processes = begun(TRAIN, tmp_path, "--run.num-steps", "100000")
    while not checkpoint.steps(tmp_path):
        time.sleep(0.1)
    processes[1].send_signal(signal.SIGTERM)
    main, _ = ended(processes)
    reached = checkpoint.steps(tmp_path)[-1]
    assert f"another host is stopped: saved step {reached} of 100000" in main


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("localhost:1", None, 0), "are given together"),
        ((None, 4, None), "are given together"),
        (("localhost:1", 2, 2), "--host-index 2 is outside 0 .. 1"),
        (("localhost", 2, 0), "not ADDRESS:PORT"),
    ],
)
def test_a_mistake_about_hosts_is_told(given, says):
    with pytest.raises(ValueError, match=says):
        hosts.start(*given)


@pytest.mark.parametrize(
    ("environment", "is_cluster"),
    [
        ({}, False),
        ({"SLURM_NTASKS": "4"}, False),  # sbatch alone: no task has been started
        ({"SLURM_NTASKS": "1", "SLURM_STEP_NODELIST": "a"}, False),
        ({"SLURM_NTASKS": "4", "SLURM_STEP_NODELIST": "a"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, False),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"}, True),
    ],
)
def test_a_cluster_is_known_by_its_environment(environment, is_cluster):
    assert hosts.in_cluster(environment) == is_cluster
