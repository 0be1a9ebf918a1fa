"""What `sample.py` is asked for."""

import argparse
import dataclasses
from dataclasses import dataclass
from pathlib import Path

import diffusion as dm
from commands import cli
from commands.cli import HostOptions
from configs.recipe import Sampling
from diffusion.sampling.samplers import Sampler

SAMPLERS: dict[str, Sampler] = {
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


@dataclass(frozen=True)
class SampleRequest:
    """Images as the command line asks for them; None is the recipe's choice or the default.

    Attributes:
      folder: a run's, or one of diffusers.
      num_images: how many.
      label: "all", "none", or a class.
      seed: in 0 .. 2**32 - 1.
      sampler: a name in `SAMPLERS`.
      eta: share of the noise that is drawn anew in each step.
      num_steps: steps of the sampler.
      guidance: scale of classifier-free guidance; 1 is none.
      step: of the checkpoint.
      ema: name of the average.
      batch_size: images drawn at a time.
      out: folder to write.
      gif: whether to write the path from noise to images as well.
      init_image: image to start from.
      strength: share of the steps that are taken from it, in (0, 1].
      mask: white where the image is drawn anew.
      num_resample: how often each step is repeated there.
      invert: whether to find the image's noise and draw it again.
      low_res: small image to upscale.
      interpolate: two seeds or images.
      hosts: how to find the other hosts.
    Raises:
      ValueError: values that no network can make sense of.
    """

    folder: Path
    num_images: int = 64
    label: str | None = None
    seed: int = 0
    sampler: str | None = None
    eta: float | None = None
    num_steps: int | None = None
    guidance: float | None = None
    step: int | None = None
    ema: str | None = None
    batch_size: int = 64
    out: Path | None = None
    gif: bool = False
    init_image: Path | None = None
    strength: float | None = None
    mask: Path | None = None
    num_resample: int | None = None
    invert: bool = False
    low_res: Path | None = None
    interpolate: tuple[str, str] | None = None
    hosts: HostOptions = HostOptions()

    def __post_init__(self):
        seeds = [("--seed", str(self.seed))]
        seeds += [("--interpolate", word) for word in self.interpolate or () if is_seed(word)]
        for option, seed in seeds:
            if not 0 <= int(seed) < 2**32:
                raise ValueError(f"{option} {seed} is outside 0 .. 2**32 - 1.")
        for name in ("num_images", "batch_size"):
            if getattr(self, name) < 1:
                option = f"--{name.replace('_', '-')}"
                raise ValueError(f"{option} {getattr(self, name)} must be 1 or more.")
        self._one_of("init_image", "low_res", "interpolate")
        edit = self._one_of("strength", "mask", "invert")
        if edit is not None and self.init_image is None:
            raise ValueError(f"{edit} needs --init-image.")
        if self.num_resample is not None and self.mask is None:
            raise ValueError("--num-resample needs --mask.")

    def _one_of(self, *names: str) -> str | None:
        """The one of these options that is given, or None."""
        given = [
            f"--{name.replace('_', '-')}"
            for name in names
            if getattr(self, name) is not None and getattr(self, name) is not False
        ]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other.")
        return given[0] if given else None

    def sampling(self, recipes: Sampling) -> Sampling:
        """The recipe's sampling, with what the command line names in its place.

        Raises:
          ValueError: an eta for a sampler that has none; a film by one that walks no grid.
        """
        sampler = recipes.sampler
        if self.sampler is not None:
            named = SAMPLERS[self.sampler]
            # both variances are DDPM's sampler: the recipe knows which one suits its network
            is_ddpm = type(named) is type(sampler) is dm.Ancestral
            sampler = sampler if is_ddpm else named
        if self.eta is not None:
            if not any(item.name == "eta" for item in dataclasses.fields(sampler)):
                raise ValueError(
                    f"--eta {self.eta}: {type(sampler).__name__} has none; use --sampler ddim or "
                    "dpm-sde."
                )
            sampler = dataclasses.replace(sampler, eta=self.eta)  # pyright: ignore
        if self.gif and sampler.is_adaptive:
            raise ValueError(
                f"--gif: {type(sampler).__name__} chooses its own steps for each image; use "
                "another sampler."
            )
        numbers = {"num_steps": self.num_steps, "guidance": self.guidance}
        given = {name: value for name, value in numbers.items() if value is not None}
        return dataclasses.replace(recipes, sampler=sampler, **given)  # pyright: ignore


def is_seed(word: str) -> bool:
    """Whether an end of --interpolate is a number; else it is a file."""
    return word.removeprefix("-").isdecimal()


def parse(argv: list[str]) -> SampleRequest:
    """The options of the command.

    Raises:
      ValueError: values that no network can make sense of.
    """
    parser = argparse.ArgumentParser(
        "sample.py", description="Draws images from a trained run.", allow_abbrev=False
    )
    add = parser.add_argument
    add("folder", type=Path, metavar="FOLDER", help="a run of train.py, or a diffusers folder")
    add("--num-images", type=int, default=64, metavar="N", help="(64)")
    add(
        "--label",
        help="a class, `all` for equally many of each, `none` for the null class "
        "(all, where the network has classes; none with an image to edit)",
    )
    add("--seed", type=int, default=0, help="same seed, same images (0)")
    add("--sampler", choices=SAMPLERS, help="with its own defaults (the recipe's)")
    add("--eta", type=float, help="noise added in each step by euler, ddim and dpm-sde")
    add("--num-steps", type=int, metavar="N", help="(the recipe's)")
    add("--guidance", type=float, metavar="SCALE", help="1 is none (the recipe's)")
    add("--step", type=int, help="of the checkpoint (the latest)")
    add(
        "--ema",
        metavar="NAME",
        help="which average of the weights; any width in (0, 0.28) where power-function averages "
        "are kept (the recipe's first)",
    )
    add(
        "--batch-size",
        type=int,
        default=64,
        metavar="N",
        help="images drawn at a time, to bound memory; changes no image (64)",
    )
    add("--out", type=Path, metavar="DIR", help="(FOLDER/images)")
    add(
        "--gif",
        action="store_true",
        help="also write denoising.gif, the first 64 images step by step; takes as long again",
    )
    edits = parser.add_argument_group("editing", "Images are of the size that the network draws.")
    add = edits.add_argument
    add("--init-image", type=Path, metavar="FILE", help="draw variations of it")
    add("--strength", type=float, metavar="S", help="how far from it, in (0, 1] (0.6)")
    add("--mask", type=Path, metavar="FILE", help="redraw only where this image is white")
    add(
        "--num-resample",
        type=int,
        metavar="R",
        help="with --mask: repetitions of each step, which make new and old fit together (10)",
    )
    add("--invert", action="store_true", help="find its noise, draw it again, report the error")
    add("--low-res", type=Path, metavar="FILE", help="upscale it")
    add(
        "--interpolate",
        nargs=2,
        metavar="SEED|FILE",
        help="from one to the other, in --num-images images, by a sampler without noise",
    )
    cli.add_host_options(parser)
    given = vars(cli.parse(parser, argv))
    hosts = HostOptions(given.pop("coordinator"), given.pop("num_hosts"), given.pop("host_index"))
    ends = given.pop("interpolate")
    return SampleRequest(**given, interpolate=ends and (ends[0], ends[1]), hosts=hosts)
