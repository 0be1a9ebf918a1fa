"""Laws of autoencoders in training, and of networks that are trained on their latents."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx
from from_torch import seeded
from PIL import Image
from runs import SMALL, assert_bitwise_equal, final_state, mistake, records, samples
from test_seams import StreamedDigits

import diffusion as dm
import sample
import train
import unet_flax
from commands import build, draw, export, latents, perceptual, pipeline, train_request
from configs import Adam, AutoencoderRecipe, Run
from diffusion import metrics
from diffusion.data import Digits
from diffusion.data.arrays import ImageArrays
from diffusion.data.latents import Latents, encoded
from diffusion.pixels import from_pixels, to_pixels
from unet_flax import AutoencoderConfig

TINY = AutoencoderConfig(
    image_channels=1, latent_channels=2, channels=4, channel_mult=(1, 2), num_res_blocks=1,
    num_groups=2,
)  # fmt: skip
AUTOENCODER = AutoencoderRecipe(
    run=Run(num_steps=40, log_every_steps=10, save_every_steps=20, sample_every_steps=40),
    data=Digits(batch_size=16),
    model=TINY,
    optimizer=Adam(learning_rate=0.01),
    ema=dm.EMA(decay=0.8),
    mesh=dm.Mesh(data=1),
)


def trained(recipe, run_dir):
    job = build.job(recipe, run_dir, recipe.mesh.make())
    build.claim(run_dir, recipe, job.dataset, job.latents)
    train.train(job, build.start(job))
    return run_dir


def on_latents(folder, *options, **changes):
    """The recipe of a denoiser of digits, on the latents of an autoencoder."""
    request = train_request.parse([*SMALL, "--run.num-steps", "4", *options])
    found = Latents(str(folder), downsample_factor=2, channels=2)
    return dataclasses.replace(
        request.recipe, **{"latents": found, "augment": dm.Unchanged(), **changes}
    )


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory):
    return trained(AUTOENCODER, tmp_path_factory.mktemp("autoencoder"))


@pytest.fixture(scope="module")
def run(autoencoder, tmp_path_factory):
    return trained(on_latents(autoencoder), tmp_path_factory.mktemp("latents") / "run")


@pytest.fixture(scope="module")
def space(autoencoder):
    return latents.read(autoencoder, dm.Mesh(data=1).make())


def digits(count):
    return Digits(batch_size=count).load().resident().arrays["image"][:count]


def drawn(run, out, *options):
    sample.main([str(run), *map(str, options), "--out", str(out)])
    return samples(out)[0]


# --- autoencoders


def test_an_autoencoder_learns_to_reconstruct(autoencoder):
    logged, images = records(autoencoder), from_pixels(digits(1000))
    losses = [line["reconstruction"] for line in logged if "reconstruction" in line]
    assert losses[-1] < losses[0]
    of_the_best_grey = metrics.psnr(images, np.full_like(images, images.mean())).mean()
    assert [line["psnr_train"] for line in logged if "psnr_train" in line][-1] > of_the_best_grey
    assert (autoencoder / "samples" / "40.png").exists()


def test_an_autoencoder_resumes_bit_for_bit(autoencoder, tmp_path):
    run = dataclasses.replace(AUTOENCODER.run, num_steps=20)
    trained(dataclasses.replace(AUTOENCODER, run=run), tmp_path)
    trained(AUTOENCODER, tmp_path)
    assert_bitwise_equal(final_state(tmp_path), final_state(autoencoder))


def test_the_latents_of_the_training_images_have_unit_variance_and_no_mean(space):
    z = space.encode(digits(1000))
    assert abs(z.mean()) < 0.05 and abs(z.std() - 1) < 0.05  # measured on as many others


def test_its_folder_is_diffusers(autoencoder):
    config = json.loads((autoencoder / "autoencoder" / "config.json").read_text())
    assert config["_class_name"] == "AutoencoderKL"
    module, state = unet_flax.load_diffusers(autoencoder / "autoencoder"), final_state(autoencoder)
    average = AUTOENCODER.ema.choose(state.ema, AUTOENCODER.ema.names[0])
    assert_bitwise_equal(unet_flax.functional(module)[1], average)


def test_its_loss_is_the_sum_of_its_weighed_parts():
    network, params = unet_flax.functional(unet_flax.make(TINY, nnx.Rngs(0)))
    x_0 = jnp.asarray(from_pixels(digits(4)))

    def distance(a, b):
        return jnp.square(a - b).sum((1, 2, 3))

    key = jax.random.key(0)
    latent_key = jax.random.split(jax.random.fold_in(key, 0), 5)[-1]
    x_0_hat, mean, log_variance = jax.jit(network)(params, x_0, latent_key)
    divergence = dm.kl_divergence(mean, log_variance).mean()
    optimizer, ema = AUTOENCODER.optimizer.make(), dm.EMA()
    step = dm.make_reconstruction_step(
        network, optimizer, ema, kl_weight=0.5, perceptual_weight=2.0, perceptual=distance
    )
    _, found = step(dm.TrainState.create(params, optimizer, ema), {"image": x_0}, key)
    expected = {
        "reconstruction": jnp.abs(x_0_hat - x_0).mean(),
        "kl": divergence,
        "perceptual": distance(x_0_hat, x_0).mean(),
    }
    expected["loss"] = (
        expected["reconstruction"] + 0.5 * expected["kl"] / 64 + 2 * expected["perceptual"]
    )
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5)


def test_lpips_is_read_of_its_two_files(tmp_path):
    params = seeded.drawn(seeded.lpips("alex"))
    parts = {
        name: {k: v for k, v in params.items() if k.startswith("lin") == (name == "lin")}
        for name in ("network", "lin")
    }
    for name, arrays in parts.items():
        safetensors.numpy.save_file(arrays, tmp_path / f"{name}.safetensors")
    files = [str(tmp_path / f"{name}.safetensors") for name in parts]
    a, b = jax.random.uniform(jax.random.key(0), (2, 1, 31, 31, 3), minval=-1)
    distance = perceptual.read(files)
    assert distance is not None and distance(a, b)[0] > 0
    with pytest.raises(ValueError, match="lin0.model.1.weight"):
        perceptual.read(files[:1])
    with pytest.raises(ValueError, match="hold no weights of torchvision's vgg16"):
        perceptual.read(files[1:])
    assert perceptual.read(()) is None
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "lin.safetensors").read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"cut.safetensors is damaged: .*") as error:
        perceptual.read([str(tmp_path / "cut.safetensors")])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"perceptual_weight": 1.0}, "perceptual_weight=1.0 needs perceptual_files"),
        ({"kl_weight": -1.0}, "kl_weight=-1.0"),
        ({"model": dataclasses.replace(TINY, image_channels=3)}, "image_channels=3, but"),
        ({"model": dataclasses.replace(TINY, channel_mult=(1,) * 5)}, "not divisible by 16"),
        (
            {"run": dataclasses.replace(AUTOENCODER.run, evaluate_every_steps=2)},
            "measures samples, which an autoencoder has none of",
        ),
        ({"data": Digits(batch_size=0)}, "batch_size=0 must be 1 or more"),
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused(changes, says):
    with pytest.raises(ValueError, match=says) as error:
        dataclasses.replace(AUTOENCODER, **changes)
    assert "\n" not in str(error.value)


# --- networks on latents


def test_a_network_is_trained_on_encoded_images(autoencoder, space):
    recipe = on_latents(autoencoder)
    job = build.job(recipe, autoencoder.parent / "none", recipe.mesh.make())
    assert job.dataset.spec == recipe.spec
    assert job.recipe.model.image_shape == (4, 4, 2)
    batch, images = job.dataset.batch(0, 3), job.images.batch(0, 3)
    # of other batches of the compiled encoder
    np.testing.assert_allclose(batch["image"], space.encode(to_pixels(images["image"])), atol=1e-5)
    np.testing.assert_array_equal(batch["label"], images["label"])


def test_a_run_on_latents_resumes_bit_for_bit(autoencoder, run, tmp_path):
    for goal in ("2", "4"):
        trained(on_latents(autoencoder, "--run.num-steps", goal), tmp_path)
    assert_bitwise_equal(final_state(tmp_path), final_state(run))


def test_samples_are_the_decoded_samples_of_the_network(run):
    images = pipeline.read(run)
    space = images.latents
    assert space is not None
    labels, plain = np.arange(4, dtype=np.int32), dataclasses.replace(images, latents=None)
    seen = []

    def keep(x):
        seen.append(x)
        return space.decode(x)

    kept = dataclasses.replace(images, latents=Recording(space, keep))
    found = draw.draw(kept, labels, seed=3)
    np.testing.assert_array_equal(found, draw.draw(images, labels, seed=3))
    assert seen[0].shape[1:] == plain.model.image_shape
    np.testing.assert_array_equal(found, to_pixels(np.asarray(space.decode(seen[0]))))


class Recording:
    """A space of latents that lets a test see what is decoded."""

    def __init__(self, space, decode):
        self._space, self.decode = space, decode

    def __getattr__(self, name):
        return getattr(self._space, name)


def test_a_run_needs_the_folder_of_its_autoencoder_no_more(autoencoder, run, tmp_path):
    copied = tmp_path / "copied"
    shutil.copytree(autoencoder, copied)
    lone = trained(on_latents(copied), tmp_path / "run")
    shutil.rmtree(copied)
    options = ("--num-images", 4, "--gif")
    np.testing.assert_array_equal(
        drawn(lone, tmp_path / "a", *options), drawn(run, tmp_path / "b", *options)
    )
    assert (tmp_path / "a" / "denoising.gif").exists()
    trained(on_latents(copied, "--run.num-steps", "5"), tmp_path / "run")


@pytest.fixture(scope="module")
def face(tmp_path_factory):
    """An image of the run's size, and a mask of a part that cuts a latent in two."""
    folder = tmp_path_factory.mktemp("face")
    Image.fromarray(digits(1)[0, ..., 0]).save(folder / "face.png")
    mask = np.zeros((8, 8), np.uint8)
    mask[:, :3] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    return folder


