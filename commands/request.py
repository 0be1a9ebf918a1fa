"""What `sample.py` is asked for: its options, and how and of which class to draw.

How a given image leads is in `edits`.
"""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

import diffusion as dm
from commands import cli
from commands.pipeline import Trained
from configs.recipe import Sampling

SAMPLERS = {
    "euler": dm.Euler(),
    "ddim": dm.Euler(),
    "euler-ancestral": dm.Euler(eta=1.0),
    "heun": dm.Heun(),
    "ancestral": dm.Ancestral(),
    "ddpm": dm.Ancestral(),
    "dpm-2s": dm.DPMSolver2S(),
    "dpm-2m": dm.DPMSolver(2),
    "dpm-3m": dm.DPMSolver(3),
    "dpm-sde": dm.DPMSolverSDE(),
    "unipc": dm.UniPC(2),
    "unipc3": dm.UniPC(3),
    "lms": dm.AdamsBashforth(4),
    "rk45": dm.RK45(),
}


def parse(argv: list[str]) -> argparse.Namespace:
    """The options of the command.

    Raises:
      ValueError: values that no network can make sense of.
    """
    parser = argparse.ArgumentParser(
        "sample.py", description="Draws images from a trained run.", allow_abbrev=False
    )
    parser.add_argument(
        "folder", type=Path, metavar="FOLDER", help="what train.py wrote, or diffusers"
    )
    parser.add_argument("--num-images", type=int, default=64, metavar="N", help="(64)")
    parser.add_argument(
        "--label",
        default=None,
        help="a class, `all` for every class alike, `none` for the null class "
        "(all, where the network knows classes; none, where an image leads)",
    )
    parser.add_argument("--seed", type=int, default=0, help="same seed, same images (0)")
    parser.add_argument(
        "--sampler",
        choices=SAMPLERS,
        help="with its own defaults, whatever the recipe's (the recipe's)",
    )
    parser.add_argument(
        "--eta",
        type=float,
        help="noise drawn on the way, by euler, ddim and dpm-sde (the sampler's)",
    )
    parser.add_argument("--num-steps", type=int, metavar="N", help="(the recipe's)")
    parser.add_argument("--guidance", type=float, metavar="SCALE", help="1 is none (the recipe's)")
    parser.add_argument("--step", type=int, help="which checkpoint (the latest)")
    parser.add_argument(
        "--ema",
        metavar="NAME",
        help="which average of the weights; any width in (0, 0.28) where power-function averages "
        "are kept (the recipe's first)",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=64,
        metavar="N",
        help="images drawn at a time, for the memory's sake; changes no image (64)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="(FOLDER/images)")
    parser.add_argument(
        "--gif",
        action="store_true",
        help="also write way.gif, from noise to the first 64 images, which takes as long again",
    )

    edits = parser.add_argument_group(
        "an image that leads", "Files are of the size that the network draws."
    )
    edits.add_argument("--init-image", type=Path, metavar="FILE", help="draw variations of it")
    edits.add_argument(
        "--strength", type=float, metavar="S", help="how far from it, in (0, 1] (0.6)"
    )
    edits.add_argument(
        "--mask", type=Path, metavar="FILE", help="draw anew only where this image is white"
    )
    edits.add_argument(
        "--num-resample",
        type=int,
        metavar="R",
        help="with --mask: how often each step is walked, so that old and new fit (10)",
    )
    edits.add_argument(
        "--invert", action="store_true", help="find its noise, draw it again, report the error"
    )
    edits.add_argument("--low-res", type=Path, metavar="FILE", help="draw it enlarged")
    edits.add_argument(
        "--interpolate",
        nargs=2,
        metavar="SEED|FILE",
        help="the way from one to the other, in --num-images images, by a sampler without noise",
    )
    cli.add_hosts(parser)
    args = cli.parse(parser, argv)
    seeds = [("--seed", str(args.seed))]
    seeds += [("--interpolate", word) for word in args.interpolate or () if is_seed(word)]
    for option, seed in seeds:
        if not 0 <= int(seed) < 2**32:
            raise ValueError(f"{option} {seed} is outside 0 .. 2**32 - 1.")
    for name in ("num_images", "batch_size"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} {getattr(args, name)} must be 1 or more.")
    leading = {"--init-image": args.init_image, "--low-res": args.low_res}
    leading["--interpolate"] = args.interpolate
    if len(given := [name for name, value in leading.items() if value is not None]) > 1:
        raise ValueError(f"{' and '.join(given)} exclude each other.")
    ways = {"--strength": args.strength, "--mask": args.mask, "--invert": args.invert or None}
    given = [name for name, value in ways.items() if value is not None]
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} exclude each other.")
    if given and args.init_image is None:
        raise ValueError(f"{given[0]} needs --init-image.")
    if args.num_resample is not None and args.mask is None:
        raise ValueError("--num-resample needs --mask.")
    return args


def is_seed(word: str) -> bool:
    """Whether an end of --interpolate is a number; else it is a file."""
    return word.removeprefix("-").isdecimal()


def sampling(recipes: Sampling, args: argparse.Namespace) -> Sampling:
    """The recipe's sampling, with what the command names in its place.

    Raises:
      ValueError: an eta for a sampler that has none; a film by one that walks no grid.
    """
    named: dict[str, Any] = {"num_steps": args.num_steps, "guidance": args.guidance}
    sampler = recipes.sampler
    # both variances are DDPM's sampler: the recipe knows which one suits its network
    if args.sampler is not None and not (
        isinstance(SAMPLERS[args.sampler], dm.Ancestral) and isinstance(sampler, dm.Ancestral)
    ):
        sampler = SAMPLERS[args.sampler]
    if args.eta is not None:
        if not isinstance(sampler, dm.Euler | dm.DPMSolverSDE):
            raise ValueError(
                f"--eta {args.eta}: {type(sampler).__name__} has none; use --sampler ddim or "
                "dpm-sde."
            )
        sampler = dataclasses.replace(sampler, eta=args.eta)
    if args.gif and isinstance(sampler, dm.RK45):
        raise ValueError("--gif: rk45 chooses its own steps for each image; use another sampler.")
    given = {name: value for name, value in named.items() if value is not None}
    return dataclasses.replace(recipes, sampler=sampler, **given)


def labels(trained: Trained, label: str | None, num_images: int) -> Int[np.ndarray, "N"]:
    """The class of each image, -1 for none.

    Raises:
      ValueError: the network has no such class.
    """
    num_classes = trained.model.num_classes
    if label == "none" and num_classes is not None and not trained.model.label.has_null:
        raise ValueError("--label none: this network knows no null class; every image needs one.")
    if label == "none" or (label is None and num_classes is None):
        return np.full(num_images, -1, np.int32)
    if num_classes is None:
        raise ValueError(f"--label {label}: this network was trained without classes.")
    if label is None or label == "all":
        return (np.arange(num_images) * num_classes // num_images).astype(np.int32)
    if not label.isdecimal() or int(label) >= num_classes:
        raise ValueError(
            f"--label {label} is not all, none, or a class from 0 to {num_classes - 1}."
        )
    return np.full(num_images, int(label), np.int32)
