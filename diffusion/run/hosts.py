"""Multi-host training: every host runs the same command, and all of them form one run.

A host is one JAX process. Host 0 is the main host: only it writes logs, pictures and samples. All
hosts write checkpoints, into one folder on a file system that they share.
"""

import importlib.util
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

LOST_AFTER_SECONDS = 30
"""Heartbeat timeout, after which a host counts as lost; also the timeout of the shutdown."""

AGREE_EVERY_SECONDS = 5.0
"""About how often the hosts agree whether to stop."""


def start(
    coordinator: str | None = None, num_hosts: int | None = None, host_index: int | None = None
) -> None:
    """Connects this process to the other hosts; call it before JAX uses any device.

    Without arguments it detects a cluster: tasks of SLURM or Open MPI, an indexed Kubernetes job, a
    TPU pod. If there is none, this host is the only one.

    Args:
      coordinator: address and port of host 0, such as 10.0.0.1:4321.
      num_hosts: number of hosts; 1 alone ignores the cluster, so that this host is its own run.
      host_index: index of this host, from 0.
    Raises:
      ValueError: only some of the three are given, or they contradict each other.
      ConnectionError: the other hosts cannot be found or reached.
    """
    given = (coordinator, num_hosts, host_index)
    if given == (None, 1, None):
        return
    if None in given and any(value is not None for value in given):
        raise ValueError(
            "--coordinator, --num-hosts and --host-index go together: give all three, or none."
        )
    if num_hosts is not None and host_index is not None and not 0 <= host_index < num_hosts:
        raise ValueError(f"--host-index {host_index} is outside 0 .. {num_hosts - 1}.")
    if coordinator is not None and not coordinator.rpartition(":")[2].isdecimal():
        raise ValueError(f"--coordinator {coordinator} is not ADDRESS:PORT.")
    if coordinator is None and not in_cluster(os.environ) and not _is_tpu():
        return
    if coordinator is None and in_kubernetes(os.environ) and not _is_tpu():
        _check_kubernetes()
    # JAX's preemption service would take over SIGTERM, and a host that loads data or samples could
    # not be ended
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            coordinator,
            num_hosts,
            host_index,
            local_device_ids(os.environ) if coordinator is None else None,
            # JAX asks the cluster only where no coordinator is given
            cluster_detection_method=None if coordinator is None else "deactivate",
            heartbeat_timeout_seconds=LOST_AFTER_SECONDS,
            shutdown_timeout_seconds=LOST_AFTER_SECONDS,
        )
    except Exception as error:  # the kubernetes package raises its own types
        if coordinator is None and not in_cluster(os.environ):
            return  # libtpu is installed, but this is no TPU pod
        what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ConnectionError(
            f"the other hosts were not found ({what}); add --coordinator ADDRESS:PORT "
            "--num-hosts N --host-index I, or --num-hosts 1 if this host is a run of its own."
        ) from error


def in_cluster(environment: Mapping[str, str]) -> bool:
    """Whether a cluster has started this process as one of several."""
    tasks = {
        "SLURM_NTASKS": "SLURM_STEP_NODELIST" in environment,  # set by srun
        "OMPI_COMM_WORLD_SIZE": True,
    }
    if any(counts and int(environment.get(name, 1)) > 1 for name, counts in tasks.items()):
        return True
    return in_kubernetes(environment)


