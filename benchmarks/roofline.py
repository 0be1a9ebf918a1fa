"""What limits a network's speed: `python -m benchmarks.roofline [--networks ddpm] ...`.

First measures the limits of the chip: the rates of a large matrix product and of a large copy. Then
measures the whole training step, and how long an accelerator is idle between two steps. Then times
each distinct convolution and matrix product of the step alone, and reports how often it occurs and
what share of the matrix rate it reaches. The rest of the step's time goes to norms, activations,
copies, the optimiser and the averages, as far as XLA does not fuse them.
"""

import argparse
import dataclasses
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.extend import core

import diffusion as dm
from benchmarks import networks, timing

PRODUCTS = ("conv_general_dilated", "dot_general")


@dataclasses.dataclass(frozen=True)
class Part:
    """An operation, with all its occurrences in one training step.

    Attributes:
      case: network, type and batch size.
      what: primitive, operands and result.
      count: number of occurrences.
      milliseconds: time of all occurrences: `count` times that of one, timed alone.
      gflops: GFLOP of all occurrences.
      matrix_rate_share: FLOP/s, as a share of those of a large matrix product.
    """

    case: str
    what: str
    count: int
    milliseconds: float
    gflops: float
    matrix_rate_share: float


@dataclasses.dataclass(frozen=True)
class Limits:
    """Measured limits of the chip, and the share of time in which it is idle.

    Attributes:
      case: network, type and batch size.
      matrix_flops_per_second: rate of a large matrix product.
      copied_bytes_per_second: rate of a large copy, bytes read plus bytes written.
      idle_share: share of the time that passes between steps; None on a CPU.
    """

    case: str
    matrix_flops_per_second: float
    copied_bytes_per_second: float
    idle_share: float | None


def seconds(call: Callable[[], Any], rounds: int = 5, queued: int | None = None) -> float:
    """Median time of a call in seconds.

    Args:
      call: returns the arrays that it computes.
      rounds: number of measurements.
      queued: number of calls that are timed together, so that the launch of one overlaps with the
        execution of the previous one; by default 10 on an accelerator, 1 on a CPU.
    """
    queued = queued or (1 if jax.default_backend() == "cpu" else 10)
    jax.block_until_ready(call())
    spent = []
    for _ in range(rounds):
        began = time.perf_counter()
        jax.block_until_ready([call() for _ in range(queued)])
        spent.append((time.perf_counter() - began) / queued)
    return float(np.median(spent))


def matrix_rate(dtype: str) -> float:
    """FLOP/s of a product of two large square matrices."""
    size = 2048 if jax.default_backend() == "cpu" else 8192
    a = jax.random.normal(jax.random.key(0), (size, size), dtype)  # zeros and ones draw less power
    product = jax.jit(jnp.matmul)
    return 2 * size**3 / seconds(lambda: product(a, a))


def copy_rate() -> float:
    """Bytes per second of a large copy, bytes read plus bytes written."""
    size = 2**26 if jax.default_backend() == "cpu" else 2**29
    a = jnp.ones(size, jnp.float32)
    add = jax.jit(lambda a: a + 1)
    return 2 * a.nbytes / seconds(lambda: add(a))


