"""Editing of given images by any denoiser, without training."""