def test_what_lies_outside_the_mask_stays_exactly(run, face, tmp_path):
    options = ("--init-image", face / "face.png", "--mask", face / "mask.png", "--num-images", 2)
    found, given = drawn(run, tmp_path / "out", *options, "--num-resample", 2), digits(1)
    np.testing.assert_array_equal(found[:, :, 3:], np.broadcast_to(given, found.shape)[:, :, 3:])
    assert (found[:, :, :3] != given[:, :, :3]).any()


@pytest.mark.parametrize("option", [("--strength", "0.5"), ("--invert",), ("--replay",)])
def test_an_image_is_edited_in_its_latents(run, face, tmp_path, option):
    options = ("--init-image", face / "face.png", *option, "--source-label", "0")
    options = options if option == ("--replay",) else options[:-2]
    found = drawn(run, tmp_path / "out", *options, "--label", "1", "--num-images", 2)
    assert found.shape == (2, 8, 8, 1)


def test_replay_without_a_change_is_what_the_autoencoder_makes_of_the_image(
    run, face, space, tmp_path
):
    options = ("--replay", "--source-label", "0", "--label", "0", "--num-images", 1)
    found = drawn(run, tmp_path / "out", "--init-image", face / "face.png", *options)
    expected = to_pixels(space.decode_all(space.encode(digits(1))))
    assert np.abs(found.astype(int) - expected).max() <= 1  # of rounding to pixels


