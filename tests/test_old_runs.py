"""A run that was trained before the rooms were moved still draws the same images.

from_0_1/ was written at 9190776:

    python train.py digits --data.batch-size 8 --model.channels 8 --model.num-groups 4
        --model.channel-mult 1 --model.attention-resolutions 8 --run.save-every-steps 6
        --sampling.num-steps 2 --optimizer.decay-steps none --mesh.data 1 --run.num-steps 6
    python sample.py RUN --num-images 4 --label all --num-steps 4 --seed 5

Only the averages of its checkpoint are kept.
"""

import json
import shutil
from pathlib import Path

import numpy as np
from runs import samples

import sample

OLD = Path(__file__).parent / "from_0_1"


def converted(config):
    """config.json under today's names."""
    config["model"]["kind"] = "UNetConfig"
    config["uncertainty"] = config.pop("balance") | {"kind": "NoUncertainty"}
    return config


def test_a_run_of_the_version_before_draws_the_same_images(tmp_path):
    run_dir = shutil.copytree(OLD / "run", tmp_path / "run")
    config = json.loads((run_dir / "config.json").read_text())
    (run_dir / "config.json").write_text(json.dumps(converted(config)))
    options = ["--num-images", "4", "--label", "all", "--num-steps", "4", "--seed", "5"]
    sample.main([str(run_dir), *options, "--out", str(tmp_path / "out")])
    with np.load(OLD / "samples.npz", allow_pickle=False) as before:
        pixels, labels = samples(tmp_path / "out")
        np.testing.assert_array_equal(labels, before["labels"])
        # equal to the last bit as the commands run; the tests compile with fewer optimisations,
        # and a value halfway between two pixels may then round to either
        np.testing.assert_allclose(pixels.astype(int), before["images"].astype(int), atol=1)
