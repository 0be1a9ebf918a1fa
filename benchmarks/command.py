"""The command line that the benchmarks against PyTorch share, and how PyTorch is run."""

import argparse
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import torch

from benchmarks import devices, networks, timing
from benchmarks.networks import Case


@dataclass(frozen=True)
class TorchOptions:
    """How PyTorch runs the network.

    Attributes:
      compiled: whether torch.compile is used.
      channels_last: whether the memory format is channels_last.
    """

    compiled: bool = False
    channels_last: bool = False

    def prepare(self, model: torch.nn.Module) -> Any:
        if not self.compiled:
            return model
        torch._dynamo.reset()  # otherwise a second batch size is compiled with dynamic shapes
        return torch.compile(model, mode="max-autotune", dynamic=False)

    def images(self, case: Case) -> torch.Tensor:
        x = torch.from_numpy(networks.images(case)).permute(0, 3, 1, 2).to(devices.torch_device())
        return x.contiguous(
            memory_format=torch.channels_last if self.channels_last else torch.contiguous_format
        )

    def autocast(self, dtype: str) -> contextlib.AbstractContextManager:
        if dtype == "float32":
            return contextlib.nullcontext()
        return torch.autocast(devices.torch_device().type, torch.bfloat16)


SIDES = {
    "eager": TorchOptions(),
    "channels-last": TorchOptions(channels_last=True),
    "compiled": TorchOptions(compiled=True, channels_last=True),
}

OurSide = Callable[[Case, str], Callable[[], Any]]
TheirSide = Callable[[Case, str, TorchOptions], Callable[[], Any]]


def run(
    doc: str | None, our_side: OurSide, their_side: TheirSide, argv: list[str] | None = None
) -> None:
    """Parses the command line, measures, prints a table, and writes JSON if --json is given."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", choices=networks.CASES, default=["ddpm"])
    parser.add_argument("--batch-size", type=timing.count, nargs="+", default=[None])
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=["eager"])
    parser.add_argument("--rounds", type=timing.count, default=5)
    parser.add_argument("--json", type=timing.json_file, metavar="FILE")
    args = parser.parse_args(argv)
    devices.shared()
    rows = []
    for name in args.networks:
        ours, theirs = networks.num_parameters(networks.case(name))
        if ours != theirs:
            print(f"{name}: {ours:,} parameters; diffusers' most similar network has {theirs:,}")
        for batch_size in args.batch_size:
            case = networks.case(name, batch_size)
            try:
                sides = {"unet-flax": our_side(case, args.dtype)}
                for side in args.sides:
                    sides[f"torch {side}"] = their_side(case, args.dtype, SIDES[side])
                seconds = timing.alternate(sides, args.rounds)
            except (RuntimeError, jax.errors.JaxRuntimeError) as error:
                if not timing.is_out_of_memory(repr(error)):
                    raise
                print(f"{name} {args.dtype}, batch {case.batch}: out of memory, skipped")
                break
            made = timing.rows(
                f"{name} {args.dtype}",
                seconds,
                f"torch {args.sides[0]}",
                images=case.batch,
                parameters=dict.fromkeys(sides, theirs) | {"unet-flax": ours},
            )
            timing.show(made)
            rows += made
            if args.json:  # after each case, so that an error in a later one loses no results
                timing.write_json(args.json, Path(parser.prog).stem, rows)


def wait_for_torch() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
