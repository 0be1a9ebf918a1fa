"""diffusers folders, read and written."""

from unet_flax.diffusers.kinds import load_diffusers, save_diffusers

__all__ = ["load_diffusers", "save_diffusers"]
