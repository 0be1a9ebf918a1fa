"""Emoji with their names as a dataset, for networks that draw what a text says."""

from dataclasses import dataclass, replace

import numpy as np

from diffusion.data.arrays import ImageArrays
from diffusion.data.dataset import Spec, image_spec
from diffusion.data.emoji import code_points
from diffusion.data.emoji.drawings import check_fields, drawings
from diffusion.data.emoji.looks import TONES
from diffusion.data.emoji.names import captions, is_flag_of_place
from diffusion.data.order import Mixture
from diffusion.data.text.texts import Texts
from diffusion.data.text.words import Words

GROUPS = ("people", "flags", "others")


@dataclass(frozen=True)
class EmojiCaptions:
    """All drawings of a set with their English names, such as "woman astronaut dark skin tone".

    A tenth of the drawings that name a skin tone is held out: their words are known from others,
    in other combinations.

    Attributes:
      batch_size: drawings in a batch, over all devices.
      image_size: height and width.
      drawings: "openmoji", "noto", or a folder of images named by code points; see `drawings`.
      shares: drawings that name a skin tone, flags of places, and others that come in a turn.
      text: how names are read.
      split: "train", or "test" for what is held out.
      cache_dir: folder for the rasterized drawings.
    Raises:
      ValueError: there is no such split, or a value is outside its range.
    """

    batch_size: int = 64
    image_size: int = 64
    drawings: str = "openmoji"
    shares: tuple[int, ...] = (3, 1, 4)
    text: Words = Words(vocab_size=4096, num_tokens=12)
    split: str = "train"
    cache_dir: str = "~/.cache/unet-flax"

    def __post_init__(self):
        check_fields(self, GROUPS)

    @property
    def held_out(self) -> "EmojiCaptions":
        return replace(self, split="test")

    @property
    def spec(self) -> Spec:
        shape = (self.image_size, self.image_size, 3)
        return image_spec(shape, labelled=False) | self.text.spec

    @property
    def num_classes(self) -> None:
        return None

    @property
    def vocab_size(self) -> int:
        return self.text.vocab_size

    def load(self) -> ImageArrays:
        """The drawings of the split.

        Raises:
          ExtraNotInstalled, OSError: what the drawings need is not installed.
          ValueError: there are no such drawings.
        """
        drawn, names = drawings(self.drawings, self.image_size, self.cache_dir), captions()
        is_test = np.array([is_held_out(points) for points in drawn.points])
        train = [names[one] for one, test in zip(drawn.points, is_test, strict=True) if not test]
        reader = self.text.fit(train)
        chosen = np.flatnonzero(is_test == (self.split == "test"))
        points = [drawn.points[index] for index in chosen]
        texts = tuple(names[one] for one in points)
        group = np.array([group_of(one) for one in points])
        groups = {name: np.flatnonzero(group == k) for k, name in enumerate(GROUPS)}
        shares = self.shares if self.split == "train" else (1, 0, 0)  # people alone are held out
        return ImageArrays(
            drawn.pixels[chosen],
            None,
            (),
            self.batch_size,
            conditions=reader(texts),
            texts=Texts(texts, reader),
            mixture=Mixture(groups, shares),
        )


def group_of(points: tuple[int, ...]) -> int:
    """The index in GROUPS."""
    if any(point in TONES for point in points):
        return 0
    return 1 if is_flag_of_place(points) else 2


def is_held_out(points: tuple[int, ...]) -> bool:
    """Whether a drawing is held out: by the checksum of its code points, if it names a tone."""
    return group_of(points) == 0 and code_points.is_held_out(points)
