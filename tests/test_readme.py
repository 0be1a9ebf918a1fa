"""What the README shows works as it stands there, but with one level less of its network."""

import contextlib
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def snippets(page):
    return re.findall(r"```python\n(.*?)```", page, re.DOTALL)


SNIPPETS = snippets(README)
SMALLER = (
    "channel_mult=(1, 2), num_res_blocks=1, attention_resolutions=(4,)",
    "channel_mult=(1,), num_res_blocks=1, attention_resolutions=()",
)
OF_A_RUN = "weights.safetensors"  # test_seams.py has a run for it


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The names that the snippets leave, run one after the other, and the folder they ran in."""
    names, folder = {}, tmp_path_factory.mktemp("readme")
    assert SMALLER[0] in README
    with contextlib.chdir(folder):
        for snippet in SNIPPETS:
            if OF_A_RUN not in snippet:
                exec(snippet.replace(*SMALLER), names)
    return names, folder


def test_the_readmes_snippets_run_one_after_the_other(ran):
    names, folder = ran
    assert names["logits"].shape == (1, 32, 32, 2)
    assert names["x_0"].shape == (4, 8, 8, 3)
    assert (folder / "folder" / "config.json").exists()


@pytest.mark.parametrize("page", ["train", "extend", "migrate"])
def test_the_snippets_of_other_pages_run(ran, page):
    _, folder = ran
    (snippet,) = snippets((ROOT / "docs" / f"{page}.md").read_text())
    small = snippet.replace("(4, 32, 32, 3)", "(4, 8, 8, 3)").replace("steps=50", "steps=3")
    names = {}
    with contextlib.chdir(folder):  # which holds a diffusers folder of images of 8x8
        exec(small, names)
    assert names.keys() & {"recipe", "batch", "images"}


def test_the_snippets_on_editing_run_one_after_the_other():
    def network(params, x, c_noise, *, context, attention_edit=None):
        return params * x + jnp.tanh(context.mean((1, 2)))[:, None, None, None]

    source, target, null = jax.random.normal(jax.random.key(1), (3, 2, 4, 5))
    image = jnp.linspace(-0.9, 0.9, 2 * 12 * 12 * 3).reshape(2, 12, 12, 3)
    names = {
        "network": network,
        "params": jnp.float32(0.1),
        "image": image,
        "source": source,
        "target": target,
        "null": null,
    }
    for snippet in snippets((ROOT / "docs" / "editing.md").read_text()):
        exec(snippet.replace("dm.Karras()(50)", "dm.Karras()(10)"), names)
    for name in ("filled", "variations", "after", "again", "edited"):
        assert names[name].shape == image.shape and jnp.isfinite(names[name]).all(), name
    assert names["between"].shape == (1, 12, 12, 3)


def test_reuse_takes_ten_lines_in_nnx_in_linen_and_in_plain_jax():
    for name in ("nnx_step", "linen_step", "jax_step"):
        (snippet,) = (snippet for snippet in SNIPPETS if f"def {name}(" in snippet)
        assert len(snippet.splitlines()) <= 10


def test_training_lowers_the_loss_in_nnx_in_linen_and_in_plain_jax(ran):
    names, _ = ran
    losses = {"nnx_step": [float(loss) for loss in names["nnx_loss"]]}
    starts = {
        "linen_step": (names["linen_params"], names["linen_loss"]),
        "jax_step": (names["params"], names["jax_loss"]),
    }
    for name, (params, first) in starts.items():
        losses[name] = [float(first)]
        for _ in range(3):
            params, loss = names[name](params)
            losses[name].append(float(loss))
    for name, values in losses.items():
        assert np.isfinite(values).all() and values[-1] < values[0], name


def test_the_readme_is_short_and_links_to_files_that_exist():
    assert len(README.splitlines()) < 300
    for link in re.findall(r"\]\(([^)]+)\)", README):
        assert link.startswith("http") or (ROOT / link).exists(), link


def test_the_readme_opens_with_the_demo_and_the_tests():
    first = re.findall(r"```\n(.*?)```", README, re.DOTALL)[0]
    assert re.search(r"^make demo\b.*^make test\b", first, re.DOTALL | re.MULTILINE)
