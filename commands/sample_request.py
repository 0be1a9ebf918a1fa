"""What `sample.py` is asked for."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import diffusion as dm
from commands.cli import HostOptions
from configs.recipe import Sampling
from diffusion.ranges import demand
from diffusion.sampling.samplers import Sampler

SAMPLERS: dict[str, Sampler] = {
    "euler": dm.Euler(),
    "ddim": dm.Euler(keeps_eps=True),
    "euler-ancestral": dm.Euler(eta=1.0),
    "heun": dm.Heun(),
    "heun-flow": dm.Heun(time="flow"),
    "ancestral": dm.Ancestral(),
    "ddpm": dm.Ancestral(),
    "dpm-2s": dm.DPMSolver2S(),
    "dpm-2m": dm.DPMSolver(2),
    "dpm-3m": dm.DPMSolver(3),
    "dpm-sde": dm.DPMSolverSDE(),
    "unipc": dm.UniPC(2),
    "unipc3": dm.UniPC(3),
    "dpm-singlestep": dm.DPMSolverSinglestep(),
    "dpm-sde-2s": dm.DPMSolverSDE2S(),
    "lms": dm.AdamsBashforth(4),
    "pndm": dm.PNDM(),
    "deis": dm.DEIS(3),
    "kdpm2": dm.KDPM2(),
    "kdpm2-ancestral": dm.KDPM2(eta=1.0),
    "sa-solver": dm.SASolver(),
    "predictor-corrector": dm.PredictorCorrector(),
    "rk45": dm.RK45(),
}


@dataclass(frozen=True)
class SampleRequest:
    """The options of `sample.py`; None means the recipe's value, or the default.

    Attributes:
      folder: a run's folder, or a diffusers folder.
      num_images: number of images, >= 1; None for 64, or 8 for each prompt.
      label: "all", "none", or a class by its name or number.
      seed: in 0 .. 2**32 - 1.
      sampler: a name in `SAMPLERS`.
      eta: how much of the noise is new in each step: in [0, 1] for Euler, 0 or more for
        DPMSolverSDE.
      num_steps: steps of the sampler.
      spacing: "linspace", "leading" or "trailing", of a grid of timesteps.
      prompt: texts to draw, or changes to make to init_image.
      negative_prompt: what guidance leads away from.
      guidance: scale of classifier-free guidance; 1 is none.
      image_guidance: scale of guidance to init_image, of a network that edits; 1 is none.
      step: step of the checkpoint, or "best".
      ema: name of the average of the weights.
      batch_size: images drawn at a time.
      out: folder to write.
      gif: whether to write an animation from noise to images as well.
      init_image: image to edit.
      strength: fraction of the steps that are taken to vary it, in (0, 1].
      mask: image that is white where init_image is redrawn.
      num_resample: number of times that each step is taken with a mask.
      invert: whether to find the image's noise and draw the image from it again.
      replay: whether to draw the image again under another class or text, with its own noise.
      skip: share of the steps that replay leaves out, in [0, 1).
      source_prompt, source_label: what init_image shows, for replay; of keep_attention the text
        whose attention is kept.
      add, remove: texts of what replay adds to the image, or removes from it.
      edit_scale: how strongly, >= 0.
      edit_threshold: share of the pixels that stay, in [0, 1).
      keep_attention: shares of the steps in which attention to the text, and of the image to
        itself, are those under source_prompt, in [0, 1].
      emphasize: WORD=FACTOR, words of the prompt and factors of the attention to them.
      low_res: small image to upscale.
      interpolate: two seeds or image files.
      hosts: how to find the other hosts.
    Raises:
      ValueError: a value is outside its range, or options exclude each other.
    """

    folder: Path
    num_images: int | None = None
    label: str | None = None
    seed: int = 0
    sampler: str | None = None
    eta: float | None = None
    num_steps: int | None = None
    spacing: str | None = None
    prompt: tuple[str, ...] = ()
    negative_prompt: str | None = None
    guidance: float | None = None
    image_guidance: float | None = None
    step: int | str | None = None
    ema: str | None = None
    batch_size: int = 64
    out: Path | None = None
    gif: bool = False
    init_image: Path | None = None
    strength: float | None = None
    mask: Path | None = None
    num_resample: int | None = None
    invert: bool = False
    replay: bool = False
    skip: float | None = None
    source_prompt: str | None = None
    source_label: str | None = None
    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    edit_scale: float | None = None
    edit_threshold: float | None = None
    keep_attention: tuple[float, float] | None = None
    emphasize: tuple[str, ...] = ()
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
            value = getattr(self, name)
            if value is not None and value < 1:
                option = f"--{name.replace('_', '-')}"
                raise ValueError(f"{option} {value} must be 1 or more.")
        self._one_of("init_image", "low_res", "interpolate")
        edit = self._one_of("strength", "mask", "invert", "replay")
        if edit is not None and self.init_image is None:
            raise ValueError(f"{edit} needs --init-image.")
        for name in ("skip", "source_label", "add", "remove"):
            if getattr(self, name) not in (None, ()) and not self.replay:
                raise ValueError(f"--{name.replace('_', '-')} needs --replay.")
        if self.source_prompt is not None and not self.replay and self.keep_attention is None:
            raise ValueError("--source-prompt needs --replay or --keep-attention.")
        self._check_attention()
        for name in ("edit_scale", "edit_threshold"):
            if getattr(self, name) is not None and not self.concepts:
                raise ValueError(f"--{name.replace('_', '-')} needs --add or --remove.")
        if self.concepts and self.prompt:
            raise ValueError(
                "--prompt draws the image anew, --add and --remove change it; use --source-prompt "
                "to say what it shows."
            )
        if self.concepts and self.guidance is not None:
            raise ValueError("--guidance has no effect on --add and --remove; use --edit-scale.")
        if self.negative_prompt is not None and not self.prompt:
            raise ValueError("--negative-prompt needs --prompt.")
        if self.num_resample is not None and self.mask is None:
            raise ValueError("--num-resample needs --mask.")

    def _check_attention(self) -> None:
        if self.keep_attention is None:
            if self.emphasize:
                raise ValueError("--emphasize needs --keep-attention.")
            return
        if len(self.prompt) != 1 or self.source_prompt is None:
            raise ValueError("--keep-attention needs one --prompt, and a --source-prompt.")
        if self.init_image is not None and not self.replay:
            raise ValueError("--keep-attention with --init-image needs --replay.")
        if (self.low_res, self.interpolate) != (None, None):
            raise ValueError("--keep-attention works with --replay alone, or from noise.")
        demand("[0, 1]", **dict(zip(("cross", "own"), self.keep_attention, strict=True)))
        self.emphasis  # noqa: B018 (checks the words)

    @property
    def emphasis(self) -> list[tuple[str, float]]:
        """The words of `emphasize`, and their factors.

        Raises:
          ValueError: one is not WORD=FACTOR.
        """
        found = []
        for text in self.emphasize:
            word, _, factor = text.rpartition("=")
            try:
                found.append((word, float(factor)))
            except ValueError:
                word = ""
            if not word:
                raise ValueError(f"--emphasize {text} is not WORD=FACTOR, such as red=2.")
        return found

    @property
    def concepts(self) -> tuple[str, ...]:
        """What is added or removed."""
        return (*self.add, *self.remove)

    @property
    def count(self) -> int:
        """Number of images."""
        texts = 1 if self.concepts else len(self.prompt)
        return self.num_images or 8 * texts or 64

    @property
    def starts_from_image(self) -> bool:
        """Whether sampling starts from init_image, and not from noise alone."""
        return self.invert or self.replay or (self.strength, self.mask) != (None, None)

    def _one_of(self, *names: str) -> str | None:
        """Returns which of these options is given, or None; raises a ValueError if several are."""
        given = [
            f"--{name.replace('_', '-')}"
            for name in names
            if getattr(self, name) is not None and getattr(self, name) is not False
        ]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other.")
        return given[0] if given else None

    def sampling(self, recipes: Sampling) -> Sampling:
        """The recipe's sampling with the options of the command line.

        Raises:
          ValueError: --eta for a sampler without eta, --spacing for a grid that is not one of
            timesteps, or --gif with an adaptive sampler.
        """
        sampler = recipes.sampler
        if self.sampler is not None:
            named = SAMPLERS[self.sampler]
            # "ddpm" keeps the recipe's Ancestral, and with it the variance chosen for the network
            is_ddpm = type(named) is type(sampler) is dm.Ancestral
            sampler = sampler if is_ddpm else named
        if self.eta is not None:
            if not any(item.name == "eta" for item in dataclasses.fields(sampler)):
                raise ValueError(
                    f"--eta {self.eta}: {type(sampler).__name__} has no eta; use --sampler ddim or "
                    "dpm-sde."
                )
            sampler = dataclasses.replace(sampler, eta=self.eta)  # pyright: ignore
        if self.gif and sampler.is_adaptive:
            raise ValueError(
                f"--gif: {type(sampler).__name__} chooses its own steps for each image; use "
                "another sampler."
            )
        if self.spacing is not None:
            if not any(item.name == "spacing" for item in dataclasses.fields(recipes.grid)):
                raise ValueError(
                    f"--spacing {self.spacing}: {type(recipes.grid).__name__} is no grid of "
                    "timesteps of a chain; only runs and folders on VPTimesteps have a spacing."
                )
            grid = dataclasses.replace(recipes.grid, spacing=self.spacing)
            recipes = dataclasses.replace(recipes, grid=grid)
        numbers = {
            "num_steps": self.num_steps,
            "guidance": self.guidance,
            "image_guidance": self.image_guidance,
        }
        given = {name: value for name, value in numbers.items() if value is not None}
        return dataclasses.replace(recipes, sampler=sampler, **given)  # pyright: ignore


def is_seed(word: str) -> bool:
    """Whether an end of --interpolate is a seed; otherwise it is a file."""
    return word.removeprefix("-").isdecimal()
