"""Writes what lies beside it: what torch-fidelity makes of small features, images and tensors.

    pip install torch==2.13.0 torchvision==0.28.0 torch-fidelity==0.4.0
    python tests/from_torch_fidelity/make_metrics.py

Here are: metrics.npz, two sets of features and logits with their FID, KID, inception score,
precision and recall; generated/ and real/, PNG images; images.npz, the features of generated/ and
the metrics of the two folders; blocks.npz, the resizing, the average pool and one block of each
kind. The network's weights are those of inception_weights.py: the published ones take 95 MB.
"""

import collections
import sys
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
import torch_fidelity
from PIL import Image
from torch_fidelity.defaults import DEFAULTS
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER))
from inception_weights import drawn_weight  # noqa: E402

BLOCKS = {  # one of each kind, with the channels of its input
    "Mixed_5b": 192,
    "Mixed_6a": 288,
    "Mixed_6b": 768,
    "Mixed_7a": 768,
    "Mixed_7b": 1280,
    "Mixed_7c": 2048,
}


def write_metrics() -> None:
    rng = np.random.RandomState(0)
    mixing = rng.standard_normal((6, 6))
    generated, real = rng.standard_normal((120, 6)), rng.standard_normal((100, 6)) @ mixing
    logits = 2 * rng.standard_normal((57, 11))
    tensors = [torch.tensor(features) for features in (generated, real)]
    few = torch.tensor(rng.standard_normal((4, 6)))  # of lower rank than its width
    statistics, few_statistics, real_statistics = map(
        fid_features_to_statistics, (tensors[0], few, tensors[1])
    )
    options = DEFAULTS | dict(verbose=False)
    kid = kid_features_to_metric(*tensors, **options | dict(kid_subset_size=50, kid_subsets=20))
    score = isc_features_to_metric(torch.tensor(logits))
    shares = prc_features_to_metric(*tensors, **options)
    np.savez(
        FOLDER / "metrics.npz",
        generated=generated,
        real=real,
        few=few.numpy(),
        logits=logits,
        fid=fid_statistics_to_metric(statistics, real_statistics, False)[
            "frechet_inception_distance"
        ],
        fid_of_few=fid_statistics_to_metric(few_statistics, real_statistics, False)[
            "frechet_inception_distance"
        ],
        kid=[kid[f"kernel_inception_distance_{kind}"] for kind in ("mean", "std")],
        inception_score=[score[f"inception_score_{kind}"] for kind in ("mean", "std")],
        precision_recall=[shares[kind] for kind in ("precision", "recall")],
    )


def write_images() -> None:
    """Smooth colours, and grey noise on darker ones, 12 each, of 20 x 28 pixels."""
    rng = np.random.RandomState(1)
    rows, columns = np.mgrid[:20, :28] / 28.0
    for name in ("generated", "real"):
        (FOLDER / name).mkdir(exist_ok=True)
        for i in range(12):
            waves = rng.uniform(0, 9, (2, 3))
            image = 0.5 + 0.5 * np.sin(rows[..., None] * waves[0] + columns[..., None] * waves[1])
            if name == "generated":
                image = 0.3 * image + rng.normal(0, 0.3, (20, 28, 1))
            pixels = (image.clip(0, 1) * 255).astype(np.uint8)
            kept = pixels[..., 0] if i == 5 else pixels  # one file is grey
            Image.fromarray(kept).save(FOLDER / name / f"{i:02}.png", optimize=True)


def extractor(weights: str, layers: list[str]) -> FeatureExtractorInceptionV3:
    return FeatureExtractorInceptionV3(
        "inception-v3-compat", layers, feature_extractor_weights_path=weights
    )


def save_weights(path: str) -> None:
    """Writes drawn weights in the layout of the published file."""
    with (
        mock.patch.object(torch, "load"),
        mock.patch.object(FeatureExtractorInceptionV3, "load_state_dict"),
    ):
        layout = extractor("none", ["2048"]).state_dict()
    assert len(layout) == 566
    state = collections.OrderedDict()
    for name, value in layout.items():
        is_counter = name.endswith("num_batches_tracked")
        state[name] = value if is_counter else torch.tensor(drawn_weight(name, tuple(value.shape)))
    torch.save(state, path)


def write_images_metrics(weights: str) -> None:
    module = extractor(weights, ["2048", "logits_unbiased"])
    names = sorted((FOLDER / "generated").iterdir())
    pixels = np.stack([np.asarray(Image.open(name).convert("RGB")) for name in names])
    features, logits = module(torch.tensor(pixels.transpose(0, 3, 1, 2)))
    found = torch_fidelity.calculate_metrics(
        input1=str(FOLDER / "generated"),
        input2=str(FOLDER / "real"),
        cuda=False,
        isc=True,
        isc_splits=3,
        fid=True,
        kid=True,
        kid_subset_size=8,
        kid_subsets=10,
        prc=True,
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=weights,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
    )
    print(found)
    np.savez_compressed(
        FOLDER / "images.npz",
        features=features.numpy(),
        logits=logits.numpy()[:, ::8],
        fid=found["frechet_inception_distance"],
        kid=[found[f"kernel_inception_distance_{kind}"] for kind in ("mean", "std")],
        inception_score=[found[f"inception_score_{kind}"] for kind in ("mean", "std")],
        precision_recall=[found[kind] for kind in ("precision", "recall")],
    )


def write_blocks(weights: str) -> None:
    """Outputs on small inputs, of the blocks each eighth channel."""
    module, rng = extractor(weights, ["2048"]), np.random.RandomState(2)
    arrays = {}
    for height, width in ((5, 8), (23, 17)):
        image = torch.tensor(rng.uniform(0, 255, (2, 3, height, width)).astype(np.float32))
        resized = interpolate_bilinear_2d_like_tensorflow1x(image, (11, 13), align_corners=False)
        pooled = F.avg_pool2d(image, 3, stride=1, padding=1, count_include_pad=False)
        for name, value in (("image", image), ("resized", resized), ("pooled", pooled)):
            arrays[f"{name}_{height}"] = value.numpy().transpose(0, 2, 3, 1)
    for name, channels in BLOCKS.items():
        block = getattr(module, name)
        x = np.random.RandomState(3).uniform(0, 1, (1, 4, 3, channels)).astype(np.float32)
        y = block(torch.tensor(x.transpose(0, 3, 1, 2))).numpy().transpose(0, 2, 3, 1)
        arrays[name] = y[..., ::8]
    np.savez_compressed(FOLDER / "blocks.npz", **arrays)


def main() -> None:
    write_metrics()
    write_images()
    with tempfile.TemporaryDirectory() as folder:
        weights = f"{folder}/weights.pth"
        save_weights(weights)
        write_images_metrics(weights)
        write_blocks(weights)


if __name__ == "__main__":
    main()
