"""diffusers' UNet2DModel configuration to ours and back, or one line that names what cannot be.

Source: diffusers 0.42.1, the documented fields of UNet2DModel.
"""

from typing import Any

from unet_flax.config import Middle, UNetConfig
from unet_flax.diffusers.unet_fields import DEFAULTS, RULES
from unet_flax.embeddings import Table
from unet_flax.noise_features import Fourier, Sinusoidal, shift_below
from unet_flax.resample import BOX, Residual, Strided
from unet_flax.rules import whole


def _refuse(field: str, value: Any, allowed: str) -> ValueError:
    return ValueError(f"{field}={value!r} cannot be expressed here; {allowed}.")


def from_diffusers(values: dict[str, Any], image_size: int | None, dtype: str) -> UNetConfig:
    """What config.json says, as a UNetConfig.

    Raises:
      ValueError: names the field that it cannot express.
    """
    kind = values.get("_class_name", "UNet2DModel")
    if kind != "UNet2DModel":
        raise _refuse("_class_name", kind, "UNet2DModel is what this reads")
    for name, value in values.items():
        if name not in DEFAULTS and not name.startswith("_") and value is not None:
            raise _refuse(name, value, "it is no field of UNet2DModel that this knows")
    v = DEFAULTS | values
    v |= {name: rule(name, v[name]) for name, rule in RULES.items()}
    widths, groups = v["block_out_channels"], v["norm_num_groups"]
    for width in widths:
        if width % widths[0]:
            raise _refuse("block_out_channels", widths, "each must be a multiple of the first")
        if width % groups:
            raise _refuse("norm_num_groups", groups, f"a divisor of {width} can")
    if v["attn_norm_num_groups"] not in (None, groups):
        raise _refuse("attn_norm_num_groups", v["attn_norm_num_groups"], f"None or {groups} can")
    if v["time_embedding_type"] == "positional":
        shift_below(widths[0] // 2)("freq_shift", v["freq_shift"])
    image_size = _image_size(v, image_size)
    head_dim = v["attention_head_dim"]
    for level in _attention_levels(v) + [len(widths) - 1] * bool(v["add_attention"]):
        if head_dim is not None and widths[level] % head_dim:
            raise _refuse("attention_head_dim", head_dim, f"a divisor of {widths[level]} can")
    is_fourier = v["time_embedding_type"] == "fourier"
    scale_shift = v["resnet_time_scale_shift"] == "scale_shift"
    num_classes = v["num_class_embeds"]
    return UNetConfig(
        image_size=image_size,
        in_channels=v["in_channels"],
        out_channels=v["out_channels"],
        channels=widths[0],
        channel_mult=tuple(width // widths[0] for width in widths),
        num_res_blocks=v["layers_per_block"],
        attention_resolutions=tuple(image_size >> level for level in _attention_levels(v)),
        num_classes=num_classes,
        label=Table(has_null=False) if num_classes else Table(),
        dropout=v["dropout"],
        head_dim=head_dim,
        num_groups=v["norm_num_groups"],
        norm_eps=v["norm_eps"],
        scale_shift=scale_shift,
        middle=Middle(
            attention=v["add_attention"],
            attention_norm=not scale_shift or v["attn_norm_num_groups"] is not None,
            skip_scale=1 / v["mid_block_scale_factor"],
        ),
        resampling=_resampling(v),
        emb_channels=v["time_embedding_dim"],
        noise_features=Fourier(scale=16.0, cos_first=False, channels=2 * widths[0])
        if is_fourier
        else Sinusoidal(cos_first=v["flip_sin_to_cos"], shift=v["freq_shift"]),
        dtype=dtype,
    )


def _image_size(v: dict[str, Any], image_size: int | None) -> int:
    name, size = "image_size", image_size
    if image_size is None:
        name, size = "sample_size", v["sample_size"]
        sizes = set(size) if isinstance(size, tuple) else {size}
        if len(sizes) != 1 or None in sizes:
            raise _refuse("sample_size", size, "images must be square; name an image_size")
        size = sizes.pop()
    factor = 2 ** (len(v["block_out_channels"]) - 1)
    size = whole()(name, size)
    if size % factor:
        raise _refuse(name, size, f"a multiple of {factor} = 2**(levels - 1) can")
    return size


DOWN_BLOCKS = ("DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D")
UP_BLOCKS = ("UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D")


def _attention_levels(v: dict[str, Any]) -> list[int]:
    for name, allowed in {"down_block_types": DOWN_BLOCKS, "up_block_types": UP_BLOCKS}.items():
        if not set(v[name]) <= set(allowed):
            raise _refuse(name, v[name], f"{', '.join(allowed)} can")
        if len(v[name]) != len(v["block_out_channels"]):
            raise _refuse(name, v[name], "it needs one for each of block_out_channels")
    down = [level for level, kind in enumerate(v["down_block_types"]) if kind == DOWN_BLOCKS[1]]
    up = [level for level, kind in enumerate(v["up_block_types"][::-1]) if kind == UP_BLOCKS[1]]
    if down != up:
        raise _refuse(
            "up_block_types", v["up_block_types"], "they must mirror down_block_types in attention"
        )
    return down


def _resampling(v: dict[str, Any]) -> Strided | Residual:
    def ways(kinds: list[str], attention_way: str | None) -> set[str]:
        """How levels that are followed by another are resampled."""
        named = {"Resn": "resnet", "Attn": attention_way or "conv"}
        return {named.get(kind[:4], "conv") for kind in kinds[:-1]}

    down = ways(list(v["down_block_types"]), v["downsample_type"])
    up = ways(list(v["up_block_types"]), v["upsample_type"])
    for name, found in {"downsample_type": down, "upsample_type": up}.items():
        if not found <= {"conv", "resnet"}:
            raise _refuse(name, v[name], "'conv' or 'resnet' can")
    if len(down | up) > 1:
        raise _refuse(
            "down_block_types",
            v["down_block_types"],
            "all levels, down and up, must be resampled alike: by convolutions, or all by "
            'residual blocks (Resnet... or downsample_type and upsample_type "resnet")',
        )
    if down | up == {"resnet"}:
        return Residual()
    return Strided(symmetric=v["downsample_padding"] == 1)


def to_diffusers(config: UNetConfig) -> dict[str, Any]:
    """The config.json of a network.

    Raises:
      ValueError: names the field that UNet2DModel cannot express.
    """
    plain = UNetConfig(image_size=config.image_size, attention_resolutions=(), channel_mult=(1,))
    for name in (
        "skip_scale",
        "qk_norm",
        "input_pyramid",
        "augment_channels",
        "condition_channels",
        "context_channels",
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
    if not (middle.attention_norm or config.scale_shift or not middle.attention):
        raise ValueError(
            f"middle={middle} cannot be expressed by diffusers' UNet2DModel without scale_shift."
        )
    if config.num_classes is not None and not isinstance(config.label, Table):
        raise ValueError(f"label={config.label} cannot be expressed by diffusers' UNet2DModel.")
    is_residual = config.resampling == Residual(BOX, projects_skip=False)
    if not is_residual and not isinstance(config.resampling, Strided):
        raise ValueError(
            f"resampling={config.resampling} cannot be expressed by diffusers' UNet2DModel."
        )
    attends = [resolution in config.attention_resolutions for resolution in config.resolutions]
    other = "Resnet{}sampleBlock2D" if is_residual else "{}Block2D"
    symmetric = isinstance(config.resampling, Strided) and config.resampling.symmetric
    way = "resnet" if is_residual else "conv"
    return DEFAULTS | {
        "_class_name": "UNet2DModel",
        "sample_size": config.image_size,
        "in_channels": config.in_channels,
        "out_channels": config.out_channels or config.in_channels,
        **_noise_fields(config),
        "time_embedding_dim": config.emb_channels,
        "down_block_types": ["AttnDownBlock2D" if a else other.format("Down") for a in attends],
        "up_block_types": ["AttnUpBlock2D" if a else other.format("Up") for a in reversed(attends)],
        "block_out_channels": list(config.widths),
        "layers_per_block": config.blocks[0],
        "mid_block_scale_factor": 1 / (1.0 if middle.skip_scale is None else middle.skip_scale),
        "downsample_padding": int(symmetric),
        "downsample_type": way,
        "upsample_type": way,
        "dropout": config.dropout,
        "attention_head_dim": _head_dim(config, attends),
        "norm_num_groups": config.num_groups,
        "attn_norm_num_groups": config.num_groups if middle.attention_norm else None,
        "norm_eps": config.norm_eps,
        "resnet_time_scale_shift": "scale_shift" if config.scale_shift else "default",
        "add_attention": middle.attention,
        "num_class_embeds": None
        if config.num_classes is None
        else config.num_classes + config.label.has_null,
    }


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


def _head_dim(config: UNetConfig, attends: list[bool]) -> int | None:
    """diffusers' attention_head_dim: one width for all levels, or None for one head in each."""
    widths = {width for width, attend in zip(config.widths, attends, strict=True) if attend}
    if config.middle.attention:
        widths.add(config.widths[-1])
    if all(config.heads(width) == 1 for width in widths):
        return None
    head_dims = {width // config.heads(width) for width in widths}
    if len(head_dims) > 1:
        raise ValueError(
            f"num_heads={config.num_heads} cannot be expressed by diffusers' UNet2DModel, whose "
            "heads are equally wide in all levels; use head_dim."
        )
    return head_dims.pop()
