"""The command line: options that all commands share, and errors reported in one line."""

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import jax

import configs
from diffusion.optional import ExtraNotInstalled
from diffusion.run import checkpoint


@contextlib.contextmanager
def one_line_errors(
    *mistakes: type[Exception], kept: str = "", saves_memory: str = ""
) -> Iterator[None]:
    """Reports errors in one line, and exits with status 2 for a user's mistake, 1 for a failed run.

    Args:
      mistakes: exceptions that are the user's mistake.
      kept: what a command that is stopped leaves, such as "checkpoints are kept"; "" for nothing.
      saves_memory: advice where memory is short, such as "lower --batch-size"; "" for none.
    """
    stopped = f"; {kept}." if kept else "."
    advice = f"; to use less, {saves_memory}." if saves_memory else "."
    try:
        with _quiet_libraries():
            yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python flushes stdout again when it exits
        _end(f"the pipe that reads its output was closed{stopped}")
    except ExtraNotInstalled as error:
        fail(str(error))
    except mistakes as error:
        if isinstance(error, OSError) and error.filename is not None:
            error = f"cannot use {error.filename}: {error.strerror}."
        fail(str(error))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            _end(f"out of memory ({_short(error)}){advice}")
        if jax.process_count() == 1:
            raise
        _end(
            f"host {jax.process_index()} has lost another host ({_short(error)}); run the same "
            f"command on all hosts again{stopped}"
        )
    except (FloatingPointError, checkpoint.SaveError) as error:
        _end(str(error))
    except KeyboardInterrupt:
        print(f"\n{program()}: stopped{stopped}", file=sys.stderr)
        sys.exit(130)


@contextlib.contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Context in which libraries do not log errors that the one line already reports."""
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio", "urllib3")]
    levels = [logger.level for logger in loggers]
    hook = sys.unraisablehook

    def without_failed_saves(unraisable: Any) -> None:
        # the threads of a failed save would report it a second time
        if str(unraisable.exc_value) != "Event loop is closed":
            hook(unraisable)

    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    sys.unraisablehook = without_failed_saves
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _end(message: str) -> NoReturn:
    print(f"{program()}: {message}", file=sys.stderr)
    sys.exit(1)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:160]


def fail(message: str) -> NoReturn:
    """Prints one line on stderr and exits with status 2."""
    print(f"{program()}: error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


def program() -> str:
    """The command's name, for messages."""
    return os.path.basename(sys.argv[0])


def parse(parser: argparse.ArgumentParser, argv: list[str]) -> argparse.Namespace:
    """Parses the arguments; reports a mistake in one line, with the nearest known option."""
    parser.error = fail  # type: ignore[method-assign]
    namespace, unknown = parser.parse_known_args(argv)
    if unknown:
        word = unknown[0].partition("=")[0]
        if not word.startswith("-"):
            fail(f"unexpected argument {word!r}; options start with --, and --help lists them.")
        fail(f"unknown option {word}{_advice(parser, word)}")
    return namespace


def _advice(parser: argparse.ArgumentParser, word: str) -> str:
    options = [option for action in parser._actions for option in action.option_strings]
    options = [option for option in options if option.startswith("--")]
    titles = [f"--{group.title}" for group in parser._action_groups]
    is_section = word in titles or any(option.startswith(f"{word}.") for option in options)
    if is_section or word.endswith(".kind"):
        return (
            ": kinds are chosen in a recipe's file, numbers on the command line as "
            "--section.field; --help lists all options."
        )
    field = word.rpartition(".")[2]  # looks for the same field in another section
    same = [option for option in options if "." in word and option.endswith(f".{field}")]
    if len(same) == 1:
        return f"; did you mean {same[0]!r}?"
    section = word.partition(".")[0]
    if "." in word and not any(option.startswith(f"{section}.") for option in options):
        return f": this recipe has no section {section}; --help lists all options."
    close = configs.nearest(word, options)
    return close if "mean" in close else "; --help lists all options"


@dataclass(frozen=True)
class HostOptions:
    """How to find the other hosts of a run, see `hosts.start`; all None for a cluster or one host.

    Attributes:
      coordinator: address and port of host 0.
      num_hosts: number of hosts.
      host_index: index of this host, from 0.
    """

    coordinator: str | None = None
    num_hosts: int | None = None
    host_index: int | None = None


def add_host_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options for the fields of `HostOptions`."""
    group = parser.add_argument_group(
        "many hosts", "SLURM, Kubernetes and TPU pods need none of these; elsewhere give all three."
    )
    group.add_argument(
        "--coordinator", default=None, metavar="ADDRESS:PORT", help="address and port of host 0"
    )
    group.add_argument(
        "--num-hosts", default=None, type=int, metavar="N", help="number of hosts; 1 for no others"
    )
    group.add_argument(
        "--host-index", default=None, type=int, metavar="I", help="index of this host, from 0"
    )
