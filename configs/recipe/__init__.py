"""What a recipe is: its fields, of a denoiser or of an autoencoder."""

from configs.recipe.autoencoder import AutoencoderRecipe
from configs.recipe.denoiser import Recipe, Sampling, TrainingNoise
from configs.recipe.run import Run

AnyRecipe = Recipe | AutoencoderRecipe
"""What `train.py` can train."""

__all__ = ["AnyRecipe", "AutoencoderRecipe", "Recipe", "Run", "Sampling", "TrainingNoise"]
