"""CLIP's image embeddings are transformers' (from_torch/make_transformers.py)."""

import numpy as np
import pytest
from from_torch import seeded

from diffusion.metrics.clip_image import check, clip_image

GOLDEN = np.load(seeded.FOLDER / "transformers.npz")
TINY = seeded.drawn(seeded.clip_image(128, 2, patch=8, image_size=56, projection=48))


def assert_close(ours, theirs):
    # sums of some thousand float32 terms in another order
    assert ours.dtype == np.float32 and ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() < 5e-6 * np.abs(theirs).max()


def test_the_norms_epsilon_is_transformers():
    assert_close(clip_image(seeded.faint(TINY), GOLDEN["small"]), GOLDEN["clip_faint"])


@pytest.mark.parametrize("name", ["small", "tall"])
def test_embeddings_equal_transformers(name):
    assert_close(clip_image(TINY, GOLDEN[name]), GOLDEN[f"clip_{name}"])


@pytest.mark.slow
def test_embeddings_of_the_published_size_equal_transformers():
    sizes = {"patch": 14, "image_size": 336, "projection": 768}
    params = seeded.drawn(seeded.clip_image(1024, 24, **sizes))
    check(params)
    assert_close(clip_image(params, GOLDEN["large"]), GOLDEN["clip_vitl"])


def test_embeddings_have_unit_length():
    lengths = np.linalg.norm(clip_image(TINY, GOLDEN["small"]), axis=-1)
    np.testing.assert_allclose(lengths, 1, rtol=1e-6)


def test_the_middle_square_of_an_image_is_seen_alone():
    wide = seeded.images(1, 20, 31)
    cut = wide[:, :, 5:25]
    np.testing.assert_array_equal(clip_image(TINY, wide), clip_image(TINY, cut))


def test_the_text_encoder_and_the_old_position_ids_are_ignored():
    more = {
        "text_model.final_layer_norm.bias": np.ones(3, np.float32),
        "vision_model.embeddings.position_ids": np.arange(50)[None],
        "logit_scale": np.float32(4.6),
    }
    check(TINY | more)
    pixels = GOLDEN["small"]
    np.testing.assert_array_equal(clip_image(TINY | more, pixels), clip_image(TINY, pixels))


@pytest.mark.parametrize(
    ("name", "shape", "says"),
    [
        ("vision_model.embeddings.class_embedding", None, "lack vision_model.embeddings.class"),
        ("vision_model.embeddings.patch_embedding.weight", (128, 3, 8, 7), r"\(128, 3, 7, 7\)"),
        ("vision_model.embeddings.position_embedding.weight", (51, 128), r"\(50, 128\)"),
        ("vision_model.encoder.layers.1.mlp.fc1.weight", (256, 128), r"\(512, 128\)"),
        ("visual_projection.weight", None, "lack visual_projection.weight"),
    ],
)
def test_another_file_is_refused_by_its_first_wrong_array(name, shape, says):
    params = {key: array for key, array in TINY.items() if key != name}
    if shape is not None:
        params[name] = np.zeros(shape, np.float32)
    check(TINY)
    with pytest.raises(ValueError, match=says) as error:
        check(params)
    assert "\n" not in str(error.value) and "clip-vit-large-patch14-336" in str(error.value)
