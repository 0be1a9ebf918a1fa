"""What `pip install` brings is enough for what README shows of the two packages."""

import os
import subprocess
import sys
import venv
import zipfile

import pytest
from test_readme import SNIPPETS

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def run(*command, cwd):
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_a_wheel_and_its_declared_dependencies_run_the_readmes_snippets(tmp_path):
    pip = ("-m", "pip", "--disable-pip-version-check", "-q")
    run(sys.executable, *pip, "wheel", "--no-deps", "-w", tmp_path / "dist", ROOT, cwd=tmp_path)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    packages = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in packages if "." not in name} == {"unet_flax", "diffusion"}
    names = zipfile.ZipFile(wheel).namelist()
    assert "diffusion/run/checkpoint.py" in names and "unet_flax/py.typed" in names

    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    run(python, *pip, "install", str(wheel), cwd=tmp_path)
    shown = [text for text in SNIPPETS if "safetensors" not in text and "diffusers" not in text]
    assert len(shown) >= 6
    # on one line, so that the sampler of one's own draws too
    shown.append("assert RungeKutta2()(denoise, x_T, sigmas, jax.random.key(1)).shape == x_T.shape")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "readme.py").write_text("\n".join(shown))
    run(python, "readme.py", cwd=elsewhere)
