"""Laws of image editing by `sample.py`: it draws what the library draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from runs import mistake, samples

import diffusion as dm
import sample
from commands import pipeline, sample_options
from configs.recipe import Sampling
from diffusion.data import images
from diffusion.pixels import from_pixels, to_pixels


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """An image, a mask of its lower half, the image at half size, a file that is no image."""
    folder = tmp_path_factory.mktemp("files")
    pixels = np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8)
    mask = np.zeros((8, 8), np.uint8)
    mask[4:] = 255
    Image.fromarray(pixels).save(folder / "image.png")
    Image.fromarray(mask).save(folder / "mask.png")
    Image.fromarray(pixels.reshape(4, 2, 4, 2).mean((1, 3)).astype(np.uint8)).save(
        folder / "low.png"
    )
    Image.fromarray(np.zeros((5, 8), np.uint8)).save(folder / "flat.png")
    Image.fromarray(np.zeros((4, 8), np.uint8)).save(folder / "wide.png")
    Image.fromarray(np.full((8, 8), 127, np.uint8)).save(folder / "grey.png")
    (folder / "text.png").write_text("no image")
    return folder, pixels


def edited(run_dir, tmp_path, *options):
    sample.main([str(run_dir), *map(str, options), "--num-images", "3", "--out", str(tmp_path)])
    return samples(tmp_path)


@pytest.mark.parametrize("options", [[], ["--sampler", "unipc", "--num-resample", "1"]])
def test_an_image_is_drawn_anew_where_the_mask_is_white_alone(run_dir, files, tmp_path, options):
    folder, pixels = files
    leads = ["--init-image", folder / "image.png", "--mask", folder / "mask.png"]
    drawn, labels = edited(run_dir, tmp_path, *leads, *options)
    np.testing.assert_array_equal(drawn[:, :4, :, 0], np.broadcast_to(pixels[:4], (3, 4, 8)))
    assert (drawn[0, 4:] != drawn[1, 4:]).any() and labels.tolist() == [-1, -1, -1]


def drawn_by_the_library(run_dir, num_steps, lead):
    """Pixels of three images without class; `lead(eps, sigmas)` gives x and the steps left."""
    trained = pipeline.read(run_dir)
    shape = trained.model.image_shape
    eps, keys = pipeline.noise_and_keys(jax.random.key(0), jnp.arange(3), shape)
    denoise = trained.denoiser(jnp.full(3, -1, jnp.int32))
    x, sigmas = lead(eps, trained.sampling.grid(num_steps))
    return to_pixels(np.asarray(trained.sampling.sampler(denoise, x, sigmas, keys)))


@pytest.mark.parametrize(
    ("strength", "num_left"), [("0.05", 1), ("0.3", 6), ("0.6", 12), ("1", 20)]
)
def test_strength_is_the_share_of_the_steps_that_are_walked_from_the_noisy_image(
    run_dir, files, tmp_path, strength, num_left
):
    folder, pixels = files

    def lead(eps, sigmas):
        image = jnp.asarray(from_pixels(pixels))[:, :, None]
        left = sigmas[-1 - num_left :]
        return image[None] + left[0] * eps, left

    expected = drawn_by_the_library(run_dir, 20, lead)
    options = ["--init-image", folder / "image.png", "--strength", strength, "--num-steps", 20]
    varied, labels = edited(run_dir, tmp_path, *options)
    # compiled apart: a value next to the middle between two pixels may fall to either
    np.testing.assert_allclose(varied.astype(int), expected.astype(int), atol=1)
    assert labels.tolist() == [-1, -1, -1]
    if num_left == 1:  # one step from sigma 0.002, a quarter of a pixel
        np.testing.assert_allclose(varied[..., 0].astype(int), [pixels.astype(int)] * 3, atol=2)


def test_strength_is_0_6_where_nothing_is_said(run_dir, files, tmp_path):
    leads = ["--init-image", files[0] / "image.png", "--num-steps", 10]
    silent, _ = edited(run_dir, tmp_path / "a", *leads)
    said, _ = edited(run_dir, tmp_path / "b", *leads, "--strength", "0.6")
    np.testing.assert_array_equal(silent, said)


@pytest.mark.parametrize("sampler", [[], ["--sampler", "ddpm"], ["--sampler", "lms"]])
def test_an_enlarged_image_averages_to_the_one_given(run_dir, files, tmp_path, sampler):
    folder, _ = files
    options = ["--low-res", folder / "low.png", "--label", "3", "--num-steps", "9", *sampler]
    large, labels = edited(run_dir, tmp_path, *options)
    with Image.open(folder / "low.png") as file:
        low = np.asarray(file, np.float64)
    averages = large.reshape(3, 4, 2, 4, 2).mean((2, 4), dtype=np.float64)
    # each pixel is rounded by half a step at most
    np.testing.assert_allclose(averages, [low] * 3, atol=0.5 + 1e-3)
    assert large.shape == (3, 8, 8, 1) and labels.tolist() == [3, 3, 3]
    assert (large[0] != large[1]).mean() > 0.2  # what the averages leave open is drawn


def test_an_inverted_image_is_found_again(run_dir, files, tmp_path, capsys):
    folder, pixels = files
    leads = ["--init-image", folder / "image.png", "--invert", "--num-steps", "40"]
    found, _ = edited(run_dir, tmp_path, *leads)
    gaps = from_pixels(found[..., 0]) - from_pixels(pixels)[None]
    error = np.sqrt(np.square(gaps).mean())
    assert error < 0.1  # of values in [-1, 1]: 40 steps there, 40 back
    assert f"reconstruction: {error:.4f}" in capsys.readouterr().out


def test_the_way_between_two_seeds_begins_and_ends_at_theirs(run_dir, files, tmp_path):
    way, _ = edited(run_dir, tmp_path, "--interpolate", "3", "4", "--label", "5")
    ends = [edited(run_dir, tmp_path, "--seed", s, "--label", "5")[0][0] for s in (3, 4)]
    np.testing.assert_array_equal(way[[0, 2]], ends)


def test_the_way_from_a_seed_to_an_image_ends_at_the_image(run_dir, files, tmp_path):
    folder, pixels = files
    ends = ["3", folder / "image.png"]
    way, _ = edited(run_dir, tmp_path, "--interpolate", *ends, "--num-steps", "40")
    assert np.sqrt(np.square(from_pixels(way[2, ..., 0]) - from_pixels(pixels)).mean()) < 0.1


def test_a_gif_shows_the_way_from_noise_to_the_images(run_dir, tmp_path):
    drawn, _ = edited(run_dir, tmp_path, "--gif", "--num-steps", "6")
    with Image.open(tmp_path / "denoising.gif") as gif:
        assert gif.n_frames in (6, 7)  # six steps and the start; Pillow joins equal neighbours
        start = np.asarray(gif.convert("L"))
        gif.seek(gif.n_frames - 1)
        last = np.asarray(gif.convert("L"))
    # x_T / sqrt(1 + sigma^2) is nearly unit noise, and its pixels are those of the grid enlarged
    eps, _ = pipeline.noise_and_keys(jax.random.key(0), jnp.arange(3), drawn.shape[1:])
    noise = images.grid(to_pixels(np.asarray(eps)))[..., 0]
    zoom = len(start) // len(noise)
    np.testing.assert_allclose(start[zoom // 2 :: zoom, zoom // 2 :: zoom], noise, atol=2)
    with Image.open(tmp_path / "grid.png") as grid:
        np.testing.assert_allclose(last, np.asarray(grid.convert("L")), atol=2)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--strength", "0.5"], "--strength needs --init-image"),
        (["--num-resample", "3"], "--num-resample needs --mask"),
        (["--init-image", "{}/image.png", "--strength", "0"], "strength=0.0 is outside (0, 1]"),
        (["--init-image", "{}/image.png", "--strength", "nan"], "strength=nan is outside"),
        (["--init-image", "{}/text.png"], "text.png is not an image"),
        (["--init-image", "{}/none.png"], "none.png: No such file"),
        (["--init-image", "{}/image.png", "--mask", "{}/low.png"], "low.png is 4 x 4 pixels"),
        (["--init-image", "{}/image.png", "--mask", "{}/grey.png"], "largest value is 127 of 255"),
        (["--init-image", "{}/image.png", "--mask", "{}/mask.png", "--invert"], "exclude"),
        (
            ["--init-image", "{}/image.png", "--mask", "{}/mask.png", "--sampler", "dpm-2m"],
            "--mask repeats each step 10 times, which DPMSolver cannot",
        ),
        (["--init-image", "{}/image.png", "--invert", "--sampler", "ddpm"], "draws no noise"),
        (["--init-image", "{}/image.png", "--replay", "--invert"], "exclude each other"),
        (["--init-image", "{}/image.png", "--replay", "--skip", "1"], "skip=1.0 is outside"),
        (["--init-image", "{}/image.png", "--skip", "0.5"], "--skip needs --replay"),
        (["--replay"], "--replay needs --init-image"),
        (
            ["--init-image", "{}/image.png", "--replay", "--source-label", "12"],
            "--source-label 12 is not",
        ),
        (
            ["--init-image", "{}/image.png", "--replay", "--source-prompt", "a"],
            "--source-prompt: this network was trained without texts",
        ),
        (["--init-image", "{}/image.png", "--low-res", "{}/low.png"], "exclude each other"),
        (["--low-res", "{}/flat.png"], "flat.png is 8 x 5"),
        (["--low-res", "{}/wide.png"], "wide.png is 8 x 4"),
        (["--interpolate", "1", "{}/none.png"], "none.png: No such file"),
        (
            ["--interpolate", "1", "4294967296"],
            "--interpolate 4294967296 is outside 0 .. 2**32 - 1",
        ),
        (["--interpolate", "9" * 30, "1"], f"--interpolate {'9' * 30} is outside"),
        (["--interpolate", "-1", "1"], "--interpolate -1 is outside"),
        (["--interpolate", "1", "2", "--sampler", "ddpm"], "--interpolate needs a sampler that"),
        (["--interpolate", "1", "2", "--sampler", "ddim", "--eta", "1"], "draws no noise"),
        (
            ["--init-image", "{}/image.png", "--mask", "{}/mask.png", "--sampler", "rk45"],
            "which RK45 cannot",
        ),
        (
            ["--gif", "--sampler", "rk45", "--init-image", "{}/image.png", "--mask", "{}/mask.png"]
            + ["--num-resample", "1"],
            "RK45 chooses its own steps",
        ),
        (["--gif", "--sampler", "rk45"], "RK45 chooses its own steps"),
    ],
)
def test_a_mistake_in_editing_is_one_line(run_dir, files, capsys, tmp_path, options, says):
    options = [option.format(files[0]) for option in options]
    assert says in mistake(sample.main, [run_dir, *options, "--out", tmp_path / "out"], capsys)
    assert not (tmp_path / "out" / "grid.png").exists()  # refused before anything is drawn


@pytest.mark.parametrize(
    ("recipes", "options", "expected"),
    [
        (dm.Euler(eta=1.0), ["--sampler", "ddim"], dm.Euler(keeps_eps=True)),
        (dm.Euler(eta=1.0), ["--sampler", "ddim", "--eta", "0.5"], dm.Euler(0.5, keeps_eps=True)),
        (dm.Euler(eta=1.0), [], dm.Euler(eta=1.0)),
        (dm.Euler(eta=1.0), ["--eta", "0.2"], dm.Euler(eta=0.2)),
        (dm.Heun(churn=40.0), ["--sampler", "heun"], dm.Heun()),
        (dm.Heun(), ["--sampler", "euler-ancestral"], dm.Euler(eta=1.0)),
        (dm.Heun(), ["--sampler", "dpm-sde", "--eta", "0.3"], dm.DPMSolverSDE(eta=0.3)),
        (dm.Heun(), ["--sampler", "ddpm"], dm.Ancestral()),
        # which variance suits its network, the recipe knows
        (dm.Ancestral(interpolation=0.0), ["--sampler", "ddpm"], dm.Ancestral(interpolation=0.0)),
    ],
)
def test_a_sampler_that_is_named_has_its_own_defaults(recipes, options, expected):
    request = sample_options.parse(["folder", *options])
    assert request.sampling(Sampling(sampler=recipes)).sampler == expected


def test_replaying_an_image_under_its_own_class_gives_it_back(run_dir, files, tmp_path):
    folder, pixels = files
    replay = ["--init-image", folder / "image.png", "--replay", "--num-steps", "6"]
    same, _ = edited(run_dir, tmp_path, *replay, "--source-label", "3", "--label", "3")
    np.testing.assert_array_equal(same[..., 0], np.broadcast_to(pixels, (3, 8, 8)))
