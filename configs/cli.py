"""The command line: what train.py is asked for, signals, and a user's mistake as one line."""

import argparse
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jax

import configs
from configs import fields
from configs.schema import Recipe
from diffusion import checkpoint


@contextlib.contextmanager
def one_line_errors(*mistakes: type[Exception]) -> Iterator[None]:
    """Ends the program with one line: status 2 for a user's mistake, 1 for a failed run.

    Args:
      mistakes: which errors can be the user's here; ValueError and OSError where none is named.
    """
    mistakes = mistakes or (ValueError, OSError)
    for library in ("absl", "asyncio", "urllib3"):  # our line says what went wrong
        logging.getLogger(library).setLevel(logging.CRITICAL)
    try:
        yield
    except mistakes as error:
        if isinstance(error, OSError) and error.filename is not None:
            error = f"cannot use {error.filename}: {error.strerror}."
        fail(str(error))
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        print(
            f"{_program()}: host {jax.process_index()} has lost another "
            f"({' '.join(str(error).split())[:160]}); the same command on all hosts goes on from "
            "the last checkpoint.",
            file=sys.stderr,
        )
        sys.exit(1)
    except FloatingPointError as error:
        print(f"{_program()}: {error}", file=sys.stderr)
        sys.exit(1)
    except checkpoint.SaveError as error:
        # Orbax's threads, cut off, have much to say: ours is the last line
        stderr = os.dup(2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        os.write(stderr, f"{_program()}: {error}\n".encode())
        sys.exit(1)
    except KeyboardInterrupt:
        print(f"\n{_program()}: stopped; checkpoints are kept.", file=sys.stderr)
        sys.exit(130)


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[], str | None]]:
    """Within it, SIGINT and SIGTERM ask the program to end soon; a second SIGINT ends it at once.

    Gives a function that says by which signal, or None.
    """
    received: list[str] = []

    def ask(number: int, frame: Any) -> None:
        received.append(signal.Signals(number).name)
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, before[signal.SIGINT])

    if threading.current_thread() is not threading.main_thread():
        yield lambda: None  # signals are the main thread's
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: received[0] if received else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
    given = {
        key: value
        for key, value in vars(parse(parser, [_kebab(option) for option in options])).items()
    }
    if given.get("run_dir") == "":
        raise ValueError("--run-dir is empty; name a folder.")
    run_dir = Path(given.pop("run_dir", f"runs/{name}"))
    is_dry, profiled = given.pop("dry_run", False), given.pop("profile_steps", None)
    steps = None if profiled is None else _span(profiled)
    hosts = tuple(given.pop(name) for name in ("coordinator", "num_hosts", "host_index"))
    return TrainRequest(fields.replaced(recipe, given, ""), run_dir, is_dry, steps, hosts)


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
