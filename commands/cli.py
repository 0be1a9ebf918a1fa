"""The command line: what train.py is asked for, and a user's mistake as one line."""

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jax

import configs
from commands import options as fields
from configs.recipe import Recipe
from diffusion.run import checkpoint


@contextlib.contextmanager
def one_line_errors(*mistakes: type[Exception]) -> Iterator[None]:
    """Ends the program with one line: status 2 for a user's mistake, 1 for a failed run.

    Args:
      mistakes: which errors are the user's here.
    """
    for library in ("absl", "asyncio", "urllib3"):  # our line says what went wrong
        logging.getLogger(library).setLevel(logging.CRITICAL)
    sys.unraisablehook = _without_cut_off_writes
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python would try again when it ends
        _end("nobody reads what it says any more, so it ends; checkpoints are kept.")
    except mistakes as error:
        if isinstance(error, OSError) and error.filename is not None:
            error = f"cannot use {error.filename}: {error.strerror}."
        fail(str(error))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            _end(
                f"out of memory ({_short(error)}); a smaller --data.batch-size, a larger "
                "--run.accumulate, or --model.remat true takes less."
            )
        if jax.process_count() == 1:
            raise
        _end(
            f"host {jax.process_index()} has lost another ({_short(error)}); the same command on "
            "all hosts goes on from the last checkpoint."
        )
    except (FloatingPointError, checkpoint.SaveError) as error:
        _end(str(error))
    except KeyboardInterrupt:
        print(f"\n{_program()}: stopped; checkpoints are kept.", file=sys.stderr)
        sys.exit(130)


def _without_cut_off_writes(unraisable: Any) -> None:
    """As Python, but that a failed save is told of once, and not by each of its threads."""
    if str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


def _end(message: str) -> NoReturn:
    print(f"{_program()}: {message}", file=sys.stderr)
    sys.exit(1)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:160]


def fail(message: str) -> NoReturn:
    """One line on stderr, exit status 2."""
    print(f"{_program()}: error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


def _program() -> str:
    return os.path.basename(sys.argv[0])


def parse(parser: argparse.ArgumentParser, argv: list[str]) -> argparse.Namespace:
    """Parses; a mistake is one line, and an unknown option suggests the nearest."""
    parser.error = fail  # type: ignore[method-assign]
    namespace, unknown = parser.parse_known_args(argv)
    if unknown:
        options = [option for action in parser._actions for option in action.option_strings]
        word = unknown[0].partition("=")[0]
        if word.startswith("-"):
            titles = [f"--{group.title}" for group in parser._action_groups]
            is_section = word in titles or any(o.startswith(f"{word}.") for o in options)
            if is_section or word.endswith(".kind"):
                fail(
                    f"unknown option {word}: kinds are chosen in a recipe's file, numbers on the "
                    "command line as --section.field; --help lists all options."
                )
            close = configs.nearest(word, [o for o in options if o.startswith("--")])
            hint = close if "mean" in close else "; --help lists all options"
            fail(f"unknown option {word}{hint}")
        fail(f"unexpected argument {word!r}; options start with --, and --help lists them.")
    return namespace


def add_hosts(parser: argparse.ArgumentParser) -> None:
    """The options of a run on many hosts, see `hosts.start`."""
    group = parser.add_argument_group(
        "many hosts", "SLURM, Kubernetes and TPU pods need none of these; elsewhere give all three."
    )
    group.add_argument("--coordinator", default=None, metavar="ADDRESS:PORT", help="of host 0")
    group.add_argument("--num-hosts", default=None, type=int, metavar="N", help="how many")
    group.add_argument("--host-index", default=None, type=int, metavar="I", help="this, from 0")


class TrainRequest(NamedTuple):
    """What `train.py` is asked for.

    Attributes:
      recipe: with the command's values in it.
      run_dir: the run's folder.
      is_dry: whether to say what it costs, and train nothing.
      profile_steps: steps of which a trace is kept, first and last; or None.
      hosts: coordinator, number of hosts and index of this one, see `hosts.start`.
    """

    recipe: Recipe
    run_dir: Path
    is_dry: bool
    profile_steps: tuple[int, int] | None
    hosts: tuple[str | None, int | None, int | None]


def parse_train(argv: list[str]) -> TrainRequest:
    """`RECIPE [--section.field VALUE ...] [--run-dir DIR] [--dry-run] [--profile-steps A,B]`.

    Without arguments lists the recipes and exits.

    Raises:
      ValueError: an unknown recipe, or values that contradict each other.
    """
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: python train.py RECIPE [--section.field VALUE ...] [--run-dir DIR]\n")
        print("A folder with a checkpoint is resumed. RECIPE --help lists its fields. Recipes:")
        width = 2 + max(map(len, configs.names()))
        for name in configs.names():
            print(f"  {name:{width}}{configs.describe(name)}")
        sys.exit(0)
    name, *options = argv
    recipe = configs.load(name)
    parser = argparse.ArgumentParser(
        f"{_program()} {name}",
        description=configs.describe(name),
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=40, width=100),
    )
    parser.add_argument("--run-dir", metavar="DIR", help=f"the run's folder (runs/{name})")
    parser.add_argument(
        "--dry-run", action="store_true", help="say what it would cost, and train nothing"
    )
    parser.add_argument(
        "--profile-steps",
        metavar="FIRST,LAST",
        help="keep a trace of these steps in RUN_DIR/profile, for xprof or Perfetto",
    )
    add_hosts(parser)
    fields.add(parser, recipe, "")
    given = dict(vars(parse(parser, [_kebab(option) for option in options])))
    if given.get("run_dir") == "":
        raise ValueError("--run-dir is empty; name a folder.")
    run_dir = Path(given.pop("run_dir", f"runs/{name}"))
    is_dry, profiled = given.pop("dry_run", False), given.pop("profile_steps", None)
    steps = None if profiled is None else _span(profiled)
    hosts = tuple(given.pop(name) for name in ("coordinator", "num_hosts", "host_index"))
    recipe = fields.replaced(recipe, given, "")
    if steps is not None and steps[0] > recipe.run.num_steps:
        raise ValueError(f"--profile-steps {profiled}: the run ends at {recipe.run.num_steps}.")
    return TrainRequest(recipe, run_dir, is_dry, steps, hosts)


def _span(text: str) -> tuple[int, int]:
    first, _, last = text.partition(",")
    if not (first.isdecimal() and last.isdecimal() and 0 < int(first) <= int(last)):
        raise ValueError(f"--profile-steps {text} is not FIRST,LAST, such as 10,12.")
    return int(first), int(last)


def _kebab(argument: str) -> str:
    """--data.batch_size=8 to --data.batch-size=8."""
    if not argument.startswith("--"):
        return argument
    option, equals, value = argument.partition("=")
    return option.replace("_", "-") + equals + value