def in_kubernetes(environment: Mapping[str, str]) -> bool:
    """Whether this process is a pod of an indexed Kubernetes job, which can have one pod."""
    return {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= environment.keys()


def _check_kubernetes() -> None:
    if importlib.util.find_spec("kubernetes") is None:
        raise ConnectionError(
            "this is a pod of an indexed Kubernetes job, whose pods form one run; to find the "
            'other pods, pip install kubernetes, or ".[kubernetes]". If each pod is a run of its '
            "own, add --num-hosts 1."
        )


def local_device_ids(environment: Mapping[str, str]) -> list[int] | None:
    """Devices of this machine that this process uses: [] for all visible ones, None if JAX chooses.

    JAX assigns one device to each task of SLURM and Open MPI, by the task's index on its machine.
    That leaves devices idle if a machine runs one task (github.com/jax-ml/jax/issues/16788), and
    chooses a wrong device if the cluster makes only its own devices visible to each task
    (issues/23452).
    """
    if "JAX_LOCAL_DEVICE_IDS" in environment:
        return None  # JAX reads this variable itself
    if "OMPI_COMM_WORLD_LOCAL_SIZE" in environment:  # first: mpirun can run inside a SLURM task
        is_alone = environment["OMPI_COMM_WORLD_LOCAL_SIZE"] == "1"
    else:
        num_machines = environment.get("SLURM_STEP_NUM_NODES", environment.get("SLURM_NNODES"))
        is_alone = num_machines is not None and environment.get("SLURM_NTASKS") == num_machines
    seen = [name for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    per_task = int(environment.get("SLURM_GPUS_PER_TASK", "1").rpartition(":")[2])  # [TYPE:]NUMBER
    return [] if is_alone or 0 < len(seen) <= per_task else None


def _is_tpu() -> bool:
    return importlib.util.find_spec("libtpu") is not None


def is_main() -> bool:
    """Whether this is host 0, which writes logs, pictures and samples."""
    return jax.process_index() == 0


def any_host(value: bool) -> bool:
    """Whether the value is true on any host; all hosts must call it."""
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.process_allgather(np.asarray(value)).any())


class StopAgreement:
    """Decides whether to stop; all hosts reach the same decision, even if one alone gets a signal.

    The hosts exchange their stop requests about every five seconds, because each exchange waits for
    the devices. All hosts must exchange at the same step, so no host can choose it by its own
    clock: at each exchange they agree on the step of the next, from the longest time that any of
    them measured. A single host waits for its device as often: it dispatches steps ahead of the
    device, and would notice a signal late.

    Args:
      step: the step at which the run starts.
    """

    def __init__(self, step: int):
        self._last, self._next, self._since = step, step + 1, time.monotonic()

    def reached(self, step: int, stop_request: Callable[[], Any], metrics: Any) -> bool:
        """Whether to stop after this step; all hosts must call it at the same steps.

        Args:
          stop_request: returns the signal that this host received, or None.
          metrics: arrays that are ready when the devices have finished this step.
        """
        if step < self._next:
            return jax.process_count() == 1 and stop_request() is not None
        jax.block_until_ready(metrics)  # so that the time below includes the devices' work
        own = [stop_request() is not None, time.monotonic() - self._since]
        requests, seconds = multihost_utils.process_allgather(np.asarray(own, np.float32)).T
        steps = step - self._last
        # at most twice as many as last time: a few steps measure the speed badly
        ahead = min(2 * steps, int(steps * AGREE_EVERY_SECONDS / seconds.max()))
        self._last, self._next, self._since = step, step + max(1, ahead), time.monotonic()
        return bool(requests.any())


def check_same(value: int, what: str, advice: str) -> None:
    """Raises a ValueError on every host unless the value is the same on all hosts.

    Args:
      value: 32 bits without sign.
      what: what the value describes, for the message.
      advice: what to do, for the message.
    """
    if jax.process_count() == 1:
        return
    values = multihost_utils.process_allgather(np.asarray(value, np.uint32)).tolist()
    if len(set(values)) > 1:
        raise ValueError(f"the hosts do not see the same {what}: {values}; {advice}.")


def total(values: np.ndarray) -> np.ndarray:
    """Sums an array over all hosts, in the array's own type."""
    if jax.process_count() == 1:
        return values
    return multihost_utils.process_allgather(values).sum(0, dtype=values.dtype)


def fetch(arrays: Any) -> Any:
    """Copies sharded arrays to every host, whole, as numpy arrays."""
    if jax.process_count() == 1:
        return jax.device_get(arrays)
    return multihost_utils.process_allgather(arrays, tiled=True)


def print_on_main(*words: Any, sep: str = " ") -> None:
    """Prints on the main host only."""
    if is_main():
        print(*words, sep=sep, flush=True)
