"""Laws of networks with texts, from the command line: trained on emoji, sampled by prompts."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from runs import mistake, samples

import diffusion as dm
import sample
import train
from commands import pipeline
from diffusion.data import images
from diffusion.data.fit import Fit
from diffusion.pixels import from_pixels, to_pixels

SMALL = """--data.image-size 8 --data.batch-size 8 --model.channels 8 --model.num-groups 4
    --model.channel-mult 1 --model.attention-resolutions 8 --model.middle.exists false
    --model.num-res-blocks 1 --model.num-heads 1 --model.text.channels 8 --model.text.num-layers 0
    --run.num-steps 4 --run.log-every-steps 2 --run.num-samples 3 --sampling.num-steps 2
    --optimizer.decay-steps none --optimizer.warmup-steps 0 --optimizer.learning-rate 0.05
    --mesh.data 1""".split()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Where the drawings are kept, which takes seconds to make."""
    return tmp_path_factory.mktemp("cache")


def trained(recipe, cache, tmp_path_factory):
    run = tmp_path_factory.mktemp(recipe) / "run"
    train.main([recipe, *SMALL, "--run-dir", str(run), "--data.cache-dir", str(cache)])
    return run


@pytest.fixture(scope="module")
def editor(cache, tmp_path_factory):
    return trained("emoji_edit_small", cache, tmp_path_factory)


