"""How good images are: distances and shares of their features, FID's network, measures of edits.

    from diffusion import metrics

    pool3, logits = jax.jit(metrics.inception)(params, pixels)
    statistics = metrics.FeatureStatistics.of(pool3, metrics.INCEPTION_PROTOCOL)
    fid = metrics.frechet_distance(statistics, metrics.FeatureStatistics.load("cifar10-32x32.npz"))

Features are arrays (N, D) of any network. Everything but the network is float64 NumPy.
"""

from diffusion.metrics import clip_image, dinov2, efficientnet_lite, lpips
from diffusion.metrics.editing import mse, psnr, ssim, structure_distance, without_edit
from diffusion.metrics.estimate import Estimate
from diffusion.metrics.frechet import frechet_distance
from diffusion.metrics.inception import PROTOCOL as INCEPTION_PROTOCOL
from diffusion.metrics.inception import check as check_inception
from diffusion.metrics.inception import inception
from diffusion.metrics.inception import shapes as inception_shapes
from diffusion.metrics.inception_score import inception_score
from diffusion.metrics.kernel import cmmd, kernel_inception_distance
from diffusion.metrics.precision_recall import (
    DensityCoverage,
    PrecisionRecall,
    density_coverage,
    precision_recall,
)
from diffusion.metrics.statistics import FeatureStatistics, holds_statistics

__all__ = [
    "INCEPTION_PROTOCOL",
    "DensityCoverage",
    "Estimate",
    "FeatureStatistics",
    "PrecisionRecall",
    "check_inception",
    "clip_image",
    "cmmd",
    "density_coverage",
    "dinov2",
    "efficientnet_lite",
    "frechet_distance",
    "holds_statistics",
    "inception",
    "inception_score",
    "inception_shapes",
    "kernel_inception_distance",
    "lpips",
    "mse",
    "precision_recall",
    "psnr",
    "ssim",
    "structure_distance",
    "without_edit",
]
