"""Laws of the house: which room may know of which."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RIM = {f"{name}.py" for name in "checkpoint feed fingerprint hardware hosts images".split()}
RIM |= {
    f"{name}.py"
    for name in "journal lock meter packing profile progress tensorboard tracker".split()
}


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def packages(path):
    return {name.partition(".")[0] for name in imported(path)}


@pytest.mark.parametrize("path", sorted((ROOT / "unet_flax").rglob("*.py")), ids=lambda p: p.name)
def test_the_network_needs_jax_and_flax_alone(path):
    allowed = {"jax", "flax", "jaxtyping", "numpy", "unet_flax"}
    at_the_rim = {"safetensors", "json", "pathlib"} if path.name == "diffusers.py" else set()
    at_the_rim |= {"os"} if path.name == "cpu.py" else set()
    standard = {"collections", "dataclasses", "functools", "itertools", "math", "typing"}
    assert packages(path) <= allowed | at_the_rim | standard


@pytest.mark.parametrize(
    "path",
    sorted(p for p in (ROOT / "diffusion").glob("*.py") if p.name not in RIM),
    ids=lambda p: p.name,
)
def test_the_methods_core_needs_jax_and_optax_alone(path):
    allowed = {"jax", "optax", "jaxtyping", "numpy", "scipy", "diffusion"}
    standard = {"collections", "dataclasses", "functools", "math", "typing"}
    assert packages(path) <= allowed | standard
    rim = {f"diffusion.{Path(name).stem}" for name in RIM} | {"diffusion.data"}
    assert not rim & set(imported(path))


@pytest.mark.parametrize("path", sorted((ROOT / "diffusion").rglob("*.py")), ids=lambda p: p.name)
def test_the_method_knows_no_network(path):
    assert not packages(path) & {"flax", "unet_flax", "configs"}


@pytest.mark.parametrize("path", [ROOT / "train.py", ROOT / "sample.py"], ids=lambda p: p.name)
def test_the_commands_hold_no_classes(path):
    assert not [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ClassDef)]


def test_nothing_reads_pickle():
    for path in ROOT.glob("[!.]*/**/*.py"):
        assert "pickle" not in packages(path), path
