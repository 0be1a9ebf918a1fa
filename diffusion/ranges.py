"""Checks that numbers lie in their allowed range, called where objects are constructed."""

from typing import Any

import numpy as np
from jax.core import Tracer


def demand(interval: str, **values: Any) -> None:
    """Raises a ValueError for the first value that is no number in the interval; nan is in none.

    Traced values have no number yet, and pass.

    Args:
      interval: such as "(0, inf)" or "[0, 1]"; a round bracket excludes its end, also infinity.
      values: numbers or arrays, by the name that the message shows.
    """
    low, high = map(float, interval[1:-1].split(","))
    for name, value in values.items():
        if isinstance(value, Tracer):
            continue
        try:
            numbers = np.asarray(value, np.float64)
        except (TypeError, ValueError):
            raise ValueError(f"{name}={value!r} is no number in {interval}.") from None
        above = numbers >= low if interval[0] == "[" else numbers > low
        below = numbers <= high if interval[-1] == "]" else numbers < high
        inside = above & below  # nan is neither
        if not inside.all():
            shown = value if numbers.ndim == 0 else numbers[~inside].flat[0]
            raise ValueError(f"{name}={shown} is outside {interval}.")


def demand_ascent(**values: Any) -> None:
    """Raises a ValueError unless each value lies below the next one; traced values pass."""
    pairs = list(values.items())
    for (name, value), (next_name, next_value) in zip(pairs, pairs[1:], strict=False):
        if isinstance(value, Tracer) or isinstance(next_value, Tracer):
            continue
        if not value < next_value:
            raise ValueError(f"{name}={value} must lie below {next_name}={next_value}.")
