"""Exports a run for other libraries: `python -m commands.export RUN FOLDER --to diffusers`.

FOLDER can be read by diffusers' `DDPMPipeline.from_pretrained(FOLDER)`, or `DDIMPipeline` if the
run's sampler is `Euler`, and by `sample.py FOLDER`. It holds the U-Net with averaged weights, and a
scheduler that corresponds to the run's schedule, prediction and sampler.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import diffusion as dm
import unet_flax
from commands import cli, pipeline
from commands.diffusers_schedulers import PREDICTIONS
from commands.pipeline import Pipeline
from diffusion.data import images

PREDICTION_TYPES = {kind: name for name, kind in PREDICTIONS.items()}
VERSION = "0.35.0"  # of diffusers; later versions read these files too


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        "python -m commands.export",
        description="Exports a run for other libraries.",
        allow_abbrev=False,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a run's folder")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the folder to write")
    parser.add_argument("--to", required=True, choices=["diffusers"], help="the other library")
    parser.add_argument("--step", type=int, help="step of the checkpoint (the latest)")
    parser.add_argument(
        "--ema", metavar="NAME", help="average of the weights to export (the recipe's first)"
    )
    with cli.one_line_errors(ValueError, OSError):
        args = cli.parse(parser, argv)
        trained = pipeline.read(args.run, args.step, args.ema)
        name, scheduler = scheduler_of(trained)
        unet = unet_flax.module(trained.model, trained.params)
        images.claim_folder(args.folder)
        unet_flax.save_diffusers(unet, args.folder / "unet")
        (args.folder / "scheduler").mkdir(exist_ok=True)
        _write(args.folder / "scheduler" / "scheduler_config.json", scheduler)
        _write(args.folder / "model_index.json", _index(name, scheduler["_class_name"]))
    steps = trained.sampling.num_steps
    print(f"{args.folder}: diffusers' {name} of {trained.name}; num_inference_steps={steps}")


def scheduler_of(trained: Pipeline) -> tuple[str, dict[str, Any]]:
    """The name of diffusers' pipeline class, and the configuration of its scheduler.

    Raises:
      ValueError: diffusers' unconditional pipelines have no counterpart of the run's method.
    """
    if trained.latents is not None:
        raise ValueError(
            "the network works on latents, which diffusers' DDPMPipeline and DDIMPipeline do not; "
            "unet_flax.save_diffusers writes the network alone."
        )
    if trained.model.num_classes is not None:
        raise ValueError(
            f"the network has {trained.model.num_classes} classes, but diffusers' DDPMPipeline and "
            "DDIMPipeline are unconditional; unet_flax.save_diffusers writes the network alone."
        )
    if trained.model.output_channels != trained.model.image_shape[-1]:
        raise ValueError(
            "the network has a learned variance, which is not written as diffusers' "
            "DDPMPipeline or DDIMPipeline; unet_flax.save_diffusers writes the network alone."
        )
    method, sampling = trained.preconditioning, trained.sampling
    prediction = PREDICTION_TYPES.get(type(method))
    schedule = getattr(method, "schedule", None)
    if prediction is None or not isinstance(schedule, dm.VPLinear):
        raise ValueError(
            f"preconditioning {method} has no counterpart in diffusers' DDPM and DDIM schedulers; "
            "only Eps, V and X0 on VPLinear do."
        )
    if not isinstance(sampling.grid, dm.VPTimesteps):
        raise ValueError(
            f"grid {type(sampling.grid).__name__} has no counterpart in diffusers' DDPM and DDIM "
            "schedulers; only VPTimesteps does."
        )
    config = {
        "_diffusers_version": VERSION,
        "num_train_timesteps": schedule.num_timesteps,
        "beta_start": schedule.beta_start,
        "beta_end": schedule.beta_end,
        "beta_schedule": "linear",
        "prediction_type": prediction,
        "clip_sample": sampling.clip_x_0,
        "timestep_spacing": sampling.grid.spacing,
        "steps_offset": 0,
    }
    T, steps = schedule.num_timesteps, sampling.num_steps
    if steps != T and (sampling.grid.spacing == "linspace" or T % steps):
        raise ValueError(
            f"a grid of spacing {sampling.grid.spacing!r} with {steps} of {T} timesteps has no "
            "counterpart in diffusers; a leading or trailing one has, whose steps divide T."
        )
    match sampling.sampler:
        case dm.Ancestral(interpolation=0.0 | 1.0 as interpolation):
            variance = "fixed_large" if interpolation else "fixed_small"
            ddpm = {"_class_name": "DDPMScheduler", "variance_type": variance}
            return "DDPMPipeline", ddpm | config
        case dm.Euler(eta=0.0) if not sampling.clip_x_0:
            # with clipping diffusers keeps the noise of the unclipped estimate, Euler does not
            ddim = {"_class_name": "DDIMScheduler", "set_alpha_to_one": True}
            return "DDIMPipeline", ddim | config
    raise ValueError(
        f"sampler {sampling.sampler} with clip_x_0={sampling.clip_x_0} has no counterpart in "
        "diffusers' DDPM and DDIM schedulers; Ancestral of interpolation 0 or 1 has, and Euler of "
        "eta 0 without clipping."
    )


def _index(pipeline_class: str, scheduler_class: str) -> dict[str, Any]:
    return {
        "_class_name": pipeline_class,
        "_diffusers_version": VERSION,
        "scheduler": ["diffusers", scheduler_class],
        "unet": ["diffusers", "UNet2DModel"],
    }


def _write(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
