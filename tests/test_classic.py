"""Laws of the U-Net of 2015."""

import re
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from unet_flax import ClassicUNet, Classifier, DownBlock, Encoder, UpBlock, classic


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
    """Noisy images of a disc, and the disc as a mask."""
    centre_key, noise_key = jax.random.split(key)
    centre = jax.random.uniform(centre_key, (B, 2), minval=4.0, maxval=12.0)
    rows, columns = jnp.mgrid[:size, :size]
    grid = jnp.stack([rows, columns], axis=-1)[None]
    distance = jnp.linalg.norm(grid - centre[:, None, None, :], axis=-1)
    mask = (distance < 4).astype(jnp.float32)[..., None]
    return mask + 0.5 * jax.random.normal(noise_key, mask.shape), mask


def single_pixels(key, B=16, size=16):
    """Noise, and a mask of where it is positive: nothing but detail."""
    image = jax.random.normal(key, (B, size, size, 1))
    return image, (image > 0).astype(jnp.float32)


@nnx.jit
def train_step(unet, optimizer, image, mask):
    def loss(unet):
        return optax.sigmoid_binary_cross_entropy(unet(image), mask).mean()

    value, grads = nnx.value_and_grad(loss)(unet)
    optimizer.update(unet, grads)
    return value


def train(task, has_skips):
    """A trained network, and its mean loss over the last steps."""
    unet = ClassicUNet(1, 1, channels=4, depth=2, has_skips=has_skips, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(unet, optax.adam(1e-2), wrt=nnx.Param)
    unet.train()
    keys = jax.random.split(jax.random.key(0), 60)
    losses = [float(train_step(unet, optimizer, *task(key))) for key in keys]
    unet.eval()
    return unet, np.mean(losses[-10:])


@pytest.fixture(scope="module")
def trained():
    return train(discs, has_skips=True)[0]


def test_it_learns_to_segment(trained):
    image, mask = discs(jax.random.key(99))
    assert ((trained(image) > 0) == (mask > 0)).mean() > 0.95


def test_skips_bring_the_detail():
    _, with_skips = train(single_pixels, has_skips=True)
    _, without = train(single_pixels, has_skips=False)
    assert with_skips < 0.3 and without > 0.6  # guessing costs ln 2 = 0.69


def test_training_moves_the_running_statistics_and_evaluation_does_not(trained):
    image, _ = discs(jax.random.key(7))
    before = jax.tree.map(jnp.copy, nnx.state(trained, nnx.BatchStat))
    assert not all((leaf == 0).all() for leaf in jax.tree.leaves(before))
    trained(image)
    for a, b in zip(
        *map(jax.tree.leaves, (before, nnx.state(trained, nnx.BatchStat))), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    # at evaluation an image does not depend on the others of its batch
    np.testing.assert_allclose(trained(image[:1]), trained(image)[:1], atol=1e-4)


def test_the_docstrings_recipe_under_jax_jit_is_the_step_of_nnx():
    image, mask = discs(jax.random.key(3))
    unet = ClassicUNet(1, 1, channels=4, depth=2, rngs=nnx.Rngs(0))
    unet.train()
    recipe = re.findall(r"(?:^    .*\n|^\n)+", classic.__doc__, re.MULTILINE)[-1]
    assert "nnx.merge" in recipe
    names = dict(jax=jax, jnp=jnp, nnx=nnx, unet=unet, image=image, mask=mask)
    exec(textwrap.dedent(recipe), names)
    before = jax.tree.map(jnp.copy, nnx.state(unet, nnx.BatchStat))

    @nnx.jit
    def value_and_grad(unet):
        return nnx.value_and_grad(lambda unet: jnp.mean((unet(image) - mask) ** 2))(unet)

    value, grads = value_and_grad(unet)
    after = nnx.state(unet, nnx.BatchStat)
    moved = zip(*map(jax.tree.leaves, (before, after)), strict=True)
    assert all(jnp.abs(a - b).max() > 0 for a, b in moved)
    for ours, expected in (
        (names["value"], value),
        (names["grads"], grads),
        (names["batch_stats"], after),
    ):
        for a, b in zip(*map(jax.tree.leaves, (ours, expected)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_images_that_cannot_be_halved_so_often_are_refused():
    encoder = nnx.eval_shape(lambda: Encoder(depth=3, rngs=nnx.Rngs(0)))
    for shape in [(1, 12, 16, 3), (1, 16, 16, 1)]:
        with pytest.raises(ValueError, match=r"multiples of 8 = 2\*\*depth, with 3 channels"):
            encoder(jnp.zeros(shape))


@pytest.mark.parametrize("name", ["in_channels", "channels", "depth"])
def test_sizes_below_one_are_refused(name):
    with pytest.raises(ValueError, match=f"{name}=0"):
        Encoder(**{name: 0}, rngs=nnx.Rngs(0))
