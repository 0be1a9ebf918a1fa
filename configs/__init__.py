"""Recipes, one a file: `configs/NAME.py` holds `recipe`, and its docstring says what it gives."""

import ast
import difflib
import importlib
from pathlib import Path

from configs.recipe import Recipe, Run, Sampling
from diffusion.training.optimizers import Adam, Optax

__all__ = ["Adam", "Optax", "Recipe", "Run", "Sampling", "describe", "load", "names"]

_FOLDER = Path(__file__).parent


def names() -> list[str]:
    """All recipes, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.py") if "\nrecipe = " in path.read_text())


def describe(name: str) -> str:
    """The first line of a recipe's docstring, without importing it."""
    docstring = ast.get_docstring(ast.parse((_FOLDER / f"{name}.py").read_text()))
    return (docstring or "").partition("\n")[0]


def load(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
      ValueError: there is none; the nearest name is suggested.
    """
    if name not in names():
        raise ValueError(f"unknown recipe {name!r}{nearest(name, names())}")
    return importlib.import_module(f"configs.{name}").recipe


def nearest(word: str, allowed: list[str]) -> str:
    """`; did you mean X?`, or the whole list where nothing is near."""
    close = difflib.get_close_matches(word, allowed, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(allowed)}"
