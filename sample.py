"""Draws images from a trained run: `python sample.py runs/digits --label all --num-images 100`.

Instead of a run's folder, a diffusers folder (of a DDPM pipeline or a UNet2DModel) can be given.
Writes png/00000.png ..., grid.png and samples.npz (arr_0, uint8 images (N, H, W, C), and labels
(N,)). Edits images with `--init-image`, `--low-res` or `--interpolate`. A network with texts draws
what `--prompt` says; one that edits changes `--init-image` as `--prompt` says.
"""

import dataclasses
import sys

from commands import cli, draw, edit_request, pipeline, prompts, sample_options
from commands.class_labels import class_labels
from diffusion.data import sample_folder
from diffusion.run import hosts
from unet_flax import tune_cpu


def main(argv: list[str]) -> None:
    tune_cpu()
    with cli.one_line_errors(ValueError, OSError, saves_memory="lower --batch-size"):
        request = sample_options.parse(argv)
        hosts.start(*dataclasses.astuple(request.hosts))
        trained = pipeline.read(request.folder, request.step, request.ema)
        trained = dataclasses.replace(trained, sampling=request.sampling(trained.sampling))
        trained.check()
        trained = prompts.of_request(request, trained)
        edit = edit_request.of_request(request, trained)
        labels = class_labels(trained, request.label, request.count, uses_image=edit.uses_image)
        out, seed = request.out or request.folder / "images", request.seed
        result = draw.picture(trained, is_film=request.gif)
        if hosts.is_main():
            sample_folder.claim(out)
        pixels = draw.draw(trained, labels, seed=seed, chunk_size=request.batch_size, edit=edit)
        frames = draw.film(trained, labels[:64], seed=seed, edit=edit) if request.gif else []
        if hosts.is_main():
            sample_folder.save(out, pixels, labels, frames, trained.texts)
    hosts.print_on_main(f"{len(pixels)} images of {trained.name}: {out / result}")
    if report := edit.report(pixels):
        hosts.print_on_main(report)


if __name__ == "__main__":
    main(sys.argv[1:])
