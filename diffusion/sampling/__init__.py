"""From noise to images: grids, samplers, guidance, and the likelihood of images."""
