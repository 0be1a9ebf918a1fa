"""What is wrong in diffusers' config.json is refused by one line, in diffusers' own names."""

import math

import pytest

from unet_flax.diffusers.unet_config import from_diffusers
from unet_flax.diffusers.unet_fields import DEFAULTS, RULES

VALUES = {**DEFAULTS, "sample_size": 64, "block_out_channels": [32, 32, 64, 64]}
NO_DIFFUSERS = dict(
    sample_size=[16.0, [16, 16, 16], [16], [16, 16.0], "16", 0, True, 20, [16, 20]],
    in_channels=[0, 3.0, None],
    out_channels=[0, 3.0, None],
    center_input_sample=[1, None],
    time_embedding_type=["learned", None],
    time_embedding_dim=[0, 12.0, "12"],
    freq_shift=[math.nan, 16, 15.5, None, "0"],
    flip_sin_to_cos=[None, 1],
    down_block_types=[None, "DownBlock2D", [1], []],
    mid_block_type=[1, [], "UNetMidBlock2DSimpleCrossAttn"],
    up_block_types=[None, "UpBlock2D", [1], []],
    block_out_channels=[None, 16, [], [0, 0, 0, 0], [32.0] * 4],
    layers_per_block=[0, 2.0, None, [2, 2]],
    mid_block_scale_factor=[0, -1, math.nan, math.inf, None, "1"],
    downsample_padding=[2, 1.0, None, True],
    downsample_type=["pool", 1, ["conv"]],
    upsample_type=["pool", 1, ["conv"]],
    dropout=[1, -0.1, None],
    act_fn=["tanh", None, ["silu"]],
    attention_head_dim=[0, 33, 8.0, "8"],
    norm_num_groups=[0, 5, 64, 32.0, None],
    attn_norm_num_groups=[48, 0, 32.0],
    norm_eps=[0, math.nan, None, "x"],
    resnet_time_scale_shift=["spatial", None],
    add_attention=[None, 1],
    class_embed_type=["timestep", "identity"],
    num_class_embeds=[0, 5.0, True, "5"],
)


def test_every_field_of_diffusers_has_its_rule():
    free = {"num_train_timesteps"}  # it changes no output
    assert RULES.keys() == NO_DIFFUSERS.keys() == DEFAULTS.keys() - free


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field in NO_DIFFUSERS for value in NO_DIFFUSERS[field]]
)
def test_what_is_wrong_in_a_folder_of_diffusers_is_named_as_there(field, value):
    from_diffusers(VALUES, None, "float32")  # all the rest is right
    with pytest.raises(ValueError) as error:
        from_diffusers(VALUES | {field: value}, None, "float32")
    assert str(error.value).startswith(f"{field}=") and "\n" not in str(error.value)


def test_levels_with_attention_are_resampled_by_convolutions_where_nothing_is_said():
    silent = dict(downsample_type=None, upsample_type=None)
    said = dict(downsample_type="conv", upsample_type="conv")
    configs = [from_diffusers(VALUES | types, None, "float32") for types in (silent, said)]
    assert configs[0] == configs[1]
