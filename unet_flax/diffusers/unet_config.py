"""UNet2DModel's config.json as a UNetConfig and back; what has no counterpart is refused by name.

Source: diffusers 0.42.1, the documented fields of UNet2DModel.
"""

from typing import Any

from unet_flax.config import Middle, UNetConfig
from unet_flax.diffusers.unet_fields import ACTIVATIONS, DEFAULTS, IGNORED, RULES
from unet_flax.embeddings import Table
from unet_flax.noise_features import Fourier, Sinusoidal, shift_below
from unet_flax.resample import BOX, Resampling, Residual, Strided
from unet_flax.rules import each, either, whole


def _refuse(field: str, value: Any, allowed: str) -> ValueError:
    return ValueError(f"{field}={value!r} cannot be expressed here; {allowed}.")


def from_diffusers(values: dict[str, Any], image_size: Any, dtype: str) -> UNetConfig:
    """What config.json says, as a UNetConfig.

    Args:
      values: of config.json.
      image_size: in place of its sample_size, or None.
      dtype: type in which the network computes.
    Raises:
      ValueError: a field's value cannot be loaded; names the field.
    """
    for name, value in values.items():
        if name not in DEFAULTS.keys() | IGNORED and name[:1] != "_" and value is not None:
            raise _refuse(name, value, "it is no field of UNet2DModel that this knows")
    v = DEFAULTS | values
    # first: Skip blocks allow a norm_num_groups of None, which would be refused without the cause
    down, up = (_block_types(name, v) for name in ("down_block_types", "up_block_types"))
    v |= {name: rule(name, v[name]) for name, rule in RULES.items()}
    _check_levels(v)
    widths, groups = v["block_out_channels"], v["norm_num_groups"]
    size = _image_size(v, image_size)
    encoder, decoder = (
        tuple(height(size) >> level for level, kind in enumerate(kinds) if kind == ATTENTION)
        for kinds in (down, up)
    )
    head_dim, add_attention = v["attention_head_dim"], v["add_attention"]
    attending = [w for w, *kinds in zip(widths, down, up, strict=True) if ATTENTION in kinds]
    for width in [*attending, *([widths[-1]] if add_attention and v["mid_block_type"] else [])]:
        if head_dim is not None and head_dim > width:
            raise _refuse(
                "attention_head_dim", head_dim, f"at most {width}, the width of a level, can"
            )
    downsampling = _resampling(v, "downsample_type", down[:-1])
    upsampling = _resampling(v, "upsample_type", up[1:])
    is_fourier = v["time_embedding_type"] == "fourier"
    scale_shift = v["resnet_time_scale_shift"] == "scale_shift"
    num_classes, attention_groups = v["num_class_embeds"], v["attn_norm_num_groups"]
    alike = len(set(downsampling)) <= 1
    return UNetConfig(
        image_size=size,
        in_channels=v["in_channels"],
        out_channels=v["out_channels"],
        channels=widths[0],
        channel_mult=tuple(width / widths[0] for width in widths),
        num_res_blocks=v["layers_per_block"],
        attention_resolutions=encoder,
        decoder_attention_resolutions=None if decoder == encoder else decoder,
        num_classes=num_classes,
        label=Table(has_null=False) if num_classes else Table(),
        dropout=v["dropout"],
        head_dim=head_dim,
        num_groups=groups,
        norm_eps=v["norm_eps"],
        activation=ACTIVATIONS[v["act_fn"]],
        scale_shift=scale_shift,
        middle=Middle(
            exists=v["mid_block_type"] is not None,
            attention=add_attention,
            attention_norm=not scale_shift or attention_groups is not None,
            attention_groups=None if attention_groups == groups else attention_groups,
            skip_scale=1 / v["mid_block_scale_factor"],
        ),
        resampling=(*downsampling, _strided(v))[0] if alike else downsampling,
        decoder_resampling=() if upsampling == downsampling else upsampling,
        emb_channels=v["time_embedding_dim"],
        noise_features=Fourier(scale=16.0, cos_first=False, channels=2 * widths[0])
        if is_fourier
        else Sinusoidal(cos_first=v["flip_sin_to_cos"], shift=v["freq_shift"]),
        center_input=v["center_input_sample"],
        dtype=dtype,
    )


ATTENTION = "Attn"
PLAIN = "Plain"
RESIDUAL = "Resnet"
BLOCKS = {
    "down_block_types": {
        "DownBlock2D": PLAIN, "AttnDownBlock2D": ATTENTION, "ResnetDownsampleBlock2D": RESIDUAL,
    },
    "up_block_types": {
        "UpBlock2D": PLAIN, "AttnUpBlock2D": ATTENTION, "ResnetUpsampleBlock2D": RESIDUAL,
    },
}  # fmt: skip


