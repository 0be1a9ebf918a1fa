"""The fields of diffusers' UNet2DModel: their defaults, and the values that can be loaded.

Source: diffusers 0.42.1, the documented fields of UNet2DModel.
"""

from typing import Any

from unet_flax.rules import Rule, each, either, flag, one_of, or_none, real, whole

# diffusers' own defaults, for fields that config.json leaves out
DEFAULTS: dict[str, Any] = dict(
    sample_size=None,
    in_channels=3,
    out_channels=3,
    center_input_sample=False,
    time_embedding_type="positional",
    time_embedding_dim=None,
    freq_shift=0,
    flip_sin_to_cos=True,
    down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    mid_block_type="UNetMidBlock2D",
    up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    block_out_channels=(224, 448, 672, 896),
    layers_per_block=2,
    mid_block_scale_factor=1,
    downsample_padding=1,
    downsample_type="conv",
    upsample_type="conv",
    dropout=0.0,
    act_fn="silu",
    attention_head_dim=8,
    norm_num_groups=32,
    attn_norm_num_groups=None,
    norm_eps=1e-5,
    resnet_time_scale_shift="default",
    add_attention=True,
    class_embed_type=None,
    num_class_embeds=None,
    num_train_timesteps=None,
)


IGNORED = frozenset(
    ["decay", "min_decay", "optimization_step", "update_after_step"]
    + ["use_ema_warmup", "inv_gamma", "power"]
)
"""Fields that change no output: EMAModel writes them into the config.json of `unet_ema`."""

ACTIVATIONS = dict(silu="silu", swish="silu", mish="mish", gelu="gelu", relu="relu")
"""act_fn there to activation here."""

NAMES = Rule(
    "a list of names",
    lambda value: isinstance(value, list | tuple) and all(isinstance(item, str) for item in value),
    tuple,
)
TEXT = Rule("a text", lambda value: isinstance(value, str))
# what each field may hold by itself; from_diffusers checks how they fit together
RULES: dict[str, Rule] = dict(
    sample_size=or_none(either(whole(), each(whole(), 2, 2))),
    in_channels=whole(),
    out_channels=whole(),
    center_input_sample=flag,
    time_embedding_type=one_of("positional", "fourier"),
    time_embedding_dim=or_none(whole()),
    freq_shift=real(),
    flip_sin_to_cos=flag,
    down_block_types=NAMES,
    mid_block_type=one_of("UNetMidBlock2D", None),
    up_block_types=NAMES,
    block_out_channels=each(whole()),
    layers_per_block=whole(),
    mid_block_scale_factor=real(above=0),
    downsample_padding=whole(0, 1),
    dropout=real(least=0, below=1),
    downsample_type=or_none(TEXT),
    upsample_type=or_none(TEXT),
    act_fn=one_of(*ACTIVATIONS),
    attention_head_dim=or_none(whole()),
    norm_num_groups=whole(),
    attn_norm_num_groups=or_none(whole()),
    norm_eps=real(above=0),
    resnet_time_scale_shift=one_of("default", "scale_shift"),
    add_attention=flag,
    class_embed_type=Rule(
        "None (a class is a whole number here, with a learned vector)", lambda value: value is None
    ),
    num_class_embeds=or_none(whole()),
)
