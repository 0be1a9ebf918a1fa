"""Recipes: `configs/NAME.py` defines `recipe`; the first line of its docstring describes it.

What a recipe is lies in `configs/recipe`.
"""

import ast
import difflib
import importlib
from pathlib import Path

from configs.recipe import AnyRecipe, AutoencoderRecipe, Recipe, Run, Sampling
from diffusion.training.optimizers import Adam, Muon, Optax

__all__ = [
    "Adam",
    "AnyRecipe",
    "AutoencoderRecipe",
    "Muon",
    "Optax",
    "Recipe",
    "Run",
    "Sampling",
    "describe",
    "load",
    "names",
]

_FOLDER = Path(__file__).parent


def names() -> list[str]:
    """The names of all recipes, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.py") if "\nrecipe = " in path.read_text())


def describe(name: str) -> str:
    """The first line of a recipe's docstring, without importing it."""
    docstring = ast.get_docstring(ast.parse((_FOLDER / f"{name}.py").read_text()))
    return (docstring or "").partition("\n")[0]


def load(name: str) -> AnyRecipe:
    """The recipe with this name.

    Raises:
      ValueError: there is none; the message suggests the nearest name.
    """
    if name not in names():
        raise ValueError(f"unknown recipe {name!r}{nearest(name, names())}")
    return importlib.import_module(f"configs.{name}").recipe


def nearest(word: str, allowed: list[str]) -> str:
    """The end of a message: "; did you mean X?", or all allowed words if none is similar."""
    close = difflib.get_close_matches(word, allowed, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; choose from {', '.join(allowed)}"