def _block_types(field: str, v: dict[str, Any]) -> tuple[str, ...]:
    """The kind of each level's blocks, the largest level first."""
    names = RULES[field](field, v[field])
    known = BLOCKS[field]
    # old files put UNetRes before each name
    kinds = [known.get(name.removeprefix("UNetRes")) for name in names]
    if None in kinds:
        raise _refuse(field, v[field], f"{', '.join(known)} can")
    found = [kind for kind in kinds if kind is not None]
    return tuple(found if field == "down_block_types" else found[::-1])


def _check_levels(v: dict[str, Any]) -> None:
    """How the fields of the levels fit together."""
    widths, groups = v["block_out_channels"], v["norm_num_groups"]
    for name in BLOCKS:
        if len(v[name]) != len(widths):
            raise _refuse(name, v[name], "it needs one for each of block_out_channels")
    for width in widths:
        if width % groups:
            raise _refuse("norm_num_groups", groups, f"a divisor of {width} can")
    attention_groups = v["attn_norm_num_groups"]
    if attention_groups is not None and widths[-1] % attention_groups:
        raise _refuse("attn_norm_num_groups", attention_groups, f"a divisor of {widths[-1]} can")
    if v["time_embedding_type"] == "positional":
        shift_below(widths[0] // 2)("freq_shift", v["freq_shift"])


def _image_size(v: dict[str, Any], image_size: Any) -> int | tuple[int, ...]:
    name, size = (
        ("sample_size", v["sample_size"]) if image_size is None else ("image_size", image_size)
    )
    if size is None:
        raise _refuse(
            name, size, "write the size into config.json, or give load_diffusers an image_size"
        )
    size = either(whole(), each(whole(), 2, 2))(name, size)
    factor = 2 ** (len(v["block_out_channels"]) - 1)
    if any(length % factor for length in (size if isinstance(size, tuple) else (size,))):
        raise _refuse(name, size, f"a multiple of {factor} = 2**(levels - 1) can")
    return size


def height(size: int | tuple[int, ...]) -> int:
    """The height of images of this size."""
    return size[0] if isinstance(size, tuple) else size


def _strided(v: dict[str, Any]) -> Strided:
    return Strided(symmetric=v["downsample_padding"] == 1)


def _resampling(v: dict[str, Any], field: str, kinds: tuple[str, ...]) -> tuple[Resampling, ...]:
    """For each level that is resampled; those with attention by the field, "conv" where None."""
    found = []
    for kind in kinds:
        how = (v[field] or "conv") if kind == ATTENTION else kind
        if how not in ("conv", "resnet", PLAIN, RESIDUAL):
            raise _refuse(field, v[field], "'conv' or 'resnet' can")
        found.append(Residual() if how in ("resnet", RESIDUAL) else _strided(v))
    return tuple(found)


def to_diffusers(config: UNetConfig) -> dict[str, Any]:
    """The config.json of a network.

    Raises:
      ValueError: UNet2DModel has no such network; names the field.
    """
    plain = UNetConfig(image_size=8, attention_resolutions=(), channel_mult=(1,))
    for name in (
        "skip_scale",
        "qk_norm",
        "input_pyramid",
        "augment_channels",
        "condition_channels",
        "context_channels",
        "text",
        "self_conditioning",
        "dims",
        "decoder_attention",
    ):
        value = getattr(config, name)
        if value != getattr(plain, name):
            raise ValueError(f"{name}={value!r} cannot be expressed by diffusers' UNet2DModel.")
    if len(set(config.blocks)) > 1:
        raise ValueError(
            f"num_res_blocks={config.num_res_blocks} cannot be expressed by diffusers' "
            "UNet2DModel: it has the same number in every level."
        )
    if config.channel_mult[0] != 1:
        raise ValueError(
            f"channel_mult={config.channel_mult} cannot be expressed by diffusers' UNet2DModel: "
            "its first level is as wide as its first convolution; channel_mult must begin with 1."
        )
    middle = config.middle
    if middle.attends and not (middle.attention_norm or config.scale_shift):
        raise ValueError(
            f"middle={middle} cannot be expressed by diffusers' UNet2DModel without scale_shift."
        )
    if config.num_classes is not None and not isinstance(config.label, Table):
        raise ValueError(f"label={config.label} cannot be expressed by diffusers' UNet2DModel.")
    size = config.image_size
    return DEFAULTS | {
        "_class_name": "UNet2DModel",
        "sample_size": list(size) if isinstance(size, tuple) else size,
        "in_channels": config.in_channels,
        "out_channels": config.output_channels,
        "center_input_sample": config.center_input,
        **_noise_fields(config),
        "time_embedding_dim": config.emb_channels,
        **_block_fields(config),
        "mid_block_type": "UNetMidBlock2D" if middle.exists else None,
        "block_out_channels": list(config.widths),
        "layers_per_block": config.blocks[0],
        "mid_block_scale_factor": 1 / (1.0 if middle.skip_scale is None else middle.skip_scale),
        "dropout": config.dropout,
        "act_fn": config.activation,
        "attention_head_dim": _head_dim(config),
        "norm_num_groups": config.num_groups,
        "attn_norm_num_groups": (middle.attention_groups or config.num_groups)
        if middle.attention_norm
        else None,
        "norm_eps": config.norm_eps,
        "resnet_time_scale_shift": "scale_shift" if config.scale_shift else "default",
        "add_attention": middle.attention,
        "num_class_embeds": None
        if config.num_classes is None
        else config.num_classes + config.label.has_null,
    }


def _block_fields(config: UNetConfig) -> dict[str, Any]:
    """The kinds of the levels' blocks, and how images are halved and doubled."""
    halves = {
        # field: attention, resampling of each level or None for the one that has none
        "down": (config.encoder_attends, (*config.downsampling, None)),
        "up": (config.decoder_attends, (None, *config.upsampling)),
    }
    fields: dict[str, Any] = {}
    for half, (attends, kinds) in halves.items():
        name = (
            "resampling"
            if half == "down" or not config.decoder_resampling
            else "decoder_resampling"
        )
        for kind in kinds:
            if kind not in (None, Residual(BOX)) and not isinstance(kind, Strided):
                raise ValueError(
                    f"{name}={kind} cannot be expressed by diffusers' UNet2DModel; Strided() or "
                    "Residual() can."
                )
        plain, attention, residual = BLOCKS[f"{half}_block_types"]
        levels = list(zip(attends, kinds, strict=True))
        types = [
            attention if attend else residual if isinstance(kind, Residual) else plain
            for attend, kind in levels
        ]
        hows = {isinstance(kind, Residual) for attend, kind in levels if attend and kind}
        if len(hows) > 1:
            raise ValueError(
                f"{name}={kinds} cannot be expressed by diffusers' UNet2DModel, whose levels with "
                "attention are all resampled alike."
            )
        # where no level with attention is resampled, the field changes nothing
        every = all(isinstance(kind, Residual) for kind in kinds if kind)
        fields[f"{half}_block_types"] = types if half == "down" else types[::-1]
        fields[f"{half}sample_type"] = "resnet" if True in hows or (not hows and every) else "conv"
    down, up = (
        {kind.symmetric for kind in kinds if isinstance(kind, Strided)}
        for kinds in (config.downsampling, config.upsampling)
    )
    symmetric = down or up  # only the encoder's strided convolutions are padded
    if len(symmetric) > 1:
        raise ValueError(
            f"resampling={config.resampling} cannot be expressed by diffusers' UNet2DModel, whose "
            "strided convolutions are all padded alike."
        )
    return fields | {"downsample_padding": int(True in symmetric)}


def _noise_fields(config: UNetConfig) -> dict[str, Any]:
    features = config.noise_features
    match features:
        case Sinusoidal(max_period=10_000.0, channels=None):
            return {
                "time_embedding_type": "positional",
                "flip_sin_to_cos": features.cos_first,
                "freq_shift": features.shift,
            }
        case Fourier(cos_first=False, channels=channels) if channels == 2 * config.channels:
            return {"time_embedding_type": "fourier"}
    raise ValueError(
        f"noise_features={features} cannot be expressed by diffusers' UNet2DModel: it has "
        f"Sinusoidal with max_period 10000, or Fourier with cos_first=False and channels="
        f"{2 * config.channels}, twice the first level's."
    )


def _head_dim(config: UNetConfig) -> int | None:
    """diffusers' attention_head_dim: one width for all levels, or None for one head in each."""
    if config.head_dim is not None:
        return config.head_dim
    head_dims = {width // config.num_heads for width in config.attending_widths}
    if config.num_heads == 1 or not head_dims:
        return None
    if len(head_dims) > 1:
        raise ValueError(
            f"num_heads={config.num_heads} cannot be expressed by diffusers' UNet2DModel, whose "
            "heads are equally wide in all levels; use head_dim."
        )
    return head_dims.pop()
