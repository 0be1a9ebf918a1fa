"""Datasets: each is a configuration whose `load()` returns batches by (seed, step)."""

from diffusion.data.arrays import ImageArrays
from diffusion.data.cifar10 import Cifar10
from diffusion.data.dataset import Dataset, DatasetConfig
from diffusion.data.digits import Digits
from diffusion.data.fashion_mnist import FashionMnist
from diffusion.data.imagenet64 import ImageNet64

AnyDataset = Digits | FashionMnist | Cifar10 | ImageNet64
"""The datasets that a recipe can use."""

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
