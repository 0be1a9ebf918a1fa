"""Laws of the U-Net of 2015."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from unet_flax import ClassicUNet, Classifier, DownBlock, Encoder, UpBlock


def shape_of(module, *args):
    """What an abstract module (nnx.eval_shape) gives, as shapes."""
    graph, state = nnx.split(module)
    out = jax.eval_shape(lambda state, *args: nnx.merge(graph, state)(*args), state, *args)
    return jax.tree.map(lambda leaf: leaf.shape, out)


def test_a_128_pixel_image_passes_the_textbooks_shapes():
    unet = nnx.eval_shape(lambda: ClassicUNet(rngs=nnx.Rngs(0)))
    x = jnp.zeros((1, 128, 128, 3))
    down, up = [], []
    for block in unet.encoder.blocks:
        pooled, skip = shape_of(block, x)
        x = jnp.zeros(pooled)
        down.append(pooled[1:])
        up.append(skip[1:])
    assert down == [(64, 64, 64), (32, 32, 128), (16, 16, 256), (8, 8, 512)]
    x = jnp.zeros(shape_of(unet.bottleneck, x))
    assert x.shape[1:] == (8, 8, 1024)
    for block, skip in zip(unet.decoder, up[::-1], strict=True):
        x = jnp.zeros(shape_of(block, x, jnp.zeros((1, *skip))))
        assert x.shape[1:] == skip
    assert shape_of(unet, jnp.zeros((1, 128, 128, 3))) == (1, 128, 128, 1)


@pytest.mark.parametrize(("channels", "depth"), [(4, 1), (6, 3)])
def test_any_width_and_depth(channels, depth):
    unet = nnx.eval_shape(lambda: ClassicUNet(1, 5, channels, depth, rngs=nnx.Rngs(0)))
    assert shape_of(unet, jnp.zeros((2, 16, 24, 1))) == (2, 16, 24, 5)


def test_blocks_return_what_they_say():
    down = nnx.eval_shape(lambda: DownBlock(3, 4, rngs=nnx.Rngs(0)))
    assert shape_of(down, jnp.zeros((1, 8, 8, 3))) == ((1, 4, 4, 4), (1, 8, 8, 4))
    up = nnx.eval_shape(lambda: UpBlock(4, 2, rngs=nnx.Rngs(0)))
    assert shape_of(up, jnp.zeros((1, 4, 4, 4)), jnp.zeros((1, 8, 8, 2))) == (1, 8, 8, 2)


def test_a_classifier_gives_one_row_of_logits_an_image():
    classifier = nnx.eval_shape(lambda: Classifier(10, channels=4, depth=2, rngs=nnx.Rngs(0)))
    assert shape_of(classifier, jnp.zeros((3, 8, 8, 3))) == (3, 10)


def discs(key, B=16, size=16):
    """Noisy images of a disc, and as a mask the disc's brighter pixels: where, and in detail."""
    centre_key, noise_key = jax.random.split(key)
    centre = jax.random.uniform(centre_key, (B, 2), minval=4.0, maxval=12.0)
    rows, columns = jnp.mgrid[:size, :size]
    grid = jnp.stack([rows, columns], axis=-1)[None]
    distance = jnp.linalg.norm(grid - centre[:, None, None, :], axis=-1)
    disc = (distance < 4)[..., None]
    image = disc + 0.5 * jax.random.normal(noise_key, disc.shape)
    return image, (disc & (image > 1)).astype(jnp.float32)


@pytest.fixture(scope="module")
def trained():
    """Losses while a network with skips and one without learn to find them."""
    losses = {}
    for has_skips in (True, False):
        unet = ClassicUNet(1, 1, channels=4, depth=2, has_skips=has_skips, rngs=nnx.Rngs(0))
        optimizer = nnx.Optimizer(unet, optax.adam(1e-2), wrt=nnx.Param)

        @nnx.jit
        def step(unet, optimizer, key):
            image, mask = discs(key)

            def loss(unet):
                return optax.sigmoid_binary_cross_entropy(unet(image), mask).mean()

            value, grads = nnx.value_and_grad(loss)(unet)
            optimizer.update(unet, grads)
            return value

        unet.train()
        keys = jax.random.split(jax.random.key(0), 60)
        losses[has_skips] = [float(step(unet, optimizer, key)) for key in keys]
        unet.eval()
        losses[has_skips, "unet"] = unet
    return losses


def test_it_learns_to_segment(trained):
    image, mask = discs(jax.random.key(99))
    found = trained[True, "unet"](image) > 0
    assert (found == (mask > 0)).mean() > 0.95


def test_skips_bring_the_detail(trained):
    # the same steps on the same images; without skips single pixels are lost in pooling
    with_skips, without = (np.mean(trained[has_skips][-10:]) for has_skips in (True, False))
    assert with_skips < 0.8 * without


def test_training_moves_the_running_statistics_and_evaluation_does_not(trained):
    unet = trained[True, "unet"]
    image, _ = discs(jax.random.key(7))
    before = jax.tree.map(jnp.copy, nnx.state(unet, nnx.BatchStat))
    assert not all((leaf == 0).all() for leaf in jax.tree.leaves(before))
    unet(image)
    for a, b in zip(*map(jax.tree.leaves, (before, nnx.state(unet, nnx.BatchStat))), strict=True):
        np.testing.assert_array_equal(a, b)
    # at evaluation an image does not depend on the others of its batch
    np.testing.assert_allclose(unet(image[:1]), unet(image)[:1], atol=1e-4)


def test_images_that_cannot_be_halved_so_often_are_refused():
    encoder = nnx.eval_shape(lambda: Encoder(depth=3, rngs=nnx.Rngs(0)))
    for shape in [(1, 12, 16, 3), (1, 16, 16, 1)]:
        with pytest.raises(ValueError, match=r"multiples of 8 = 2\*\*depth, with 3 channels"):
            encoder(jnp.zeros(shape))


@pytest.mark.parametrize("name", ["in_channels", "channels", "depth"])
def test_sizes_below_one_are_refused(name):
    with pytest.raises(ValueError, match=f"{name}=0"):
        Encoder(**{name: 0}, rngs=nnx.Rngs(0))
