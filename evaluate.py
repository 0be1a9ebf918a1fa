"""Measures a run or a folder of images: `python evaluate.py runs/digits`.

Compares them with real images by the features of a network (FID, KID, precision and recall and
more), and prints the same numbers of real images beside them, which is the best that can be hoped
for. With `--statistics FILE` it writes the mean and covariance of the features instead.
"""

import dataclasses
import json
import sys

from commands import cli, compared_images, evaluate_request, evaluation, report
from diffusion.run import hosts
from unet_flax import tune_cpu


def main(argv: list[str]) -> None:
    tune_cpu()
    with cli.one_line_errors(
        *(ValueError, OSError),
        kept="features in --cache-dir are kept",
        saves_memory="lower --batch-size",
    ):
        request = evaluate_request.parse(argv)
        hosts.start(*dataclasses.astuple(request.sampling.hosts))
        if request.statistics is not None:
            written = evaluation.write_statistics(request)
            hosts.print_on_main(written)
            return
        reference = compared_images.reference_of(request)
        sets = compared_images.targets(request, reference)
        result = evaluation.evaluate(request, reference, sets)
        hosts.print_on_main(report.table(result))
        if request.json is not None and hosts.is_main():
            request.json.write_text(json.dumps(dataclasses.asdict(result), indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
