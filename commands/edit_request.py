"""The edit that the options of `sample.py` ask for."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import diffusion as dm
from commands.class_labels import class_labels
from commands.edits import Edit, Inpaint, Instruct, Interpolate, Invert, ReplayNoise, Upscale, Vary
from commands.fitted_image import read_fitted, read_fitted_mask
from commands.kept_attention import KeepAttention, aligned
from commands.pipeline import Pipeline
from commands.sample_request import SampleRequest, is_seed
from diffusion.conditions import TEXTS
from diffusion.data import images


def of_request(request: SampleRequest, pipeline: Pipeline) -> Edit:
    """The edit that the command's options ask for.

    Raises:
      ValueError, OSError: a file is not an image or has the wrong size, the strength is outside
        (0, 1], or the sampler does not support the edit.
    """
    edit = _of_image(request, pipeline)
    if request.keep_attention is None:
        return edit
    if pipeline.reader is None:
        raise ValueError("--keep-attention: this network was trained without texts.")
    source, (target,) = request.source_prompt or "", request.prompt
    return KeepAttention(
        edit,
        pipeline.reader([source]),
        aligned(pipeline.reader, source, target, request.emphasis),
        *request.keep_attention,
    )


def _of_image(request: SampleRequest, pipeline: Pipeline) -> Edit:
    """The edit of an image or of none, with attention as it is."""
    sampler = pipeline.sampling.sampler
    if request.low_res is not None:
        if pipeline.latents is not None:
            raise ValueError("--low-res needs a network that works on pixels, not on latents.")
        return Upscale(_read_low_res(pipeline, request.low_res))
    if request.interpolate is not None:
        first, last = request.interpolate
        ends = _end(pipeline, first), _end(pipeline, last)
        are_images = not is_seed(first), not is_seed(last)
        return Interpolate(ends, are_images, request.count, sampler)
    if request.init_image is None:
        return Edit()
    if pipeline.edits_images and not request.starts_from_image:
        return Instruct()
    pixels = pipeline.source  # `prompts` has read it, if the network edits images
    if pixels is None:
        pixels = read_fitted(request.init_image, pipeline.image_shape)
    image = jnp.asarray(pipeline.encode(pixels[None])[0])
    if request.invert:
        return Invert(image, sampler, pixels)
    if request.replay:
        source, concepts = _source(request, pipeline), _concepts(request, pipeline)
        is_chosen = request.sampler is not None or request.eta is not None
        base = sampler if is_chosen else dm.Euler(eta=1.0)
        return ReplayNoise(image, base, request.skip or 0.0, source, concepts)
    if request.mask is not None:
        mask = read_fitted_mask(request.mask, request.init_image, pipeline.image_shape)
        redrawn = jnp.asarray(mask if pipeline.latents is None else pipeline.latents.mask(mask))
        num_resample = 10 if request.num_resample is None else request.num_resample
        return Inpaint(image, redrawn, num_resample, sampler, pixels, mask)
    return Vary(image, 0.6 if request.strength is None else request.strength)


def _source(request: SampleRequest, pipeline: Pipeline) -> dict[str, np.ndarray]:
    """The conditions that describe the image, of one row."""
    source: dict[str, np.ndarray] = {}
    missing = {
        "--source-prompt": pipeline.reader is not None and request.source_prompt is None,
        "--source-label": pipeline.model.num_classes is not None and request.source_label is None,
    }
    for option, is_missing in missing.items():
        nulls = {"label"} if option == "--source-label" else {*TEXTS}
        if is_missing and not pipeline.trains_null & nulls:
            raise ValueError(f"--replay: say by {option} what the image shows.")
    if request.source_prompt is not None:
        if pipeline.reader is None:
            raise ValueError("--source-prompt: this network was trained without texts.")
        source |= pipeline.reader([request.source_prompt])
    if request.source_label is not None:
        source["label"] = class_labels(pipeline, request.source_label, 1, option="--source-label")
    return source


def _concepts(
    request: SampleRequest, pipeline: Pipeline
) -> tuple[tuple[dict[str, np.ndarray], dm.Concept], ...]:
    """What --add and --remove name, as conditions of one row and how it acts."""
    if not request.concepts:
        return ()
    if pipeline.reader is None:
        raise ValueError("--add and --remove: this network was trained without texts.")
    scale = 5.0 if request.edit_scale is None else request.edit_scale
    threshold = 0.9 if request.edit_threshold is None else request.edit_threshold
    signs = [(text, 1) for text in request.add] + [(text, -1) for text in request.remove]
    return tuple(
        (pipeline.reader([text]), dm.Concept(sign * scale, threshold)) for text, sign in signs
    )


def _end(pipeline: Pipeline, word: str) -> Float[Array, "H W C"]:
    """An end of an interpolation: the noise of a seed's first image, or an image."""
    return pipeline.noise_of_seed(int(word)) if is_seed(word) else _read(pipeline, Path(word))


def _read(pipeline: Pipeline, path: Path) -> Float[Array, "H W C"]:
    return jnp.asarray(pipeline.encode(read_fitted(path, pipeline.image_shape)[None])[0])


def _read_low_res(pipeline: Pipeline, path: Path) -> Float[Array, "h w C"]:
    height, width, channels = pipeline.model.image_shape
    low = jnp.asarray(images.read(path, channels))
    factor = height // low.shape[0]
    if (factor * low.shape[0], factor * low.shape[1]) != (height, width):
        raise ValueError(
            f"{path} is {_size(low.shape)} pixels; the network draws {_size((height, width))}, "
            "which must be an integer multiple of that in both directions."
        )
    return low


def _size(shape: Any) -> str:
    return f"{shape[1]} x {shape[0]}"
