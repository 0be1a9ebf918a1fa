"""Images are resized as Pillow resizes them."""

import jax
import numpy as np
import pytest
from PIL import Image

from diffusion.metrics.pillow import resize


@pytest.mark.parametrize("kind", ["noise", "extremes"])
@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(32, 32, 224), (224, 224, 224), (225, 223, 224), (512, 300, 224), (1, 7, 5), (40, 3, 336)],
)
def test_resize_equals_pillow_bit_for_bit(height, width, size, kind):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2, height, width, 3), np.uint8)
    if kind == "extremes":  # the kernel overshoots: values are clipped
        pixels = np.where(pixels > 127, 255, 0).astype(np.uint8)

    def theirs(image):
        # in two steps, since Pillow 13 resizes some tall images along the height first
        wide = Image.fromarray(image).resize((size, height), Image.Resampling.BICUBIC)
        return np.asarray(wide.resize((size, size), Image.Resampling.BICUBIC))

    ours = jax.jit(resize, static_argnums=1)(pixels, size)
    np.testing.assert_array_equal(ours, np.stack([theirs(image) for image in pixels]))