def products(jaxpr: Any) -> Iterator[Any]:
    """All convolutions and matrix products of a jaxpr, including inner jaxprs."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in PRODUCTS:
            yield equation
        for inner in core.jaxprs_in_params(equation.params):
            yield from products(inner)


def part(case: str, equation: Any, count: int, rate: float) -> Part:
    shapes = [variable.aval for variable in equation.invars]
    rng = np.random.default_rng(0)
    operands = [jnp.asarray(rng.standard_normal(s.shape, np.float32), s.dtype) for s in shapes]
    lowered = jax.jit(lambda *a: equation.primitive.bind(*a, **equation.params)).lower(*shapes)
    costs: Any = lowered.cost_analysis()
    flops = costs["flops"]
    call = lowered.compile()
    spent = seconds(lambda: call(*operands))
    of = " x ".join(shape.str_short() for shape in shapes)
    what = f"{equation.primitive.name.partition('_')[0]} {of} -> {equation.outvars[0].aval}"
    return Part(case, what, count, 1e3 * count * spent, count * flops / 1e9, flops / spent / rate)


def report(name: str, batch_size: int | None, dtype: str, most: int) -> list[Any]:
    case = networks.case(name, batch_size)
    title = f"{name} {dtype} batch {case.batch}"
    rate, copies = matrix_rate(dtype), copy_rate()
    print(f"matrix product {rate / 1e12:.3f} TFLOP/s, copy {copies / 1e9:.1f} GB/s")
    step, kinds = traced_step(case, dtype)
    spent = seconds(step)
    parts = [part(title, equation, count, rate) for equation, count in kinds]
    parts.sort(key=lambda part: -part.milliseconds)
    gflops = sum(part.gflops for part in parts)
    share = 1e9 * gflops / spent / rate
    print(
        f"{title}: step {1e3 * spent:.1f} ms, {case.batch / spent:.1f} img/s, "
        f"{gflops:.0f} GFLOP in products, {100 * share:.0f} % of the matrix rate"
    )
    idle = None if jax.default_backend() == "cpu" else idle_share(case, dtype)
    if idle is not None:
        print(f"{100 * idle:.1f} % of the time idle between steps")
    for one in parts[:most]:
        share_of_rate = f"{100 * one.matrix_rate_share:5.0f} %"
        print(f"{one.milliseconds:9.1f} ms {share_of_rate}  {one.count:3} x {one.what}")
    timed = sum(part.milliseconds for part in parts)
    print(f"{timed:9.1f} ms all products, {1e3 * spent - timed:.1f} ms all else\n", flush=True)
    limits = Limits(title, rate, copies, idle)
    return [limits, Part(title, "step", 1, 1e3 * spent, gflops, share), *parts]


def training(case: networks.Case, dtype: str) -> tuple[Any, Any, Any, Any]:
    """A step, its state, batch and key."""
    network, params = networks.ours(case.config, dtype)
    chain, optimizer, ema = dm.VPLinear(), optax.adam(2e-4), dm.EMA()
    train_step = dm.make_train_step(network, dm.Eps(chain), chain, optimizer, ema)
    state = dm.TrainState.create(params, optimizer, ema)
    return train_step, state, {"image": jnp.asarray(networks.images(case))}, jax.random.key(0)


def idle_share(case: networks.Case, dtype: str, steps: int = 20) -> float:
    """Share of the time that steps dispatched one by one take longer than steps in one dispatch.

    Idle time within a step occurs in both, so it is not measured.
    """
    train_step, state, batch, key = training(case, dtype)

    @partial(jax.jit, donate_argnums=0)
    def together(state: Any) -> Any:
        return jax.lax.scan(lambda s, _: train_step(s, batch, key), state, length=steps)[0]

    def one_by_one(state: Any) -> Any:
        for _ in range(steps):
            state, _ = train_step(state, batch, key)
        return state

    def spent(run: Callable[[Any], Any]) -> float:
        nonlocal state

        def call() -> Any:
            nonlocal state
            state = run(state)
            return state

        return seconds(call, queued=1)

    return 1 - spent(together) / spent(one_by_one)


def traced_step(case: networks.Case, dtype: str) -> tuple[Callable[[], Any], list[Any]]:
    """The compiled step, and its distinct products with the number of occurrences of each."""
    train_step, state, batch, key = training(case, dtype)
    traced = train_step.trace(state, batch, key)
    kinds: dict[str, list[Any]] = {}
    for equation in products(traced.jaxpr.jaxpr):
        signature = f"{[v.aval for v in equation.invars]} {equation.primitive} {equation.params}"
        kinds.setdefault(signature, []).append(equation)
    compiled = traced.lower().compile()

    def step() -> Any:
        nonlocal state
        state, metrics = compiled(state, batch, key)
        return metrics

    return step, [(equations[0], len(equations)) for equations in kinds.values()]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", choices=networks.CASES, default=["ddpm"])
    parser.add_argument("--batch-size", type=timing.count, nargs="+", default=[None])
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument(
        "--most", type=timing.count, default=25, help="operations to print; the JSON has all"
    )
    parser.add_argument("--json", type=timing.json_file, metavar="FILE")
    args = parser.parse_args()
    rows = [
        row
        for name in args.networks
        for batch_size in args.batch_size
        for row in report(name, batch_size, args.dtype, args.most)
    ]
    if args.json:
        timing.write_json(args.json, "roofline", rows)


if __name__ == "__main__":
    main()
