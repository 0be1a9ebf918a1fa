"""The best step of a run: the one whose samples had the smallest Frechet distance."""

import json
from pathlib import Path

KEY = "frechet_distance"
"""Name of the distance in metrics.jsonl."""


def distances(run_dir: Path) -> dict[int, float]:
    """The distance of each step that was measured."""
    path, found = Path(run_dir) / "metrics.jsonl", {}
    if path.exists():
        for line in path.read_text(errors="replace").splitlines():
            if KEY in line:
                try:
                    record = json.loads(line)
                    found[int(record["step"])] = float(record[KEY])
                except (ValueError, KeyError, TypeError):  # a line that was cut off by a kill
                    continue
    return found


def best_step(run_dir: Path) -> int | None:
    """The step with the smallest distance, the first of equal ones; None if none was measured."""
    found = distances(run_dir)
    return min(found, key=lambda step: (found[step], step)) if found else None
