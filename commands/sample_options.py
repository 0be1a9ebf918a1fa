"""The command line of `sample.py`."""

import argparse
from pathlib import Path

from commands import cli
from commands.cli import HostOptions
from commands.sample_request import SAMPLERS, SampleRequest


def _step(text: str) -> int | str:
    return text if text == "best" else int(text)


SAMPLING_OPTIONS = (
    *("seed", "sampler", "eta", "num_steps", "spacing", "guidance", "step", "ema", "batch_size"),
)
"""Names of the options of `add_sampling_options`."""


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say how a run is sampled."""
    add = parser.add_argument
    add("--seed", type=int, default=0, help="the same seed gives the same images (0)")
    add("--sampler", choices=SAMPLERS, help="a sampler with its default options (the recipe's)")
    add(
        "--eta",
        type=float,
        help="share of the noise that each step replaces by new noise; 0 is none",
    )
    add("--num-steps", type=int, metavar="N", help="steps of the sampler (the recipe's)")
    add(
        "--spacing",
        choices=("linspace", "leading", "trailing"),
        help="which timesteps of DDPM's chain are visited (the recipe's)",
    )
    add(
        "--guidance",
        type=float,
        metavar="SCALE",
        help="scale of classifier-free guidance; 1 is none (the recipe's)",
    )
    add(
        "--step",
        type=_step,
        metavar="STEP|best",
        help="step of the checkpoint, or the one whose samples were best (the latest)",
    )
    add(
        "--ema",
        metavar="NAME",
        help="average of the weights by name; if the run keeps power-function averages, also any "
        "width in (0, 0.28) (the recipe's first)",
    )
    add(
        "--batch-size",
        type=int,
        default=64,
        metavar="N",
        help="images drawn at a time; affects memory, not the images (64)",
    )


def parse(argv: list[str]) -> SampleRequest:
    """Parses the command line.

    Raises:
      ValueError: a value is outside its range, or options exclude each other.
    """
    parser = argparse.ArgumentParser(
        "sample.py", description="Draws images from a trained run.", allow_abbrev=False
    )
    add = parser.add_argument
    add("folder", type=Path, metavar="FOLDER", help="a run's folder, or a diffusers folder")
    add(
        "--num-images",
        type=int,
        metavar="N",
        help="number of images, equally many for each prompt (64; 8 for each prompt)",
    )
    add(
        "--prompt",
        nargs="+",
        default=(),
        metavar="TEXT",
        help="what to draw, or, with --init-image, what to change; for networks with texts",
    )
    add("--negative-prompt", metavar="TEXT", help="what guidance leads away from")
    add(
        "--image-guidance",
        type=float,
        metavar="SCALE",
        help="how closely a network that edits keeps to the image; 1 is no guidance (the recipe's)",
    )
    add(
        "--label",
        help="a class by name or number, `all` for equally many of each class, or `none` for "
        "the null class (all; none when an image is edited)",
    )
    add_sampling_options(parser)
    add("--out", type=Path, metavar="DIR", help="folder to write (FOLDER/images)")
    add(
        "--gif",
        action="store_true",
        help="also draw the first 64 images again, and write their steps to denoising.gif",
    )
    edits = parser.add_argument_group(
        "editing",
        "Images of another size than the network's are cropped to the middle and resized, with "
        "their masks.",
    )
    add = edits.add_argument
    add("--init-image", type=Path, metavar="FILE", help="draw variations of this image")
    add(
        "--strength",
        type=float,
        metavar="S",
        help="with --init-image: how much the variations differ from it, in (0, 1] (0.6)",
    )
    add(
        "--mask",
        type=Path,
        metavar="FILE",
        help="with --init-image: redraw it only where this mask is white",
    )
    add(
        "--num-resample",
        type=int,
        metavar="R",
        help="with --mask: times that each step is taken; more blends the redrawn part better (10)",
    )
    add(
        "--invert",
        action="store_true",
        help="with --init-image: find its noise, draw it from that again, print the error",
    )
    add(
        "--replay",
        action="store_true",
        help="with --init-image: draw it again under another --label or --prompt, with its own "
        "noise, so that the rest stays",
    )
    add("--skip", type=float, metavar="S", help="with --replay: share of the steps left out (0)")
    add("--source-prompt", metavar="TEXT", help="with --replay: what the image shows")
    add("--source-label", metavar="CLASS", help="with --replay: the class that the image shows")
    add(
        "--add",
        nargs="+",
        default=(),
        metavar="TEXT",
        help="with --replay, in place of --prompt: add these to the image, where they act most",
    )
    add("--remove", nargs="+", default=(), metavar="TEXT", help="the same: remove these")
    add("--edit-scale", type=float, metavar="S", help="how strongly --add and --remove act (5)")
    add(
        "--edit-threshold",
        type=float,
        metavar="Q",
        help="share of the pixels that --add and --remove leave as they are, in [0, 1) (0.9)",
    )
    add(
        "--keep-attention",
        nargs=2,
        type=float,
        metavar=("CROSS", "SELF"),
        help="draw --prompt with the layout of --source-prompt: shares of the steps in which "
        "attention to the text, and of the image to itself, are those under --source-prompt, such "
        "as 0.8 0.4; from noise, or of an image with --replay",
    )
    add(
        "--emphasize",
        nargs="+",
        default=(),
        metavar="WORD=FACTOR",
        help="with --keep-attention: how much more words of --prompt count, such as red=2",
    )
    add("--low-res", type=Path, metavar="FILE", help="upscale this small image")
    add(
        "--interpolate",
        nargs=2,
        metavar="SEED|FILE",
        help="interpolate between two seeds or images, in --num-images images; needs a sampler "
        "that draws no noise",
    )
    cli.add_host_options(parser)
    given = vars(cli.parse(parser, argv))
    hosts = HostOptions(given.pop("coordinator"), given.pop("num_hosts"), given.pop("host_index"))
    ends = given.pop("interpolate")
    for name in ("prompt", "add", "remove", "emphasize"):
        given[name] = tuple(given[name])
    if given["keep_attention"] is not None:
        given["keep_attention"] = tuple(given["keep_attention"])
    return SampleRequest(**given, interpolate=ends and (ends[0], ends[1]), hosts=hosts)
