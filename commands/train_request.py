"""The command line of `train.py`."""

import argparse
import os
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import configs
from commands import cli, options
from commands.cli import HostOptions
from configs import AnyRecipe

one_line_errors = partial(
    cli.one_line_errors,
    kept="checkpoints are kept",
    saves_memory="lower --data.batch-size, raise --run.accumulate, or set --model.remat true",
)


@dataclass(frozen=True)
class TrainRequest:
    """The options of `train.py`.

    Attributes:
      recipe: the recipe, with the values of the command line.
      run_dir: the run's folder.
      is_dry: whether to print the cost of the run instead of training.
      profile_steps: first and last step to trace, or None.
      hosts: how to find the other hosts.
    """

    recipe: AnyRecipe
    run_dir: Path
    is_dry: bool
    profile_steps: tuple[int, int] | None
    hosts: HostOptions


def parse(argv: list[str]) -> TrainRequest:
    """Parses `RECIPE [--section.field VALUE ...] [--run-dir DIR] [--dry-run] ...`.

    Without arguments, lists the recipes and exits.

    Raises:
      ValueError: the recipe is unknown, or values are wrong or contradict each other.
    """
    if not argv or argv[0] in ("-h", "--help"):
        _list_recipes()
        sys.exit(0)
    name, *rest = argv
    recipe = configs.load(name)
    parser = argparse.ArgumentParser(
        f"{os.path.basename(sys.argv[0])} {name}",
        description=configs.describe(name),
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=40, width=100),
    )
    parser.add_argument("--run-dir", metavar="DIR", help=f"the run's folder (runs/{name})")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the cost of the run, without training"
    )
    parser.add_argument(
        "--profile-steps",
        metavar="FIRST,LAST",
        help="write a trace of these steps to RUN_DIR/profile, for xprof or Perfetto",
    )
    cli.add_host_options(parser)
    options.add(parser, recipe, "")
    given = dict(vars(cli.parse(parser, [_kebab(option) for option in rest])))
    if given.get("run_dir") == "":
        raise ValueError("--run-dir is empty; give a folder.")
    run_dir = Path(given.pop("run_dir", f"runs/{name}"))
    is_dry, profiled = given.pop("dry_run", False), given.pop("profile_steps", None)
    steps = None if profiled is None else _span(profiled)
    hosts = HostOptions(given.pop("coordinator"), given.pop("num_hosts"), given.pop("host_index"))
    recipe = options.replaced(recipe, given, "")
    if steps is not None and steps[0] > recipe.run.num_steps:
        raise ValueError(
            f"--profile-steps {profiled}: the run ends at step {recipe.run.num_steps}."
        )
    return TrainRequest(recipe, run_dir, is_dry, steps, hosts)


def _list_recipes() -> None:
    print("usage: python train.py RECIPE [--section.field VALUE ...] [--run-dir DIR]\n")
    print("Resumes if the folder holds a checkpoint. RECIPE --help lists its fields. Recipes:")
    width = 2 + max(map(len, configs.names()))
    for name in configs.names():
        print(f"  {name:{width}}{configs.describe(name)}")


def _span(text: str) -> tuple[int, int]:
    first, _, last = text.partition(",")
    if not (first.isdecimal() and last.isdecimal() and 0 < int(first) <= int(last)):
        raise ValueError(f"--profile-steps {text} is not FIRST,LAST, such as 10,12.")
    return int(first), int(last)


def _kebab(argument: str) -> str:
    """Turns --data.batch_size=8 into --data.batch-size=8."""
    if not argument.startswith("--"):
        return argument
    option, equals, value = argument.partition("=")
    return option.replace("_", "-") + equals + value
