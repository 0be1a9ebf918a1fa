"""Many hosts: each runs the same command, and together they are one run.

Host 0 is the main one: it alone writes logs, pictures and samples. Checkpoints are written by all,
into one folder that all of them see.
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
"""How long a host may be silent before the others give up; and how long they wait at the end."""

AGREE_EVERY_SECONDS = 5.0
"""How long at most, about, until all hosts know that one of them is to stop."""


def start(
    coordinator: str | None = None, num_hosts: int | None = None, host_index: int | None = None
) -> None:
    """Joins this process to the others; to be called before anything asks for a device.

    Without arguments it looks for a cluster: SLURM's or Open MPI's tasks, an indexed Kubernetes
    job, a TPU pod. Where there is none, this host is the only one.

    Args:
      coordinator: address and port of host 0, such as 10.0.0.1:4321.
      num_hosts: how many processes there are; 1 for this one alone, whatever the cluster says.
      host_index: which of them this is, from 0.
    Raises:
      ValueError: some are given and others not, or they contradict each other.
      ConnectionError: the others cannot be asked for, or not reached.
    """
    given = (coordinator, num_hosts, host_index)
    if given == (None, 1, None):
        return
    if None in given and any(value is not None for value in given):
        raise ValueError(
            "--coordinator, --num-hosts and --host-index are given together, or none of them."
        )
    if num_hosts is not None and host_index is not None and not 0 <= host_index < num_hosts:
        raise ValueError(f"--host-index {host_index} is outside 0 .. {num_hosts - 1}.")
    if coordinator is not None and not coordinator.rpartition(":")[2].isdecimal():
        raise ValueError(f"--coordinator {coordinator} is not ADDRESS:PORT.")
    if coordinator is None and not in_cluster(os.environ) and not _is_tpu():
        return
    if coordinator is None and in_kubernetes(os.environ) and not _is_tpu():
        _check_kubernetes()
    # it would take SIGTERM for itself, and a host that loads or samples could not be ended
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            coordinator,
            num_hosts,
            host_index,
            local_device_ids(os.environ) if coordinator is None else None,
            # what is given is given; else JAX asks the cluster
            cluster_detection_method=None if coordinator is None else "deactivate",
            heartbeat_timeout_seconds=LOST_AFTER_SECONDS,
            shutdown_timeout_seconds=LOST_AFTER_SECONDS,
        )
    except Exception as error:  # Kubernetes' package has errors of its own
        if coordinator is None and not in_cluster(os.environ):
            return  # a TPU's library without a pod of TPUs
        what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ConnectionError(
            f"the other hosts were not found ({what}); name them by --coordinator ADDRESS:PORT "
            "--num-hosts N --host-index I, or say --num-hosts 1 if this is a run of its own."
        ) from error


def in_cluster(environment: Mapping[str, str]) -> bool:
    """Whether this process is one of several that a cluster has started."""
    tasks = {
        "SLURM_NTASKS": "SLURM_STEP_NODELIST" in environment,  # by srun
        "OMPI_COMM_WORLD_SIZE": True,
    }
    if any(counts and int(environment.get(name, 1)) > 1 for name, counts in tasks.items()):
        return True
    return in_kubernetes(environment)


def in_kubernetes(environment: Mapping[str, str]) -> bool:
    """Whether this process is a pod of an indexed Kubernetes job, of however many pods."""
    return {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= environment.keys()


def _check_kubernetes() -> None:
    if importlib.util.find_spec("kubernetes") is None:
        raise ConnectionError(
            "this is a pod of an indexed Kubernetes job, and such pods are one run; to find the "
            'others pip install kubernetes, or ".[kubernetes]". If each pod is a run of its own, '
            "say --num-hosts 1."
        )


def local_device_ids(environment: Mapping[str, str]) -> list[int] | None:
    """Which devices of its machine this process takes: [] is all that it sees, None as JAX chooses.

    To each task of SLURM and Open MPI JAX gives one device, by the task's number on its machine.
    That leaves the others idle where a machine has one task (github.com/jax-ml/jax/issues/16788),
    and names the wrong one where the cluster shows each task its own devices alone (issues/23452).
    """
    if "JAX_LOCAL_DEVICE_IDS" in environment:
        return None  # JAX goes by it
    if "OMPI_COMM_WORLD_LOCAL_SIZE" in environment:  # first, for mpirun may be a task of SLURM
        is_alone = environment["OMPI_COMM_WORLD_LOCAL_SIZE"] == "1"
    else:
        num_machines = environment.get("SLURM_STEP_NUM_NODES", environment.get("SLURM_NNODES"))
        is_alone = num_machines is not None and environment.get("SLURM_NTASKS") == num_machines
    seen = [name for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    share = int(environment.get("SLURM_GPUS_PER_TASK", "1").rpartition(":")[2])  # or TYPE:NUMBER
    return [] if is_alone or 0 < len(seen) <= share else None


def _is_tpu() -> bool:
    return importlib.util.find_spec("libtpu") is not None


def is_main() -> bool:
    """Whether this host writes what one alone should write."""
    return jax.process_index() == 0


def any_host(value: bool) -> bool:
    """Whether the value is true on any host; all hosts must call it."""
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.process_allgather(np.asarray(value)).any())


class StopAgreement:
    """Whether to stop: the same answer on all hosts, though a signal reaches only some of them.

    Asking makes the hosts wait for their devices, so it happens only about every five seconds. A
    host cannot decide by its own clock when to ask, because all must ask at the same step: each
    time they agree, by the slowest clock among them, on the step at which they ask again. A single
    host waits as often, because it runs ahead of its device and would notice a signal late.

    Args:
      step: at which the run begins.
    """

    def __init__(self, step: int):
        self._asked, self._next, self._since = step, step + 1, time.monotonic()

    def reached(self, step: int, stop_request: Callable[[], Any], metrics: Any) -> bool:
        """Whether to stop after this step; all hosts call it at the same steps.

        Args:
          stop_request: says whether this host is asked to, and by what.
          metrics: arrays of this step, which are ready when the devices are done with it.
        """
        if step < self._next:
            return jax.process_count() == 1 and stop_request() is not None
        jax.block_until_ready(metrics)  # before the clock is read: it is the devices' time
        here = [stop_request() is not None, time.monotonic() - self._since]
        requests, seconds = multihost_utils.process_allgather(np.asarray(here, np.float32)).T
        steps = step - self._asked
        # at most twice as many as before: the first ones may have been quick by chance
        ahead = min(2 * steps, int(steps * AGREE_EVERY_SECONDS / seconds.max()))
        self._asked, self._next, self._since = step, step + max(1, ahead), time.monotonic()
        return bool(requests.any())


def check_same(value: int, what: str) -> None:
    """Raises a ValueError on every host where they do not all give the same value."""
    if jax.process_count() == 1:
        return
    values = multihost_utils.process_allgather(np.asarray(value)).tolist()
    if len(set(values)) > 1:
        raise ValueError(
            f"the hosts do not see the same {what}: {values}; the run's folder must lie where all "
            "of them see it."
        )


def total(values: np.ndarray) -> np.ndarray:
    """The sum over all hosts of an array that each of them has, in its own type."""
    if jax.process_count() == 1:
        return values
    return multihost_utils.process_allgather(values).sum(0, dtype=values.dtype)


def fetch(arrays: Any) -> Any:
    """Arrays that are cut among hosts, whole on every host, as numpy arrays."""
    if jax.process_count() == 1:
        return jax.device_get(arrays)
    return multihost_utils.process_allgather(arrays, tiled=True)


def say(*words: Any, sep: str = " ") -> None:
    """Prints, on the main host alone."""
    if is_main():
        print(*words, sep=sep, flush=True)
