"""What `pip install` brings is enough for what README shows of the two packages."""

import os
import shutil
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
    tracked = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines()
    for name in tracked:  # without what an earlier build has left in the folder
        (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(os.path.join(ROOT, name), tmp_path / "source" / name)
    build = ("wheel", "--no-deps", "-w", tmp_path / "dist", tmp_path / "source")
    run(sys.executable, *pip, *build, cwd=tmp_path)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    packages = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in packages if "." not in name} == {"unet_flax", "diffusion"}
    names = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info" not in n}
    assert names == {n for n in tracked if n.startswith(("unet_flax/", "diffusion/"))}

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
