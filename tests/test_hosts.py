"""Laws of multi-host runs, tested with two processes of two devices each on this machine."""

import os
import signal
import socket
import subprocess
import sys
import time
from importlib.util import find_spec

import jax
import numpy as np
import pytest
import runs
from runs import ROOT, final_state

import train
from diffusion.run import checkpoint, hosts

SMALL = [*runs.SMALL, "--mesh.data", "-1"]
JOIN = """
import sys, time
from diffusion.run import hosts
hosts.start(sys.argv[-5], 2, int(sys.argv[-1]))
print("joined", flush=True)
time.sleep(120)
"""
AGREE = """
import sys, time
from diffusion.run import hosts
index = int(sys.argv[-1])
hosts.start(sys.argv[-5], 2, index)
hosts.AGREE_EVERY_SECONDS = 0.2
stop, step, began = hosts.StopAgreement(0), 1, time.monotonic()
request = lambda: "SIGTERM" if index == 1 and time.monotonic() - began > 2 else None
while not stop.reached(step, request, metrics=()):
    time.sleep(0.001 * (1 + index))
    step += 1
print("stopped", step)
"""
SHORT = ("--run.num-steps", "3")
TRAIN = "import sys, train; train.main(sys.argv[1:])"
TRAIN_RESUME_SAMPLE = """
import sys, sample, train
words = sys.argv[1:]
run_dir = words[words.index("--run-dir") + 1]
train.main([*words, "--run.num-steps", "3"])
train.main([*words[: words.index("--coordinator")], "--run.num-steps", "6"])
sample.main([run_dir, "--num-images", "6"])
"""
AS_HERE = runs.AS_HERE | {"JAX_NUM_CPU_DEVICES": "2"}


def by_flags(port, index):
    """How a host finds the others: by its arguments, or by its environment."""
    flags = ["--coordinator", f"localhost:{port}", "--num-hosts", "2", "--host-index", str(index)]
    return flags, {}


def by_slurm(num_machines):
    """The environment that srun gives two tasks, on one machine or on two."""
    return lambda port, index: (
        [],
        {
            "JAX_COORDINATOR_PORT": str(port),  # otherwise derived from the job id
            "SLURM_JOB_ID": "1",
            "SLURM_STEP_NODELIST": "localhost",
            "SLURM_STEP_NUM_NODES": str(num_machines),
            "SLURM_NTASKS": "2",
            "SLURM_PROCID": str(index),
            "SLURM_LOCALID": str(index if num_machines == 1 else 0),
        },
    )


