"""Rules for fields: each returns the value as a plain Python one, or says what is allowed.

settle(self, channels=whole(), dropout=real(least=0, below=1), remat=flag)

ValueError: dropout=1.5 must be a finite number, 0 or more, below 1.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, get_args

import numpy as np

# a configuration asks for its rules whenever one is made; typed, since "0 or more" is not "0.0 or
# more"
once = lru_cache(maxsize=None, typed=True)


@dataclass(frozen=True)
class Rule:
    """What a value must be.

    Attributes:
      allowed: it in words, after "must be".
      fits: whether a value, of whatever type, is so.
      plain: a value that fits as Python's own type, so that configurations compare, hash and can
        be written as JSON whatever they were made of.
    """

    allowed: str
    fits: Callable[[Any], bool]
    plain: Callable[[Any], Any] = lambda value: value

    def __call__(self, name: str, value: Any) -> Any:
        """The value as a plain one.

        Raises:
          ValueError: it does not fit; one line with the name, the value and what is allowed.
        """
        if not self.fits(value):
            shown = " ".join(repr(value).split())
            shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
            raise ValueError(f"{name}={shown} must be {self.allowed}.")
        return self.plain(value)


def settle(config: Any, **rules: Rule) -> None:
    """Puts every named field of a frozen dataclass under its rule, from its __post_init__."""
    for name, rule in rules.items():
        object.__setattr__(config, name, rule(name, getattr(config, name)))


@once
def whole(least: int = 1, most: int | None = None) -> Rule:
    """A whole number in [least, most], of Python or numpy; True is none, nor is 2.0."""

    def fits(value: Any) -> bool:
        if not isinstance(value, int | np.integer) or isinstance(value, bool):
            return False
        return bool(value >= least and (most is None or value <= most))

    reach = f", {least} or more" if most is None else f" from {least} to {most}"
    return Rule(f"a whole number{reach}", fits, int)


@once
def real(
    *,
    above: int | float = -math.inf,
    least: int | float = -math.inf,
    below: int | float = math.inf,
    most: int | float = math.inf,
) -> Rule:
    """A finite number in the bounds, of Python or numpy."""

    def fits(value: Any) -> bool:
        if not isinstance(value, int | float | np.integer | np.floating) or isinstance(value, bool):
            return False
        in_bounds = above < value < below and least <= value <= most
        return bool(in_bounds and math.isfinite(value))

    bounds = {"above {}": above, "{} or more": least, "below {}": below, "at most {}": most}
    said = [text.format(bound) for text, bound in bounds.items() if math.isfinite(bound)]
    return Rule(", ".join(["a finite number", *said]), fits, float)


@once
def each(rule: Rule, least: int = 1, most: int | float = math.inf) -> Rule:
    """A tuple (or list) of `least` to `most` values that fit the rule."""

    def fits(value: Any) -> bool:
        is_long = isinstance(value, list | tuple) and least <= len(value) <= most
        return is_long and all(map(rule.fits, value))

    some = f" of {least}{' or more' if most > least else ''}" if least else ""
    return Rule(f"a tuple{some}, each {rule.allowed}", fits, lambda v: tuple(map(rule.plain, v)))


@once
def either(*rules: Rule) -> Rule:
    """What fits one of the rules."""

    def plain(value: Any) -> Any:
        return next(rule for rule in rules if rule.fits(value)).plain(value)

    allowed = "; or ".join(rule.allowed for rule in rules)
    return Rule(allowed, lambda value: any(rule.fits(value) for rule in rules), plain)


def or_none(rule: Rule) -> Rule:
    """What fits the rule, or None."""
    return either(rule, nothing)


@once
def one_of(*options: str | None) -> Rule:
    """One of these words."""

    def fits(value: Any) -> bool:
        return (value is None or isinstance(value, str)) and value in options

    return Rule(_listed([repr(option) for option in options]), fits)


@once
def instance_of(kinds: Any) -> Rule:
    """An object of a class, or of one of the classes of a union."""
    names = [kind.__name__ for kind in get_args(kinds) or (kinds,)]
    return Rule(f"a {_listed(names)}", lambda value: isinstance(value, kinds))


def _listed(names: list[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else last


nothing = Rule("None", lambda value: value is None)

flag = Rule("True or False", lambda value: isinstance(value, bool | np.bool_), bool)

float_type = one_of("float32", "bfloat16")

array_like = Rule(
    "an array of JAX or numpy", lambda value: hasattr(value, "shape") and hasattr(value, "dtype")
)

taps = Rule(
    "an even number of finite taps, two or more, whose sum is not 0",
    lambda value: (
        each(real(), least=2).fits(value) and len(value) % 2 == 0 and 0 < abs(sum(value)) < math.inf
    ),
    each(real()).plain,
)
"""Of a filter, see `resample.Halve`."""
