"""Memory of a training step: `python -m benchmarks.memory [--networks ddpm]`.

Reports XLA's memory analysis of the compiled step: temporary memory in addition to the training
state (activations, gradients, scratch), with and without recomputing blocks in the backward pass
("remat"). Also reports the size of the state on each of N devices when it is sharded by fsdp.
"""

import argparse
import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import diffusion as dm
from benchmarks import networks, timing
from diffusion import sharding


@dataclasses.dataclass(frozen=True)
class Remat:
    case: str
    remat: bool
    scratch_mib: float
    milliseconds: float


@dataclasses.dataclass(frozen=True)
class Cut:
    case: str
    devices: int
    state_mib: float


def remat(name: str, batch_size: int | None, rounds: int, is_timed: bool) -> list[Remat]:
    steps, scratch = {}, {}
    for again in (False, True):
        case = networks.case(name, batch_size)
        config = dataclasses.replace(case.config, remat=again)
        network, params = networks.ours(config, "float32")
        chain, optimizer, ema = dm.VPLinear(), optax.adam(2e-4), dm.EMA()
        step: Any = dm.make_train_step(network, dm.Eps(chain), chain, optimizer, ema)
        state = dm.TrainState.create(params, optimizer, ema)
        batch, key = {"image": jnp.asarray(networks.images(case))}, jax.random.key(0)
        compiled = step.lower(state, batch, key).compile()
        scratch[again] = compiled.memory_analysis().temp_size_in_bytes / 2**20
        steps[again] = _stepper(compiled, state, batch, key)
    seconds = {again: np.array([math.nan]) for again in steps}
    if is_timed:
        seconds = timing.alternate(steps, rounds)
    title = f"{name}, batch {case.batch}"
    return [Remat(title, a, scratch[a], 1e3 * float(np.median(seconds[a]))) for a in steps]


def _stepper(compiled: Any, state: Any, batch: Any, key: Any) -> Any:
    def step() -> None:
        nonlocal state
        state, _ = compiled(state, batch, key)
        jax.block_until_ready(state)

    return step


def cut(name: str, devices: int) -> Cut:
    """The size of the state on each device, sharded as in `sharding.placed`."""
    case = networks.case(name)
    _, params = networks.ours(case.config, "float32")
    state = jax.eval_shape(lambda p: dm.TrainState.create(p, optax.adam(2e-4), dm.EMA()), params)
    mesh: Any = jax.sharding.AbstractMesh((1, devices), ("data", "fsdp"))
    held = sum(
        leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))
        for leaf in jax.tree.leaves(sharding.placed(mesh, state))
    )
    return Cut(name, devices, held / 2**20)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", choices=networks.CASES, default=["ddpm"])
    parser.add_argument("--batch-size", type=timing.count)
    parser.add_argument("--rounds", type=timing.count, default=3)
    parser.add_argument("--untimed", action="store_true", help="only the memory analysis")
    parser.add_argument("--json", type=timing.json_file, metavar="FILE")
    args = parser.parse_args()
    made: list[Any] = []
    for name in args.networks:
        for row in remat(name, args.batch_size, args.rounds, not args.untimed):
            print(
                f"{row.case:20} remat {row.remat!s:6} {row.scratch_mib:9.0f} MiB temporary "
                f"{row.milliseconds:9.0f} ms a step",
                flush=True,
            )
            made.append(row)
        for devices in (1, 2, 4, 8):
            made.append(row := cut(name, devices))
            print(f"{name:20} fsdp {devices}: {row.state_mib:8.1f} MiB of state on each device")
    if args.json:
        timing.write_json(args.json, "memory", made)


if __name__ == "__main__":
    main()
