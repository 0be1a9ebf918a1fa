"""Networks whose images are no pictures: arrays alone, or a refusal, before the work of drawing."""

import dataclasses

import numpy as np
import pytest
from flax import nnx
from runs import SMALL, mistake, samples

import sample
import train
import unet_flax
from commands import build, train_request
from diffusion.data import ImageArrays
from unet_flax import UNet, UNetConfig


def folder_of(path, in_channels, out_channels):
    config = UNetConfig(
        image_size=8, in_channels=in_channels, out_channels=out_channels, channels=4,
        channel_mult=(1,), num_res_blocks=1, attention_resolutions=(), num_groups=2,
    )  # fmt: skip
    unet_flax.save_diffusers(UNet(config, rngs=nnx.Rngs(0)), path)
    return path


OPTIONS = ["--num-images", "2", "--num-steps", "2"]


@pytest.mark.parametrize("channels", [2, 4, 5])
def test_images_of_other_channels_are_arrays_alone(tmp_path, capsys, channels):
    folder = folder_of(tmp_path, channels, channels)
    out = ["--out", str(tmp_path / "out")]
    sample.main([str(folder), *OPTIONS, *out])
    assert "are written to samples.npz alone" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["samples.npz"]
    assert samples(tmp_path / "out")[0].shape == (2, 8, 8, channels)


def test_an_animation_of_other_channels_is_refused(tmp_path, capsys):
    folder = folder_of(tmp_path, 5, 5)
    error = mistake(sample.main, [folder, *OPTIONS, "--gif", "--out", tmp_path / "out"], capsys)
    assert "--gif: images of shape (8, 8, 5)" in error and not (tmp_path / "out").exists()


def test_a_network_that_returns_other_channels_is_refused(tmp_path, capsys):
    folder = folder_of(tmp_path, 6, 3)
    error = mistake(sample.main, [folder, *OPTIONS, "--out", tmp_path / "out"], capsys)
    assert "takes 6 channels and returns 3" in error and not (tmp_path / "out").exists()


@dataclasses.dataclass(frozen=True)
class TwoChannels:
    batch_size: int = 8
    num_classes = None

    def load(self):
        return ImageArrays(np.zeros((8, 8, 8, 2), np.uint8), None, (), self.batch_size)

    @property
    def spec(self):
        return self.load().spec


@pytest.mark.slow
def test_training_draws_no_grids_of_other_channels(tmp_path, capsys):
    recipe = train_request.parse([*SMALL, "--run.num-steps", "2"]).recipe
    recipe = dataclasses.replace(recipe, data=TwoChannels(), label_dropout=0.0)
    job = build.job(recipe, tmp_path, recipe.mesh.make())
    train.train(job, build.start(job))
    assert list((tmp_path / "samples").iterdir()) == []
    assert "no grids of samples: images of shape (8, 8, 2)" in capsys.readouterr().out