def test_conditioning_images_are_encoded_too(autoencoder, space):
    pixels = digits(16)
    data = ImageArrays(pixels, None, (), 8, conditions={"condition": pixels[::-1].copy()})
    found = encoded(data, space.encode, space.fingerprint)
    assert found.spec["condition"] == found.spec["image"]
    spec = Latents("x", downsample_factor=2, channels=2).spec(data.spec)
    assert spec == found.spec
    # in another place of its batch, XLA rounds another way
    np.testing.assert_allclose(found.arrays["condition"][::-1], found.arrays["image"], atol=1e-5)
    assert found.checksum() != encoded(data, space.encode, space.fingerprint + 1).checksum()


def refused(make, says):
    with pytest.raises((ValueError, OSError), match=says) as error:
        make()
    assert "\n" not in str(error.value)


def test_an_autoencoder_that_another_run_has_left_in_the_folder_is_replaced(autoencoder, tmp_path):
    left = unet_flax.make(TINY, nnx.Rngs(1))
    latents.save(left, tmp_path)
    trained(on_latents(autoencoder, "--run.num-steps", "2"), tmp_path)
    kept, wanted = (unet_flax.load_diffusers(f / "autoencoder") for f in (tmp_path, autoencoder))
    assert_bitwise_equal(unet_flax.functional(kept)[1], unet_flax.functional(wanted)[1])


