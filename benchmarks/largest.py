"""The largest batch of a training step that fits in memory: `python -m benchmarks.largest --gib 4`.

Compares our step, with and without recomputing blocks in the backward pass (remat), with diffusers'
in PyTorch. Each trial is a process of its own. The limit is the GPU's memory, or on a CPU a peak of
--gib. Batch sizes are powers of two, and then half-way from the largest that fits to the next.
"""

import argparse
import dataclasses
import os
import signal
import subprocess
import sys

import torch

from benchmarks import command, devices, networks, timing, train_step
from diffusion.run import hardware

SIDES = ("unet-flax", "unet-flax remat", *(f"torch {side}" for side in command.SIDES))


@dataclasses.dataclass(frozen=True)
class Largest:
    """The largest batch that fits, and its peak memory (of the GPU; on a CPU, of the process)."""

    case: str
    side: str
    batch: int
    peak_gib: float


def take(name: str, side: str, batch: int, dtype: str) -> float:
    """Takes two steps and returns the peak memory in GiB; fails if the batch does not fit."""
    case = networks.case(name, batch)
    if side.startswith("torch"):
        options = command.SIDES[side.removeprefix("torch ")]
        step = train_step.their_side(case, dtype, options)
    else:
        config = dataclasses.replace(case.config, remat=side.endswith("remat"))
        step = train_step.our_side(case._replace(config=config), dtype)
    step()
    step()
    if side.startswith("torch") and devices.torch_device().type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return hardware.memory_gib()


def fits(name: str, side: str, batch: int, dtype: str, gib: float | None) -> float | None:
    """The peak memory in GiB of a trial process, or None if the batch is too large."""
    argv = ["-m", "benchmarks.largest", "--networks", name, "--dtype", dtype]
    done = subprocess.run(
        [sys.executable, *argv, "--try", side, str(batch)],
        env={"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.95"} | os.environ,  # PyTorch has no such limit
        capture_output=True,
        text=True,
    )
    if done.returncode == -signal.SIGKILL:
        return None  # killed by the kernel: the machine is out of memory
    if done.returncode != 0:
        if not timing.is_out_of_memory(done.stderr):
            raise RuntimeError(f"{side}, batch {batch}: {done.stderr.strip()[-500:]}")
        return None
    peak = float(done.stdout.split()[-1])
    return peak if gib is None or peak <= gib else None


def search(name: str, side: str, dtype: str, gib: float | None) -> Largest:
    best, peak, batch = 0, 0.0, 8
    while (reached := fits(name, side, batch, dtype, gib)) is not None:
        best, peak, batch = batch, reached, 2 * batch
    if best and (reached := fits(name, side, 3 * best // 2, dtype, gib)) is not None:
        best, peak = 3 * best // 2, reached
    return Largest(f"{name} {dtype}", side, best, peak)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", choices=networks.CASES, default=["ddpm"])
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=[*SIDES[:2], "torch eager"])
    parser.add_argument("--gib", type=float, help="memory limit of a trial; required on a CPU")
    parser.add_argument("--json", type=timing.json_file, metavar="FILE")
    parser.add_argument("--try", nargs=2, dest="one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        side, batch = args.one
        print(take(args.networks[0], side, int(batch), args.dtype))
        return
    if devices.shared() == "cpu" and args.gib is None:
        parser.error("on a CPU, give --gib, the memory limit of a trial.")
    rows = []
    for name in args.networks:
        networks.num_parameters(networks.case(name))  # checks that both sides have equally many
        for side in args.sides:
            rows.append(row := search(name, side, args.dtype, args.gib))
            print(f"{row.case:20} {row.side:20} batch {row.batch:5}  {row.peak_gib:6.2f} GiB")
    if args.json:
        timing.write_json(args.json, "largest", rows)


if __name__ == "__main__":
    main()
