"""What diffusers' training scripts leave is read; damaged JSON is one line."""

import json

import jax
import numpy as np
import pytest
from flax import nnx
from runs import mistake

import sample
import unet_flax
from commands import pipeline
from unet_flax import UNet, UNetConfig

CONFIG = UNetConfig(
    image_size=8, in_channels=3, channels=4, channel_mult=(1,), num_res_blocks=1,
    attention_resolutions=(), num_groups=2,
)  # fmt: skip
EMA_FIELDS = dict(  # as EMAModel.save_pretrained writes them
    decay=0.9999, min_decay=0.0, optimization_step=500, update_after_step=0, use_ema_warmup=True,
    inv_gamma=1.0, power=0.75,
)  # fmt: skip


def saved(folder, seed, **fields):
    unet = UNet(CONFIG, rngs=nnx.Rngs(seed))
    unet_flax.save_diffusers(unet, folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return unet_flax.functional(unet)[1]


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture
def checkpoint(tmp_path):
    """checkpoint-500 with `unet` and `unet_ema`, and the average's weights."""
    saved(tmp_path / "unet", 0)
    return tmp_path, saved(tmp_path / "unet_ema", 1, **EMA_FIELDS)


def test_the_fields_of_an_average_change_nothing(checkpoint):
    folder, average = checkpoint
    loaded = unet_flax.load_diffusers(folder / "unet_ema")
    assert_equal(unet_flax.functional(loaded)[1], average)


def test_of_a_checkpoint_the_average_is_read(checkpoint):
    folder, average = checkpoint
    assert_equal(unet_flax.functional(unet_flax.load_diffusers(folder))[1], average)


def test_the_command_says_that_it_takes_the_average(checkpoint, capsys):
    folder, average = checkpoint
    sample.main([str(folder), "--num-images", "1", "--num-steps", "2"])
    assert "1 images of diffusers' averaged weights (unet_ema)" in capsys.readouterr().out
    assert_equal(jax.device_get(pipeline.read(folder).params), average)


def test_of_a_checkpoint_without_average_the_network_is_read(tmp_path):
    params = saved(tmp_path / "unet", 0)
    found = pipeline.read(tmp_path)
    assert_equal(jax.device_get(found.params), params)
    assert found.name == "diffusers' weights"


@pytest.mark.parametrize("text", ["[]", "null", "3", '"text"', "{", ""])
@pytest.mark.parametrize("file", ["config.json", "scheduler/scheduler_config.json"])
def test_json_that_is_no_object_is_one_line(tmp_path, capsys, file, text):
    saved(tmp_path, 0)
    (tmp_path / "scheduler").mkdir()
    (tmp_path / file).write_text(text)
    error = mistake(sample.main, [tmp_path], capsys)
    assert file in error and "is damaged" in error
    if file == "config.json":
        with pytest.raises(ValueError, match="is damaged"):
            unet_flax.load_diffusers(tmp_path)


@pytest.mark.parametrize("value", ["1000", None, [1000], True, {}])
@pytest.mark.parametrize("field", ["num_train_timesteps", "beta_start", "beta_end"])
def test_a_schedulers_number_that_is_none_is_named(tmp_path, capsys, field, value):
    saved(tmp_path, 0)
    (tmp_path / "scheduler").mkdir()
    path = tmp_path / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({field: value}))
    assert f"{field}={value!r} must be" in mistake(sample.main, [tmp_path], capsys)


@pytest.mark.parametrize("value", ["8", None, [8], {}])
@pytest.mark.parametrize("field", ["in_channels", "layers_per_block", "norm_num_groups"])
def test_a_networks_number_that_is_none_is_named(tmp_path, capsys, field, value):
    saved(tmp_path, 0, **{field: value})
    assert f"{field}=" in mistake(sample.main, [tmp_path], capsys)
