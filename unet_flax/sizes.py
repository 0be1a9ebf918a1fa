"""Image sizes and widths of a network's levels, checked alike for every configuration.

Each level is half the size of the one before. A level is named by its size along the first spatial
axis: the height of images, the length in one dimension, the depth in three.
"""

from typing import Any

from unet_flax.rules import Rule, each, either, or_none, real, settle, whole


def settle_image_size(config: Any, dims: int, num_levels: int) -> None:
    """Checks `config.image_size`: None, one number, or one for each of `dims` axes.

    A tuple of equal numbers becomes the number.

    Raises:
      ValueError: it is none of these, or not divisible by 2**(num_levels - 1).
    """
    settle(config, image_size=or_none(either(whole(), each(whole(), dims, dims))))
    size = config.image_size
    if size is None:
        return
    if isinstance(size, tuple) and len(set(size)) == 1:
        object.__setattr__(config, "image_size", size[0])
    factor = 2 ** (num_levels - 1)
    if any(length % factor for length in spatial(size, dims)):
        raise ValueError(
            f"image_size={size} is not divisible by {factor} = 2**(levels - 1); "
            f"use a multiple of {factor} or a shorter channel_mult."
        )


def spatial(image_size: int | tuple[int, ...] | None, dims: int) -> tuple[int, ...]:
    """The size along each spatial axis.

    Raises:
      ValueError: the size is not known yet.
    """
    size = known("image_size", image_size)
    return size if isinstance(size, tuple) else (size,) * dims


def known(field: str, value: Any) -> Any:
    """The value, or a ValueError where it is None."""
    if value is None:
        raise ValueError(
            f"{field}=None is not known yet; set it, or take it from the data by unet_flax.fitted."
        )
    return value


def check_named(field: str, sizes: tuple[int, ...], resolutions: tuple[int, ...]) -> None:
    """Raises a ValueError where `sizes` has one that no level has."""
    if not set(sizes) <= set(resolutions):
        raise ValueError(
            f"{field}={sizes} names sizes that no level has; the levels of this network have "
            f"{resolutions}."
        )


def _plain_multiple(value: Any) -> int | float:
    return int(value) if value == int(value) else float(value)


multiple = Rule("a finite number, above 0", real(above=0).fits, _plain_multiple)
"""Of channel_mult; whole numbers stay whole."""


def widths(channels: int, channel_mult: tuple[int | float, ...]) -> tuple[int, ...]:
    """Channels of each level.

    Raises:
      ValueError: a level would have a fraction of a channel.
    """
    found = []
    for factor in channel_mult:
        width = round(channels * factor)
        # a quotient of whole numbers, such as 128 / 96, is rounded by 1e-16 of itself
        if width < 1 or abs(channels * factor - width) > 1e-9 * width:
            raise ValueError(
                f"channel_mult={channel_mult} gives a level {channels * factor:g} channels for "
                f"channels={channels}; each product must be a whole number, 1 or more."
            )
        found.append(width)
    return tuple(found)
