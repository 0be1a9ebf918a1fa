"""Folders of diffusers, read and written."""

from unet_flax.diffusers.unet import load_diffusers, save_diffusers

__all__ = ["load_diffusers", "save_diffusers"]
