"""Draws images from a trained run: `python sample.py runs/digits --label all --num-images 100`.

Instead of a run's folder, a diffusers folder (of a DDPM pipeline or a UNet2DModel) can be given.
Writes grid.png, 00000.png ... and samples.npz (images uint8 (N, H, W, C), labels (N,)). Edits
images with `--init-image`, `--low-res` or `--interpolate`.
"""

import dataclasses
import sys

from commands import cli, draw, edits, pipeline, sample_request
from diffusion.data import images
from diffusion.run import hosts
from unet_flax import tune_cpu


def main(argv: list[str]) -> None:
    tune_cpu()
    with cli.one_line_errors(ValueError, OSError):
        request = sample_request.parse(argv)
        hosts.start(*dataclasses.astuple(request.hosts))
        trained = pipeline.read(request.folder, request.step, request.ema)
        trained = dataclasses.replace(trained, sampling=request.sampling(trained.sampling))
        edit = edits.of_request(request, trained)
        labels = draw.labels(trained, request.label, request.num_images, uses_image=edit.uses_image)
        out, seed = request.out or request.folder / "images", request.seed
        if hosts.is_main():
            images.claim_folder(out)
        pixels = draw.draw(trained, labels, seed=seed, chunk_size=request.batch_size, edit=edit)
        frames = draw.film(trained, labels[:64], seed=seed, edit=edit) if request.gif else []
        if hosts.is_main():
            images.save_samples(out, pixels, labels)
            if frames:
                images.save_gif(out / "denoising.gif", frames)
    hosts.print_on_main(f"{len(pixels)} images of {trained.name}: {out / 'grid.png'}")
    if report := edit.report(pixels):
        hosts.print_on_main(report)


if __name__ == "__main__":
    main(sys.argv[1:])
