"""The command line: a recipe's fields as options, and a user's mistake as one line.

An option is `--section.field VALUE`; tuples are comma-separated, None is `none`, a truth `true` or
`false`. Help texts are the attributes' docstrings.
"""

import argparse
import contextlib
import dataclasses
import logging
import os
import signal
import sys
import threading
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import docstring_parser
import jax

import configs
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
    _add_fields(parser, recipe, "")
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
    return TrainRequest(_replace(recipe, given, ""), run_dir, is_dry, steps, hosts)


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


def _add_fields(parser: Any, owner: Any, prefix: str) -> None:
    docs = {
        name.strip(): parameter.description or ""
        for parameter in docstring_parser.parse(type(owner).__doc__ or "").params
        for name in parameter.arg_name.split(",")
    }
    hints = typing.get_type_hints(type(owner))
    group = parser.add_argument_group(prefix.rstrip(".")) if prefix.count(".") == 1 else parser
    for field in dataclasses.fields(owner):
        value = getattr(owner, field.name)
        if dataclasses.is_dataclass(value):
            _add_fields(group if prefix else parser, value, f"{prefix}{field.name}.")
            continue
        if isinstance(value, dict):
            continue  # for recipes alone
        group.add_argument(
            f"--{prefix}{field.name}".replace("_", "-"),
            dest=prefix + field.name,
            type=_reader(hints[field.name]),
            metavar=_metavar(hints[field.name]),
            help=f"{' '.join(docs.get(field.name, '').split())} ({_shown(value)})".replace(
                "%", "%%"
            ),
        )


def _replace(owner: Any, given: dict[str, Any], prefix: str) -> Any:
    """The dataclass with the given values in it, checked anew."""
    changes = {}
    for field in dataclasses.fields(owner):
        value = getattr(owner, field.name)
        if dataclasses.is_dataclass(value):
            changes[field.name] = _replace(value, given, f"{prefix}{field.name}.")
        elif prefix + field.name in given:
            changes[field.name] = given[prefix + field.name]
    return dataclasses.replace(owner, **changes)


def _reader(hint: Any) -> Callable[[str], Any]:
    """Reads a value of the annotated type from its text."""

    def read(hint: Any, text: str) -> Any:
        if isinstance(hint, types.UnionType):  # X | None, or one number or several
            # None first: `none` is a text too
            for kind in sorted(typing.get_args(hint), key=lambda kind: kind is not type(None)):
                with contextlib.suppress(ValueError, KeyError):
                    return read(kind, text)
            raise ValueError
        if hint is type(None):
            return {"none": None}[text]
        if typing.get_origin(hint) is tuple:
            return tuple(read(typing.get_args(hint)[0], part) for part in text.split(",") if part)
        if hint is bool:
            return {"true": True, "false": False}[text.lower()]
        return hint(text)

    def reader(text: str) -> Any:
        try:
            return read(hint, text)
        except (ValueError, KeyError):
            raise argparse.ArgumentTypeError(f"{text!r} is not {_metavar(hint)}") from None

    return reader


def _metavar(hint: Any) -> str:
    if isinstance(hint, types.UnionType):
        return "|".join("none" if a is type(None) else _metavar(a) for a in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return f"{_metavar(typing.get_args(hint)[0])},..."
    return {bool: "true|false", str: "TEXT"}.get(hint, getattr(hint, "__name__", "VALUE").upper())


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
