"""Writes similarity.npz beside it: scikit-image's PSNR and SSIM of drawn images.

pip install scikit-image==0.26.0
python tests/from_scikit_image/make.py

The images are uint8; they are compared in [0, 1].
"""

from pathlib import Path

import numpy as np
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity


def main() -> None:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:19, 0:23]
    waves = np.sin(0.3 * y[..., None] + np.array([0.2, 0.5, 0.9]) * x[..., None])
    smooth = np.stack([127 + 100 * waves, 127 - 60 * waves, np.full((19, 23, 3), 30.0)])
    noise = np.array([40.0, 8.0, 2.0])[:, None, None, None] * rng.standard_normal(smooth.shape)
    a, b = (np.clip(np.round(v), 0, 255).astype(np.uint8) for v in (smooth, smooth + noise))
    pairs = list(zip(a / 255, b / 255, strict=True))
    options = {
        "gaussian_weights": True,
        "sigma": 1.5,
        "use_sample_covariance": False,
        "data_range": 1.0,
        "channel_axis": -1,
    }
    np.savez(
        Path(__file__).parent / "similarity.npz",
        a=a,
        b=b,
        ssim=[structural_similarity(*pair, **options) for pair in pairs],
        psnr=[peak_signal_noise_ratio(*pair, data_range=1.0) for pair in pairs],
        mse=[mean_squared_error(*pair) for pair in pairs],
    )


if __name__ == "__main__":
    main()
