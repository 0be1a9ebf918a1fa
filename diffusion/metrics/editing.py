"""What an edit has changed that it should not have: the measures of PIE-Bench.

    keep = metrics.without_edit(a, edited), metrics.without_edit(b, edited)
    metrics.psnr(*keep), metrics.ssim(*keep), metrics.mse(*keep), lpips.lpips(params, *keep)
    metrics.structure_distance(dinov2.keys(params, a_pixels), dinov2.keys(params, b_pixels))

Images are (N, H, W, C) in [-1, 1], and are measured in [0, 1]; each measure is one number for each
pair, float64. PIE-Bench measures the unedited part by making the edited one black in both images.
The mean still runs over all pixels, so a larger edited part lowers the error: this is done here,
as published numbers have it.

Source: Ju et al. 2023, arXiv:2310.01506 (PIE-Bench), section 5. Its tables show the structure
  distance and LPIPS times 1e3, the mean squared error times 1e4, SSIM times 1e2. Deviation: its
  LPIPS is that of SqueezeNet, `lpips` has AlexNet and VGG16.
"""

import numpy as np
from jaxtyping import Array, Bool, Float
from scipy import ndimage

from diffusion.pixels import check_image
from diffusion.ranges import demand

Images = Float[np.ndarray, "N H W C"] | Float[Array, "N H W C"]
Tokens = Float[np.ndarray, "N L D"] | Float[Array, "N L D"]
Masks = Bool[np.ndarray, "N H W"] | Bool[Array, "N H W"]
PerPair = Float[np.ndarray, "N"]

SIGMA = 1.5
WINDOW = 11
K_1, K_2 = 0.01, 0.03


def without_edit(image: Images, edited: Masks) -> Float[np.ndarray, "N H W C"]:
    """The image with its edited part black, so that a measure compares the rest alone.

    Args:
      edited: True where the edit was to act.
    Raises:
      ValueError: an image of integers; masks of another number or size.
    """
    check_image("image", image)
    image, edited = np.asarray(image), np.asarray(edited)
    if edited.shape != image.shape[:3]:
        raise ValueError(
            f"the masks are {edited.shape} (count, height, width), but the images are "
            f"{image.shape[:3]}."
        )
    return np.where(edited[..., None], np.float32(-1), image)


def mse(a: Images, b: Images) -> PerPair:
    """The mean squared difference of images in [0, 1].

    Raises:
      ValueError: an image of integers; images of two shapes. So with the measures below.
    """
    a, b = _unit_range(a, b)
    return np.square(a - b).mean((1, 2, 3))


def psnr(a: Images, b: Images) -> PerPair:
    """The peak signal-to-noise ratio in dB, -10 log10(mse); infinite for equal images."""
    with np.errstate(divide="ignore"):
        return -10 * np.log10(mse(a, b))


def ssim(a: Images, b: Images) -> PerPair:
    """The structural similarity, 1 for equal images.

    (2 m_a m_b + C_1) (2 s_ab + C_2) / ((m_a^2 + m_b^2 + C_1) (s_a^2 + s_b^2 + C_2))

    m, s^2 and s_ab are means, variances and covariance in a Gaussian window of 11x11 pixels with
    standard deviation 1.5; C_1 = 0.01^2, C_2 = 0.03^2. It is averaged over channels and over all
    pixels whose window lies within the image.

    Raises:
      ValueError: images that are smaller than the window.
    Source: Wang et al. 2004, "Image quality assessment: from error visibility to structural
      similarity", equation 13. Equal to scikit-image's structural_similarity with
      gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1, for each channel.
    """
    a, b = _unit_range(a, b)
    _, H, W, _ = a.shape
    if min(H, W) < WINDOW:
        raise ValueError(f"images of {H}x{W} are smaller than the window, {WINDOW}x{WINDOW}.")
    m_a, m_b = _windowed(a), _windowed(b)
    variances = _windowed(a * a) - m_a**2 + _windowed(b * b) - m_b**2
    covariance = _windowed(a * b) - m_a * m_b
    C_1, C_2 = K_1**2, K_2**2
    means = (2 * m_a * m_b + C_1) / (m_a**2 + m_b**2 + C_1)
    return (means * (2 * covariance + C_2) / (variances + C_2)).mean((1, 2, 3))


def structure_distance(keys_a: Tokens, keys_b: Tokens) -> PerPair:
    """The mean squared difference of two images' self-similarities.

    S_ij = k_i k_j / (|k_i| |k_j|) for all tokens i, j of an image

    Args:
      keys_a, keys_b: the keys of a vision transformer's last block, such as `dinov2.keys`.
    Raises:
      ValueError: a key of zeros or no number.
    Source: Tumanyan et al. 2022, arXiv:2201.00424, equations 3 and 4. Deviation: any network's
      keys; PIE-Bench takes those of DINO's ViT-B/8 for images of 224x224, with the class token.
    """
    gap = _self_similarity(keys_a) - _self_similarity(keys_b)
    return np.square(gap).mean((1, 2))


def _self_similarity(keys: Tokens) -> Float[np.ndarray, "N L L"]:
    keys = np.asarray(keys, np.float64)
    lengths = np.linalg.norm(keys, axis=-1, keepdims=True)
    demand("(0, inf)", length_of_a_key=lengths)
    directions = keys / lengths
    return directions @ directions.swapaxes(1, 2)


def _unit_range(*pair: Images) -> list[Float[np.ndarray, "N H W C"]]:
    a, b = pair
    if a.shape != b.shape:
        raise ValueError(f"the images are {a.shape} and {b.shape}; they are compared in pairs.")
    for image in pair:
        check_image("image", image)
    return [(np.asarray(image, np.float64) + 1) / 2 for image in pair]


def _windowed(image: Float[np.ndarray, "N H W C"]) -> Float[np.ndarray, "N h w C"]:
    """The weighted mean of every window that lies within the image."""
    places = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-(places**2) / (2 * SIGMA**2))
    weights /= weights.sum()
    for axis in (1, 2):
        image = ndimage.correlate1d(image, weights, axis)
    margin = slice(WINDOW // 2, -(WINDOW // 2))
    return image[:, margin, margin]
