"""DINOv2's features are transformers' (from_torch/make_transformers.py)."""

import numpy as np
import pytest
from from_torch import seeded

from diffusion.metrics.dinov2 import check, dinov2, interpolation, keys
from diffusion.metrics.transformer import num_blocks

GOLDEN = np.load(seeded.FOLDER / "transformers.npz")
TINY = seeded.drawn(seeded.dinov2(128, 2))
GIANT = seeded.drawn(seeded.dinov2(128, 2, is_giant=True))


def assert_close(ours, theirs):
    # sums of some thousand float32 terms in another order
    assert ours.dtype == np.float32 and ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() < 5e-6 * np.abs(theirs).max()


def test_the_norms_epsilon_is_transformers():
    assert_close(dinov2(seeded.faint(TINY), GOLDEN["small"]), GOLDEN["dinov2_faint"])


@pytest.mark.parametrize("name", ["small", "tall"])
def test_features_equal_transformers(name):
    assert_close(dinov2(TINY, GOLDEN[name]), GOLDEN[f"dinov2_{name}"])


def test_features_of_the_giants_gated_layers_equal_transformers():
    check(GIANT)
    assert_close(dinov2(GIANT, GOLDEN["small"]), GOLDEN["dinov2_giant"])


def test_position_offset_gives_the_positions_of_facebooks_own_code():
    theirs = GOLDEN["dinov2_hub"]
    assert_close(dinov2(TINY, GOLDEN["tall"], position_offset=0.1), theirs)
    assert np.abs(GOLDEN["dinov2_tall"] - theirs).max() > 1e-3 * np.abs(theirs).max()


def test_keys_of_the_last_block_equal_transformers():
    found = keys(TINY, GOLDEN["tall"])
    assert found.shape == (2, 257, 128)
    assert_close(np.asarray(found[:, ::16]), GOLDEN["dinov2_keys"])


@pytest.mark.parametrize(
    ("name", "width", "blocks", "images"),
    [
        ("vits", 384, 12, "small"),
        pytest.param("vitl", 1024, 24, "large", marks=pytest.mark.slow),
    ],
)
def test_features_of_published_sizes_equal_transformers(name, width, blocks, images):
    params = seeded.drawn(seeded.dinov2(width, blocks))
    check(params)
    assert_close(dinov2(params, GOLDEN[images][:1]), GOLDEN[f"dinov2_{name}"])


def test_interpolated_positions_pass_through_those_of_an_equal_grid():
    np.testing.assert_allclose(interpolation(37, 37), np.eye(37), atol=1e-12)


@pytest.mark.parametrize("offset", [0.0, 0.1])
def test_interpolated_positions_keep_constants_and_inner_lines(offset):
    matrix = interpolation(37, 16, offset=offset)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-12)
    places = (np.arange(16) + 0.5) * 37 / (16 + offset) - 0.5
    # Keys's kernel reproduces lines for a = -1/2 alone; -3/4 errs by a twelfth of a step at most
    assert np.abs(matrix @ np.arange(37.0) - places)[1:-1].max() < 1 / 12


@pytest.mark.parametrize(
    ("name", "shape", "says"),
    [
        ("embeddings.cls_token", None, "lack embeddings.cls_token"),
        ("encoder.layer.0.norm1.weight", None, "lack encoder.layer.0.norm1.weight"),
        ("encoder.layer.1.mlp.fc2.bias", (127,), r"fc2.bias has the shape \(127,\) in .* \(128\)"),
        ("embeddings.position_embeddings", (1, 1371, 128), r"\(1, 1370, 128\)"),
        ("embeddings.position_embeddings", (1370, 128), r"\(1, any, 128\)"),
        ("embeddings.register_tokens", (1, 4, 128), "registers gives other numbers"),
        ("layernorm.bias", None, "lack layernorm.bias"),
    ],
)
def test_another_file_is_refused_by_its_first_wrong_array(name, shape, says):
    params = {key: array for key, array in TINY.items() if key != name}
    if shape is not None:
        params[name] = np.zeros(shape, np.float32)
    check(TINY)
    with pytest.raises(ValueError, match=says) as error:
        check(params)
    assert "\n" not in str(error.value) and "facebook/dinov2-large" in str(error.value)


def test_blocks_are_counted_by_their_highest_number():
    assert num_blocks({"a.0.x": 0, "a.10.x": 0, "b.30.x": 0}, "a.") == 11
