"""Datasets: each is a configuration whose `load()` returns batches by (seed, step)."""

from diffusion.data.arrays import ImageArrays
from diffusion.data.cifar import Cifar10, Cifar100
from diffusion.data.dataset import Dataset, DatasetConfig
from diffusion.data.digits import Digits
from diffusion.data.emoji.captioned import EmojiCaptions
from diffusion.data.emoji.edit_pairs import EmojiEdits
from diffusion.data.emoji.openmoji import OpenMoji
from diffusion.data.fashion_mnist import FashionMnist
from diffusion.data.imagenet64 import ImageNet64
from diffusion.data.latents import Latents
from diffusion.data.pairs import PicturePairs
from diffusion.data.pictures import Pictures

AnyDataset = (
    Digits
    | FashionMnist
    | Cifar10
    | Cifar100
    | ImageNet64
    | OpenMoji
    | EmojiCaptions
    | EmojiEdits
    | Pictures
    | PicturePairs
)
"""The datasets that a recipe can use."""

BY_NAME: dict[str, type] = {
    "digits": Digits,
    "fashion_mnist": FashionMnist,
    "cifar10": Cifar10,
    "cifar100": Cifar100,
    "imagenet64": ImageNet64,
    "openmoji": OpenMoji,
}
"""The datasets that have a name of their own, each with its default fields."""

__all__ = [
    "BY_NAME",
    "AnyDataset",
    "Cifar10",
    "Cifar100",
    "Dataset",
    "DatasetConfig",
    "Digits",
    "EmojiCaptions",
    "EmojiEdits",
    "FashionMnist",
    "ImageArrays",
    "ImageNet64",
    "Latents",
    "OpenMoji",
    "PicturePairs",
    "Pictures",
]
