"""Emoji edits as a dataset: a drawing, an instruction, and the drawing that it asks for."""

from dataclasses import dataclass, replace

import jax
import numpy as np

from diffusion.data.arrays import ImageArrays
from diffusion.data.dataset import Spec, image_spec
from diffusion.data.emoji.drawings import check_fields, drawings
from diffusion.data.emoji.edits import KINDS, Edit, edits, on_test_side
from diffusion.data.order import Mixture
from diffusion.data.text.texts import Texts
from diffusion.data.text.words import Words


@dataclass(frozen=True)
class EmojiEdits:
    """Pairs of drawings of one person that differ in skin tone, gender or hair alone.

    The batch has the drawing to edit as "condition", the instruction as "text", and the drawing
    that it asks for as "image". Drawings of a tenth of all people and roles are held out.

    Attributes:
      batch_size: pairs in a batch, over all devices.
      image_size: height and width.
      drawings: "openmoji", "noto", or a folder of images named by code points; see `drawings`.
      shares: pairs of skin tone, gender and hair that come in a turn.
      text: how instructions are read.
      split: "train", or "test" for what is held out.
      cache_dir: folder for the rasterized drawings.
    Raises:
      ValueError: there is no such split, or a value is outside its range.
    """

    batch_size: int = 32
    image_size: int = 64
    drawings: str = "openmoji"
    shares: tuple[int, ...] = (3, 1, 1)
    text: Words = Words(vocab_size=64, num_tokens=8)
    split: str = "train"
    cache_dir: str = "~/.cache/unet-flax"

    def __post_init__(self):
        check_fields(self, KINDS)

    @property
    def held_out(self) -> "EmojiEdits":
        return replace(self, split="test")

    @property
    def spec(self) -> Spec:
        shape = (self.image_size, self.image_size, 3)
        condition = {"condition": jax.ShapeDtypeStruct(shape, np.float32)}
        return image_spec(shape, labelled=False) | condition | self.text.spec

    @property
    def num_classes(self) -> None:
        return None

    @property
    def vocab_size(self) -> int:
        return self.text.vocab_size

    def load(self) -> ImageArrays:
        """The pairs of the split; the instructions of held-out pairs are the plainest.

        Raises:
          ExtraNotInstalled, OSError: what the drawings need is not installed.
          ValueError: there are no such drawings.
        """
        drawn = drawings(self.drawings, self.image_size, self.cache_dir)
        pairs = [edit for edit in edits(drawn.points) if _differ(drawn.pixels, edit)]
        is_test = [on_test_side(points) for points in drawn.points]
        train = [pair for pair in pairs if not (is_test[pair.source] or is_test[pair.target])]
        test = [pair for pair in pairs if is_test[pair.source] and is_test[pair.target]]
        captions = tuple(
            pair.instructions[k % len(pair.instructions)] for k, pair in enumerate(train)
        )
        reader = self.text.fit(captions)
        if self.split == "test":
            train, captions = test, tuple(pair.instructions[0] for pair in test)
        kinds = np.array([pair.kind for pair in train])
        groups = {kind: np.flatnonzero(kinds == kind) for kind in KINDS}
        return ImageArrays(
            drawn.pixels[[pair.target for pair in train]],
            None,
            (),
            self.batch_size,
            conditions={
                "condition": drawn.pixels[[pair.source for pair in train]],
                **reader(captions),
            },
            texts=Texts(captions, reader),
            mixture=Mixture(groups, self.shares),
        )


def _differ(pixels: np.ndarray, edit: Edit) -> bool:
    return not np.array_equal(pixels[edit.source], pixels[edit.target])