@pytest.fixture(scope="module")
def painter(cache, tmp_path_factory):
    return trained("emoji", cache, tmp_path_factory)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A face of the network's size, a larger one, masks of their left halves."""
    folder, rng = tmp_path_factory.mktemp("files"), np.random.default_rng(0)
    for name, size in {"face": 8, "large": 40}.items():
        pixels = rng.integers(0, 256, (size, size, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
        mask = np.zeros((size, size), np.uint8)
        mask[:, : size // 2] = 255
        Image.fromarray(mask).save(folder / f"{name}_mask.png")
    return folder


def drawn(run, tmp_path, *options):
    sample.main([str(run), *map(str, options), "--out", str(tmp_path / "out")])
    return samples(tmp_path / "out")[0]


def texts(tmp_path):
    lines = (tmp_path / "out" / "metadata.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def by_the_library(run, image, texts, scale, image_scale=1.0):
    """Samples of seed 0 of the editor, by the denoisers themselves."""
    trained, count = pipeline.read(run), len(texts)
    assert trained.reader is not None
    eps, keys = pipeline.noise_and_keys(jax.random.key(0), jnp.arange(count), (8, 8, 3))
    condition = jnp.broadcast_to(image, eps.shape)

    def estimate(texts, condition):
        text = jnp.asarray(trained.reader(texts)["text"])
        return dm.denoiser(
            *(trained.network, trained.params, trained.preconditioning),
            text=text,
            condition=condition,
        )

    both = estimate(texts, condition)
    only_image = estimate([""] * count, condition)
    neither = estimate([""] * count, 0 * condition)
    denoise = dm.image_and_text_guided(
        both, only_image, neither, scale=scale, image_scale=image_scale
    )
    sigmas = trained.sampling.grid(trained.sampling.num_steps)
    x_0 = trained.sampling.sampler(denoise, sigmas[0] * eps, sigmas, keys)
    return to_pixels(np.asarray(x_0))


def assert_nearly_equal(found, expected):
    """Of pixels that two compilations of one computation round to whole numbers."""
    assert np.abs(found.astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("scale", "image_scale"),
    [
        pytest.param(1.0, 1.0, marks=pytest.mark.slow),
        pytest.param(3.0, 1.0, marks=pytest.mark.slow),
        (2.0, 1.5),
    ],
)
def test_an_edit_is_what_the_denoisers_draw(editor, files, tmp_path, scale, image_scale):
    options = ["--guidance", scale, "--image-guidance", image_scale, "--num-images", 3]
    prompt = ["--prompt", "red hair", "--init-image", files / "face.png"]
    found = drawn(editor, tmp_path, *prompt, *options)
    face = images.read(files / "face.png", 3)
    assert_nearly_equal(found, by_the_library(editor, face, ["red hair"] * 3, scale, image_scale))


def test_every_prompt_gets_its_share_in_order(painter, tmp_path):
    found = drawn(painter, tmp_path, "--prompt", "red heart", "flag: Italy", "--num-images", 4)
    said = [line["text"] for line in texts(tmp_path)]
    assert said == ["red heart", "red heart", "flag: Italy", "flag: Italy"]
    assert [line["file_name"] for line in texts(tmp_path)][3] == "png/00003.png"
    alone = drawn(painter, tmp_path, "--prompt", "red heart", "--num-images", 2)
    assert_nearly_equal(found[:2], alone)
    other = drawn(painter, tmp_path, "--prompt", "flag: Italy", "--num-images", 2)
    assert (other != alone).any()


@pytest.mark.slow
def test_eight_images_of_each_prompt_are_drawn_by_default(painter, tmp_path):
    assert len(drawn(painter, tmp_path, "--prompt", "red heart", "dog face")) == 16


@pytest.mark.slow
def test_a_negative_prompt_is_what_guidance_leads_away_from(painter, tmp_path):
    options = ["--num-images", 2, "--guidance", 2, "--prompt", "red heart"]
    plain = drawn(painter, tmp_path, *options)
    null = drawn(painter, tmp_path, *options, "--negative-prompt", "")
    away = drawn(painter, tmp_path, *options, "--negative-prompt", "flag: Italy")
    np.testing.assert_array_equal(null, plain)
    assert (away != plain).any()


def test_unknown_and_superfluous_words_are_named(painter, tmp_path, capsys):
    drawn(painter, tmp_path, "--prompt", "a zorblax heart", "red " * 13, "--num-images", 2)
    said = capsys.readouterr().err.splitlines()
    assert "has not learned 'zorblax'" in said[0] and "is cut" in said[1] and len(said) == 2


@pytest.mark.slow
def test_an_image_of_another_size_is_fitted_and_that_is_said_once(editor, files, tmp_path, capsys):
    prompt = ["--prompt", "red hair", "--num-images", 1]
    found = drawn(editor, tmp_path, "--init-image", files / "large.png", *prompt)
    assert capsys.readouterr().err.count("large.png: 40 x 40 pixels") == 1
    masked = ["--mask", files / "large_mask.png", "--num-steps", 1]
    drawn(editor, tmp_path, "--init-image", files / "large.png", *prompt, *masked)
    assert capsys.readouterr().err.count("large.png: 40 x 40 pixels") == 1
    pixels = Fit(8, 8, 3)(images.read_pixels(files / "large.png", 3), "large")
    assert_nearly_equal(found, by_the_library(editor, from_pixels(pixels), ["red hair"], 1.0))


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("editor", "large"),
        pytest.param("editor", "face", marks=pytest.mark.slow),
        pytest.param("painter", "face", marks=pytest.mark.slow),
    ],
)
def test_pixels_outside_the_mask_come_back_exactly(kind, name, files, tmp_path, request):
    run = request.getfixturevalue(kind)
    options = ["--init-image", files / f"{name}.png", "--mask", files / f"{name}_mask.png"]
    found = drawn(run, tmp_path, *options, "--prompt", "red hair", "--num-images", 2)
    image = Fit(8, 8, 3)(images.read_pixels(files / f"{name}.png", 3), name)
    np.testing.assert_array_equal(found[:, :, 4:], np.broadcast_to(image[:, 4:], (2, 8, 4, 3)))
    assert (found[:, :, :4] != image[:, :4]).any()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["editor", "painter"])
def test_strength_and_inversion_work_with_prompts(kind, files, tmp_path, capsys, request):
    run = request.getfixturevalue(kind)
    prompt = ["--init-image", files / "face.png", "--prompt", "red hair", "--num-images", 2]
    varied = drawn(run, tmp_path, *prompt, "--strength", 0.5)
    assert (varied[0] != varied[1]).any()
    drawn(run, tmp_path, *prompt, "--invert", "--num-steps", 3)
    assert "reconstruction" in capsys.readouterr().out


def test_replaying_an_image_keeps_it_under_its_own_prompt_and_edits_it_under_another(
    painter, files, tmp_path
):
    replay = ["--init-image", files / "face.png", "--replay", "--num-images", 2, "--num-steps", 5]
    image = images.read_pixels(files / "face.png", 3)
    replay += ["--source-prompt", "red heart"]
    same = drawn(painter, tmp_path, *replay, "--prompt", "red heart")
    np.testing.assert_array_equal(same, np.broadcast_to(image, same.shape))
    other = drawn(painter, tmp_path, *replay, "--prompt", "flag: Italy")
    kept = drawn(painter, tmp_path, *replay, "--prompt", "flag: Italy", "--skip", 0.5)
    assert (other != image).any() and (kept != image).any() and (kept != other).any()


def test_concepts_change_the_pixels_where_they_act_most_and_no_others(painter, files, tmp_path):
    replay = ["--init-image", files / "face.png", "--replay", "--num-images", 2, "--num-steps", 5]
    image = images.read_pixels(files / "face.png", 3)
    concepts = ["--add", "red heart", "--remove", "flag: Italy", "--edit-scale", 20]
    nothing = drawn(painter, tmp_path, *replay, *concepts[:4], "--edit-scale", 0)
    np.testing.assert_array_equal(nothing, np.broadcast_to(image, nothing.shape))
    found = drawn(painter, tmp_path, *replay, *concepts, "--skip", 0.7, "--edit-threshold", 0.8)
    changed = (found != image).any(-1).mean()
    assert 0 < changed <= 1  # after several steps, and through convolutions, more than 20 %


def test_training_draws_held_out_examples_with_their_texts(editor, painter):
    for run, per_cell in {editor: 3, painter: 2}.items():
        with Image.open(run / "samples" / "4.png") as grid:
            assert grid.width >= per_cell * 64 and grid.height > 64


@pytest.mark.slow
def test_a_run_with_texts_resumes_with_its_tokenizer(editor, cache, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(editor, copy)
    options = [*SMALL, "--run-dir", str(copy), "--data.cache-dir", str(cache)]
    train.main(["emoji_edit_small", *options, "--run.num-steps", "5"])
    assert (copy / "tokenizer.json").read_text() == (editor / "tokenizer.json").read_text()
    (copy / "tokenizer.json").unlink()  # is written again
    train.main(["emoji_edit_small", *options, "--run.num-steps", "6"])
    assert (copy / "tokenizer.json").read_text() == (editor / "tokenizer.json").read_text()
    assert pipeline.read(copy).reader is not None


def test_the_tokenizer_of_another_run_is_refused(editor, painter, files, tmp_path, capsys):
    copy = tmp_path / "run"
    shutil.copytree(painter, copy)
    shutil.copy(editor / "tokenizer.json", copy)
    said = mistake(sample.main, [copy, "--prompt", "red heart"], capsys)
    assert "not the tokenizer that this run was trained with" in said
    (copy / "tokenizer.json").unlink()
    assert "tokenizer.json" in mistake(sample.main, [copy, "--prompt", "red heart"], capsys)


@pytest.mark.parametrize(
    ("kind", "options", "says"),
    [
        ("editor", ["--prompt", "red hair"], "give the image by --init-image"),
        ("editor", ["--init-image", "{}/face.png"], "needs a text"),
        ("painter", [], "needs a text"),
        ("painter", ["--prompt", "a", "b", "--num-images", "1"], "fewer than the 2 prompts"),
        ("painter", ["--negative-prompt", "a"], "--negative-prompt needs --prompt"),
        ("painter", ["--prompt", "a", "--negative-prompt", "b"], "no effect without guidance"),
        ("painter", ["--prompt", "a", "--image-guidance", "2"], "condition_dropout above 0"),
        ("painter", ["--prompt", "a", "--label", "3"], "trained without classes"),
        ("painter", ["--prompt", "a", "--source-prompt", "b"], "--source-prompt needs --replay"),
        ("painter", ["--add", "a"], "--add needs --replay"),
        (
            "editor",
            ["--init-image", "{}/face.png", "--prompt", "red hair", "--strength", "0"],
            "strength=0.0 is outside",
        ),
        (
            "painter",
            ["--init-image", "{}/face.png", "--replay", "--add", "red", "--guidance", "2"],
            "use --edit-scale",
        ),
        ("painter", ["--prompt", "a", "--edit-scale", "2"], "needs --add or --remove"),
        (
            "painter",
            ["--init-image", "{}/face.png", "--replay", "--add", "a", "--prompt", "b"],
            "use --source-prompt",
        ),
        (
            "painter",
            ["--init-image", "{}/face.png", "--replay", "--add", "a", "--edit-threshold", "1"],
            "threshold=1.0 is outside",
        ),
        ("editor", ["--init-image", "{}/none.png", "--prompt", "a"], "No such file"),
    ],
)
def test_a_mistake_with_a_prompt_is_one_line(kind, options, says, files, capsys, request):
    run = request.getfixturevalue(kind)
    argv = [run, *(option.format(files) for option in options)]
    assert says in mistake(sample.main, argv, capsys)


def test_a_prompt_for_a_network_without_texts_is_refused(run_dir, capsys):
    said = mistake(sample.main, [run_dir, "--prompt", "three"], capsys)
    assert "trained without texts" in said


# --- prompt-to-prompt


def test_all_of_the_attention_under_the_same_text_changes_nothing(painter, tmp_path):
    plain = drawn(painter, tmp_path, "--prompt", "red heart", "--num-images", 2)
    options = ("--source-prompt", "red heart", "--keep-attention", 1, 1, "--gif")
    kept = drawn(painter, tmp_path, "--prompt", "red heart", "--num-images", 2, *options)
    assert_nearly_equal(kept, plain)
    assert (tmp_path / "out" / "denoising.gif").exists()


def test_none_of_the_attention_changes_nothing(painter, tmp_path):
    prompt = ("--prompt", "blue heart", "--num-images", 2, "--guidance", 2)
    plain = drawn(painter, tmp_path, *prompt)
    options = ("--source-prompt", "red heart", "--keep-attention", 0, 0)
    assert_nearly_equal(drawn(painter, tmp_path, *prompt, *options), plain)
    stronger = drawn(painter, tmp_path, *prompt, *options, "--emphasize", "Blue=9")
    assert (stronger != plain).any()


def test_the_layout_of_an_image_is_kept(painter, files, tmp_path):
    options = ("--init-image", files / "face.png", "--replay", "--keep-attention", 0.8, 0.4)
    texts = ("--source-prompt", "red heart", "--num-images", 2)
    found = drawn(painter, tmp_path, *options, *texts, "--prompt", "red heart")
    with Image.open(files / "face.png") as image:
        assert_nearly_equal(found, np.broadcast_to(np.asarray(image), found.shape))
    assert (drawn(painter, tmp_path, *options, *texts, "--prompt", "blue heart") != found).any()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--keep-attention", 0.8, 0.4), "needs one --prompt, and a --source-prompt"),
        (("--source-prompt", "a"), "--source-prompt needs --replay or --keep-attention"),
        (("--emphasize", "red=2"), "--emphasize needs --keep-attention"),
        (
            ("--source-prompt", "a", "--keep-attention", 1.2, 0),
            "cross=1.2 is outside [0, 1]",
        ),
        (
            ("--source-prompt", "a", "--keep-attention", 1, 0, "--emphasize", "red"),
            "--emphasize red is not WORD=FACTOR",
        ),
        (
            ("--source-prompt", "a", "--keep-attention", 1, 0, "--emphasize", "green=2"),
            "'blue heart' has no such word",
        ),
        (
            ("--source-prompt", "a", "--keep-attention", 1, 0, "--init-image", "face.png"),
            "--keep-attention with --init-image needs --replay",
        ),
    ],
)
def test_what_attention_cannot_do_is_refused(painter, options, says, tmp_path, capsys):
    prompt = () if len(options) == 3 else ("--prompt", "blue heart")
    argv = [painter, *prompt, *options, "--out", tmp_path / "out"]
    assert says in mistake(sample.main, argv, capsys)
