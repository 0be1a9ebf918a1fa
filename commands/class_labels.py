"""The classes that `--label` names."""

import difflib
import unicodedata

import numpy as np
from jaxtyping import Int

from commands.pipeline import Pipeline


def class_labels(
    pipeline: Pipeline,
    label: str | None,
    num_images: int,
    *,
    uses_image: bool = False,
    option: str = "--label",
) -> Int[np.ndarray, "N"]:
    """The class of each image, -1 for none.

    Args:
      label: "all" (equally many of each class), "none" (the null class), or a class by its name
        or else its number; None means "none" if `uses_image`, else "all".
      num_images: number of images.
      uses_image: whether an image is edited, which then determines the content.
      option: what errors call the label.
    Raises:
      ValueError: the network does not have this class.
    """
    num_classes = pipeline.model.num_classes
    if num_classes is None:
        if label not in (None, "none"):
            raise ValueError(f"{option} {label}: this network was trained without classes.")
        return np.full(num_images, -1, np.int32)
    if label is None and uses_image:
        if "label" not in pipeline.trains_null:
            raise ValueError("this network was trained with classes; choose one by --label.")
        label = "none"
    if label == "none":
        if not pipeline.model.has_null:
            raise ValueError(f"{option} none: this network has no null class; choose a class.")
        return np.full(num_images, -1, np.int32)
    if label is None or label == "all":
        return (np.arange(num_images) * num_classes // num_images).astype(np.int32)
    return np.full(num_images, _class(label, num_classes, pipeline.class_names, option), np.int32)


def _class(label: str, num_classes: int, names: tuple[str, ...], option: str) -> int:
    by_name = {unicodedata.normalize("NFC", name): i for i, name in enumerate(names)}
    wanted = unicodedata.normalize("NFC", label)  # macOS splits letters of files from their accents
    if wanted in by_name:
        return by_name[wanted]
    if label.isdecimal() and int(label) < num_classes:
        return int(label)
    end = "."
    if not all(name.isdecimal() for name in names):
        by_lower = {name.lower(): name for name in by_name}
        if close := difflib.get_close_matches(wanted.lower(), by_lower, n=5, cutoff=0.5):
            end = f"; did you mean {', '.join(repr(by_lower[name]) for name in close)}?"
        else:
            more = ", ..." if len(names) > 10 else "."
            end = f"; its classes are {', '.join(map(repr, names[:10]))}{more}"
    raise ValueError(
        f"{option} {label} is not all, none, or a class from 0 to {num_classes - 1}{end}"
    )
