"""Without the extra `train`: arrays and networks work, files ask for it in one line."""

import subprocess
import sys
from pathlib import Path

import pytest

from commands import cli
from diffusion.optional import from_extra

ROOT = Path(__file__).parent.parent
EXTRAS = ["PIL", "safetensors", "orbax", "tensorboardX", "tqdm", "sklearn", "tensorflow_datasets"]
WITHOUT = f"import sys; sys.modules |= dict.fromkeys({EXTRAS})\n"


def run(code):
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_arrays_need_no_extra():
    done = run(
        WITHOUT
        + "import numpy as np, diffusion, unet_flax\n"
        + "from diffusion.data import ImageArrays\n"
        + "arrays = ImageArrays(np.zeros((4, 8, 8, 1), np.uint8), None, (), 2)\n"
        + "assert arrays.batch(0, 0)['image'].shape == (2, 8, 8, 1)\n"
    )
    assert done.returncode == 0, done.stderr


def test_what_is_missing_is_one_line_with_its_extra(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "diffusion_pytorch_model.safetensors").touch()
    uses = {
        "PIL": "import diffusion.data.images",
        "safetensors": f"import unet_flax; unet_flax.load_diffusers({str(tmp_path)!r})",
        "safetensors ": "import diffusion.run.weights",
        "orbax": "import diffusion.run.checkpoint",
        "tensorboardX": "import diffusion.run.tensorboard",
        "tqdm": "import diffusion.run.progress",
        "sklearn": "from diffusion.data import Digits; Digits().load()",
        "tensorflow_datasets": "from diffusion.data import Cifar10; "
        f"Cifar10(path={str(tmp_path)!r}).load()",
    }  # fmt: skip
    code = WITHOUT
    for use in uses.values():
        code += f"try:\n    {use}\nexcept ModuleNotFoundError as error:\n    print(error)\n"
    lines = run(code).stdout.splitlines()
    assert len(lines) == len(uses)
    for name, line in zip(uses, lines, strict=True):
        assert line.startswith(name.strip()) and "pip install 'unet-flax[train]'" in line


@pytest.mark.parametrize("module", ["diffusion.run.lock", "diffusion.run.hardware"])
def test_what_needs_posix_says_so_on_windows(module):
    done = run(f"import diffusion, sys; sys.platform = 'win32'; import {module}")
    assert done.returncode == 1
    assert "ImportError: diffusion.run, train.py and sample.py need Linux" in done.stderr


def test_networks_and_data_need_no_posix():
    hidden = "import sys; sys.modules |= dict(fcntl=None, resource=None)\n"
    done = run(f"{hidden}import diffusion, diffusion.data, unet_flax, unet_flax.diffusers")
    assert done.returncode == 0, done.stderr


def test_a_command_says_in_one_line_which_extra_is_missing(capsys):
    with pytest.raises(SystemExit, match="2"), cli.one_line_errors(), from_extra("huggingface"):
        import no_such_package  # noqa: F401  # pyright: ignore
    (line,) = capsys.readouterr().err.splitlines()
    assert "no_such_package is not installed" in line and "'unet-flax[huggingface]'" in line
