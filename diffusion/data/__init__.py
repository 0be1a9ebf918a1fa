"""Datasets, one file a source; each has `.load()`, which gives `.batch(seed, step)`."""

from diffusion.data.arrays import ImageArrays
from diffusion.data.cifar10 import Cifar10
from diffusion.data.digits import Digits
from diffusion.data.fashion_mnist import FashionMnist

Source = Digits | FashionMnist | Cifar10

__all__ = ["Cifar10", "Digits", "FashionMnist", "ImageArrays", "Source"]