def begun(program, run_dir, *options, told=by_flags):
    """Two hosts that run the same program."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    processes = []
    for index in (0, 1):
        flags, environment = told(port, index)
        process = subprocess.Popen(
            [sys.executable, "-c", program, *SMALL, "--run-dir", str(run_dir), *options, *flags],
            cwd=ROOT,
            env=os.environ | AS_HERE | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        processes.append(process)
    return processes


def first_saved(run_dir):
    deadline = time.monotonic() + 120
    while not checkpoint.steps(run_dir) and time.monotonic() < deadline:
        time.sleep(0.1)


def ended(processes, status=0):
    """The output of each process; raises if one ended with another status."""
    try:
        outs = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, out in zip(processes, outs, strict=True):
        assert process.returncode == status, out[-2000:]
    return outs


def assert_same_weights(a, b):
    """Equal up to rounding: with several hosts, sums over devices have another order."""
    for x, y in zip(jax.tree.leaves(final_state(a)), jax.tree.leaves(final_state(b)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", ["1", "2"])
def test_two_hosts_are_one_run(tmp_path, fsdp):
    two, one = tmp_path / "two", tmp_path / "one"
    main, other = ended(begun(TRAIN_RESUME_SAMPLE, two, "--mesh.fsdp", fsdp))
    assert "steps 3 to 6" in main and "6 images of step 6" in main
    assert "step" not in other  # only the main host prints
    train.main([*SMALL, "--run-dir", str(one), "--run.num-steps", "6", "--mesh.fsdp", fsdp])
    assert_same_weights(two, one)
    for run_dir in (one, two):
        assert len((run_dir / "metrics.jsonl").read_text().splitlines()) == 4  # once each
    assert {p.name for p in (two / "images").iterdir()} == {"grid.png", "samples.npz", "png"}
    assert len(list((two / "images" / "png").iterdir())) == 6


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", ["1", "4"])  # 4: each array is sharded over both hosts
def test_a_run_that_moves_to_two_hosts_and_back_ends_as_one_that_stays(tmp_path, fsdp):
    moved, stayed = tmp_path / "moved", tmp_path / "stayed"
    options = ("--mesh.fsdp", fsdp, "--run.num-steps")
    train.main([*SMALL, "--run-dir", str(moved), *options, "3"])  # one host of four devices
    main, _ = ended(begun(TRAIN, moved, *options, "6"))
    assert "steps 3 to 6" in main
    train.main([*SMALL, "--run-dir", str(moved), *options, "9"])
    train.main([*SMALL, "--run-dir", str(stayed), *options, "9"])
    assert checkpoint.steps(moved) == checkpoint.steps(stayed)
    assert_same_weights(moved, stayed)


@pytest.mark.slow
@pytest.mark.parametrize(("num_machines", "devices"), [(1, ["0", "1"]), (2, ["all", "all"])])
def test_tasks_of_slurm_find_each_other_and_their_devices(tmp_path, num_machines, devices):
    tell = "; import jax; print('devices', jax.config.values['jax_cuda_visible_devices'])"
    outs = ended(begun(TRAIN + tell, tmp_path, *SHORT, told=by_slurm(num_machines)))
    assert [out.split("devices ")[1].strip() for out in outs] == devices
    assert "steps 0 to 3" in outs[0] and "step" not in outs[1]
    assert checkpoint.steps(tmp_path) == [3]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_where_one_host_is_killed_the_other_ends_and_the_run_resumes(tmp_path, victim):
    processes = begun(TRAIN, tmp_path, "--run.num-steps", "100000")
    first_saved(tmp_path)
    processes[victim].kill()
    _, error = processes[victim].communicate()
    out, _ = processes[1 - victim].communicate(timeout=60)
    assert processes[1 - victim].returncode != 0
    assert "another task died" in out or "has lost another" in out
    reached = checkpoint.steps(tmp_path)[-1]
    main, _ = ended(begun(TRAIN, tmp_path, "--run.num-steps", str(reached + 2)))
    assert f"steps {reached} to {reached + 2}" in main


@pytest.mark.slow
def test_a_signal_to_one_host_stops_all_in_time(tmp_path):
    seldom = ("--run.log-every-steps", "100000", "--run.num-steps", "100000")
    processes = begun(TRAIN, tmp_path, *seldom)
    first_saved(tmp_path)
    began = time.monotonic()
    processes[1].send_signal(signal.SIGTERM)
    main, _ = ended(processes, status=128 + signal.SIGTERM)
    assert time.monotonic() - began < 30  # the usual grace period of clusters
    reached = checkpoint.steps(tmp_path)[-1]
    assert f"another host received a signal: saved step {reached} of 100000" in main


def test_hosts_of_different_speed_stop_at_the_same_step(tmp_path):
    one, other = (out.split("stopped ")[1].split()[0] for out in ended(begun(AGREE, tmp_path)))
    assert one == other  # if they exchanged at different steps, they would hang


def test_a_single_host_stops_at_the_first_step_after_a_signal():
    stop = hosts.StopAgreement(0)
    assert not stop.reached(1, lambda: None, metrics=())  # the next exchange is at step 3
    assert not stop.reached(2, lambda: None, metrics=())
    assert stop.reached(2, lambda: signal.SIGTERM, metrics=())


def test_sigterm_ends_a_host_before_it_trains(tmp_path):
    processes = begun(JOIN, tmp_path)
    for process in processes:
        assert "joined" in process.stdout.readline()
    for process in processes:
        process.send_signal(signal.SIGTERM)
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGTERM


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("localhost:1", None, 0), "go together: give all three"),
        ((None, 4, None), "go together: give all three"),
        (("localhost:1", 2, 2), "--host-index 2 is outside 0 .. 1"),
        (("localhost", 2, 0), "not ADDRESS:PORT"),
    ],
)
def test_wrong_host_options_are_an_error(given, says):
    with pytest.raises(ValueError, match=says):
        hosts.start(*given)


@pytest.mark.parametrize(
    ("environment", "is_cluster"),
    [
        ({}, False),
        ({"SLURM_NTASKS": "4"}, False),  # sbatch without srun: no task was started
        ({"SLURM_NTASKS": "1", "SLURM_STEP_NODELIST": "a"}, False),
        ({"SLURM_NTASKS": "4", "SLURM_STEP_NODELIST": "a"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, False),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"}, True),
    ],
)
def test_a_cluster_is_known_by_its_environment(environment, is_cluster):
    assert hosts.in_cluster(environment) == is_cluster


@pytest.fixture
def pod(monkeypatch):
    """This process is a pod of an indexed Kubernetes job."""
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "0")


@pytest.mark.skipif(find_spec("kubernetes") is not None, reason="the package is installed")
def test_a_pod_without_the_kubernetes_package_names_it_in_an_error(pod):
    with pytest.raises(ConnectionError, match="pip install kubernetes.* --num-hosts 1"):
        hosts.start()


def test_a_pod_that_is_a_run_of_its_own_asks_for_no_others(pod):
    hosts.start(num_hosts=1)
    assert jax.process_count() == 1


def test_an_incomplete_cluster_environment_is_an_error_in_one_line(monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "2")
    monkeypatch.setenv("SLURM_STEP_NODELIST", "a")  # without the job id
    with pytest.raises(ConnectionError, match="not found .*: .*--coordinator ADDRESS:PORT"):
        hosts.start()


SLURM = {"SLURM_NTASKS": "4", "SLURM_STEP_NUM_NODES": "4", "SLURM_LOCALID": "0"}
PACKED = SLURM | {"SLURM_STEP_NUM_NODES": "1", "CUDA_VISIBLE_DEVICES": "0,1,2,3"}
MPI = {"OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_LOCAL_SIZE": "4"}


@pytest.mark.parametrize(
    ("environment", "ids"),
    [
        ({}, None),
        (SLURM, []),  # one task a machine
        (SLURM | {"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}, []),
        ({"SLURM_NTASKS": "2", "SLURM_NNODES": "2"}, []),
        (PACKED, None),  # one device a task
        (PACKED | {"SLURM_GPUS_PER_TASK": "1"}, None),  # --gpu-bind=none: each sees all
        (PACKED | {"CUDA_VISIBLE_DEVICES": "0"}, []),  # each sees its own
        (PACKED | {"CUDA_VISIBLE_DEVICES": "2,3", "SLURM_GPUS_PER_TASK": "2"}, []),
        (PACKED | {"CUDA_VISIBLE_DEVICES": "2,3", "SLURM_GPUS_PER_TASK": "h100:2"}, []),
        (MPI, None),
        (MPI | SLURM, None),  # mpirun is the task of SLURM, and has four of its own
        (MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, []),
        (SLURM | {"JAX_LOCAL_DEVICE_IDS": "1"}, None),
    ],
)
def test_no_device_is_left_idle_or_taken_twice(environment, ids):
    assert hosts.local_device_ids(environment) == ids
