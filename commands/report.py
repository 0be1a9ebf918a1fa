"""Prints the result of an evaluation."""

import numpy as np

from commands.evaluation import Result


def table(result: Result) -> str:
    """The numbers beside those of real images, and what they depend on."""
    num_seeds = max(len(values) for values in result.values.values())
    spread = ["spread", "lowest", "highest"] if num_seeds > 1 else []
    rows = [["", "mean" if spread else "value", *spread, *(["real"] if result.floor else [])]]
    for name, values in result.values.items():
        numbers: list[float | None] = [float(np.mean(values))]
        if spread:
            several = (float(np.std(values, ddof=1)), min(values), max(values))
            numbers += several if len(values) > 1 else (None,) * 3
        numbers += [result.floor.get(name)] if result.floor else []
        rows.append([name, *map(_shown, numbers)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            [
                row[0].ljust(widths[0]),
                *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)),
            ]
        )
        for row in rows
    ]
    protocol = dict(result.protocol)
    if result.floor:
        protocol["real"] = result.floor_of
    width = max(map(len, protocol))
    return "\n".join([*lines, "", *(f"{name:{width}}  {what}" for name, what in protocol.items())])


def _shown(number: float | None) -> str:
    if number is None:
        return ""
    return f"{number:.4g}" if abs(number) < 1000 else f"{number:.0f}"
