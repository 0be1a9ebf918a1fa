"""Prompts for `sample.py`: the texts and the image that a network is conditioned on."""

import dataclasses
import sys

from commands import pipeline as pipelines
from commands.fitted_image import read_fitted
from commands.pipeline import Pipeline
from commands.sample_request import SampleRequest
from diffusion.data.text.texts import TextReader


def of_request(request: SampleRequest, pipeline: Pipeline) -> Pipeline:
    """The pipeline with the conditions that the command's options give.

    A network with texts gets the prompts, equally many images for each, in their order; one that
    edits an image as a text says gets the image too. Other conditions come from the data.

    Raises:
      ValueError, OSError: a prompt for a network without texts or none for one with, an instruction
        without an image, fewer images than prompts, or a file that is no image.
    """
    reader = pipeline.reader
    if reader is None:
        if request.prompt:
            raise ValueError("--prompt: this network was trained without texts; leave it out.")
        return pipelines.with_conditions(pipeline)
    prompts = request.prompt
    if request.concepts:  # the image is drawn under the text that describes it
        prompts = (request.source_prompt or "",)
    if not prompts:
        raise ValueError('this network needs a text; give one by --prompt, or --prompt "".')
    if pipeline.edits_images and request.init_image is None:
        raise ValueError(
            "this network edits an image as the prompt says; give the image by --init-image."
        )
    count = request.count
    if count < len(prompts):
        raise ValueError(f"--num-images {count} is fewer than the {len(prompts)} prompts.")
    texts = [prompts[index * len(prompts) // count] for index in range(count)]
    conditions, source = reader(texts), None
    if pipeline.edits_images:
        assert request.init_image is not None
        source = read_fitted(request.init_image, pipeline.image_shape)
        conditions["condition"] = pipeline.encode(source[None])
    negative = request.negative_prompt
    if negative is not None and pipeline.sampling.guidance == 1:
        raise ValueError("--negative-prompt has no effect without guidance; use --guidance 3.")
    read = [*prompts, *request.concepts, request.source_prompt, negative]
    for text in dict.fromkeys(text for text in read if text is not None):
        _say_what_is_not_read(reader, text)
    return dataclasses.replace(
        pipeline,
        conditions=conditions,
        negative={} if negative is None else reader([negative]),
        texts=tuple(texts),
        source=source,
    )


def _say_what_is_not_read(reader: TextReader, text: str) -> None:
    if unknown := reader.unknown_words(text):
        named = ", ".join(map(repr, dict.fromkeys(unknown)))
        print(
            f"{text!r}: the network has not learned {named}; its words are in tokenizer.json.",
            file=sys.stderr,
        )
    if reader.is_cut(text):
        print(f"{text!r} is longer than what the network reads; it is cut.", file=sys.stderr)