def test_weights_of_another_distance_are_refused_before_training(tmp_path, capsys):
    safetensors.numpy.save_file({"a": np.zeros(1)}, tmp_path / "other.safetensors")
    options = ("--perceptual-weight", 1, "--perceptual-files", tmp_path / "other.safetensors")
    small = ("--data.image-size", 8, "--data.batch-size", 4, "--run-dir", tmp_path / "run")
    says = mistake(train.main, ["emoji_autoencoder", *options, *small], capsys)
    assert "they hold no weights of torchvision's vgg16" in says
    assert not (tmp_path / "run").exists()


def test_what_latents_cannot_be_is_refused(autoencoder, run, tmp_path):
    mesh = dm.Mesh(data=1).make()

    def job(**changes):
        recipe = on_latents(autoencoder)
        return build.job(dataclasses.replace(recipe, **changes), tmp_path, mesh)

    other = Latents(str(autoencoder), downsample_factor=4, channels=2)
    refused(lambda: job(latents=other), "downsample_factor=4, but the autoencoder of .* has 2")
    other = Latents(str(autoencoder), downsample_factor=2, channels=3)
    refused(lambda: job(latents=other), "channels=3, but the autoencoder of .* has 2")
    other = Latents(str(tmp_path / "none"), downsample_factor=2, channels=2)
    refused(lambda: job(latents=other), "no such folder; train one by")
    refused(lambda: job(augment=dm.Flip()), "augment=Flip would change latents")
    refused(lambda: job(data=StreamedDigits(8)), "need a dataset that lies in memory")
    refused(lambda: Latents(""), "autoencoder is empty")
    refused(lambda: Latents("x", downsample_factor=0), "downsample_factor=0")
    refused(lambda: Latents("x", channels=0), "channels=0")
    bad = Latents("x", downsample_factor=3)
    refused(lambda: on_latents(autoencoder, latents=bad), "8 x 8 are not divisible by .*=3")


def test_commands_refuse_what_the_other_kind_of_run_does(autoencoder, run, face, tmp_path, capsys):
    says = mistake(sample.main, [autoencoder, "--out", tmp_path / "a"], capsys)
    assert "the run of an autoencoder, which draws no images" in says
    says = mistake(
        sample.main, [run, "--low-res", face / "face.png", "--out", tmp_path / "b"], capsys
    )
    assert "--low-res needs a network that works on pixels" in says
    says = mistake(export.main, [run, tmp_path / "c", "--to", "diffusers"], capsys)
    assert "works on latents" in says
    refused(lambda: latents.read(run / "checkpoints", dm.Mesh(data=1).make()), "no config.json")
