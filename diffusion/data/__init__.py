"""Datasets, one file a source: a configuration whose `load()` gives batches by (seed, step)."""

from diffusion.data.arrays import ImageArrays
from diffusion.data.cifar10 import Cifar10
from diffusion.data.dataset import Dataset, DatasetConfig
from diffusion.data.digits import Digits
from diffusion.data.fashion_mnist import FashionMnist
from diffusion.data.imagenet64 import ImageNet64

AnyDataset = Digits | FashionMnist | Cifar10 | ImageNet64
"""Those that a recipe's config.json can name."""

__all__ = [
    "AnyDataset",
    "Cifar10",
    "Dataset",
    "DatasetConfig",
    "Digits",
    "FashionMnist",
    "ImageArrays",
    "ImageNet64",
]
