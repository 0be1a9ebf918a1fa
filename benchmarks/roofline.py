"""What holds a network back: `python -m benchmarks.roofline [--networks ddpm] [--dtype bfloat16]`.

First the chip's own limits, measured: the rate of a large matrix product and of a large copy. Then
the whole training step against them, how long an accelerator waits between two steps, and every
distinct convolution and matrix product in the step, timed alone: how often it occurs, its share of
the step, and of the matrix rate. What the step takes beyond their sum are norms, activations,
copies, the optimiser and the averages, less what XLA hides by fusing.
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
    """A kind of operation, all its occurrences in one training step together.

    Attributes:
      what: primitive, operands and result.
      milliseconds: of all `count`, each timed alone.
      gflops: of all.
      matrix_rate_share: reached FLOP/s over those of a large matrix product.
    """

    case: str
    what: str
    count: int
    milliseconds: float
    gflops: float
    matrix_rate_share: float


@dataclasses.dataclass(frozen=True)
class Limits:
    """What the chip can do, and how much of it waits.

    Attributes:
      idle_share: of the time of steps that are started one by one; None on a CPU.
    """

    case: str
    matrix_flops_per_second: float
    copied_bytes_per_second: float
    idle_share: float | None


def seconds(call: Callable[[], Any], rounds: int = 5, queued: int | None = None) -> float:
    """The median of a call, which returns what it computes.

    Args:
      queued: calls that are timed together, so that launching one hides behind the one before;
        by default 10 on an accelerator.
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
    """Bytes/s, read and written."""
    size = 2**26 if jax.default_backend() == "cpu" else 2**29
    a = jnp.ones(size, jnp.float32)
    add = jax.jit(lambda a: a + 1)
    return 2 * a.nbytes / seconds(lambda: add(a))


def products(jaxpr: Any) -> Iterator[Any]:
    """Every convolution and matrix product, those in inner functions too."""
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
        print(f"{100 * idle:.1f} % of the time between steps")
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
    """What steps take when started one by one, beyond the same steps in one dispatch.

    What a device waits for within a step is in both, and not seen.
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
    """The compiled step, and one of each kind of product in it with how often it occurs."""
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
        "--most", type=timing.count, default=25, help="lines shown; all stand in the JSON"
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
