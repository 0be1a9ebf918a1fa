"""Command-line options for the fields of a recipe.

An option is `--section.field VALUE`; tuples are comma-separated, None is `none`, booleans are
`true` or `false`. Help texts come from the docstrings of the dataclasses.
"""

import argparse
import contextlib
import dataclasses
import re
import types
import typing
from collections.abc import Callable
from typing import Any

import docstring_parser


def add(parser: Any, owner: Any, prefix: str) -> None:
    """Adds an option for each field of a dataclass, and of the dataclasses that it contains.

    Args:
      parser: an argparse.ArgumentParser, or an argument group.
      owner: an instance of the dataclass, whose values are the defaults.
      prefix: prefix of the options, such as "run."; "" for a recipe.
    """
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
            add(group if prefix else parser, value, f"{prefix}{field.name}.")
            continue
        if isinstance(value, dict) or _holds_kinds(hints[field.name]):
            continue  # can only be chosen in a recipe's file
        group.add_argument(
            _option(prefix + field.name),
            dest=prefix + field.name,
            type=_reader(hints[field.name]),
            metavar=_metavar(hints[field.name]),
            help=f"{' '.join(docs.get(field.name, '').split())} ({_shown(value)})".replace(
                "%", "%%"
            ),
        )


def _holds_kinds(hint: Any) -> bool:
    parts = typing.get_args(hint)
    return dataclasses.is_dataclass(hint) or any(map(_holds_kinds, parts))


def replaced(owner: Any, given: dict[str, Any], prefix: str) -> Any:
    """Replaces the given values in the dataclass, which checks them again.

    Args:
      given: values by option, without the leading dashes, such as {"run.seed": 1}.
      prefix: prefix of the options of this dataclass.
    Raises:
      ValueError: the dataclass's own message, prefixed by the options that it concerns.
    """
    changes = {}
    for field in dataclasses.fields(owner):
        value = getattr(owner, field.name)
        if dataclasses.is_dataclass(value):
            changes[field.name] = replaced(value, given, f"{prefix}{field.name}.")
        elif prefix + field.name in given:
            changes[field.name] = given[prefix + field.name]
    try:
        return dataclasses.replace(owner, **changes)
    except ValueError as error:
        typed = [name for name in changes if prefix + name in given]
        named = [_option(prefix + name) for name in typed if re.search(rf"\b{name}=", str(error))]
        where = ", ".join(named) or prefix.rstrip(".")
        raise ValueError(f"{where}: {error}" if where else str(error)) from error


def _option(name: str) -> str:
    return f"--{name}".replace("_", "-")


def _reader(hint: Any) -> Callable[[str], Any]:
    """Makes a function that reads a value of the annotated type from its text."""

    def read(hint: Any, text: str) -> Any:
        if isinstance(hint, types.UnionType):  # X | None, or one number or several
            # None is tried first, because str would accept "none" too
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
