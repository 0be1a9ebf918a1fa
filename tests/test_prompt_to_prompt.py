"""Laws of prompt-to-prompt, on a tiny network with texts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import drawn
from flax import nnx

import diffusion as dm
import unet_flax
from unet_flax import CrossAttention, SelfAttention, TextEncoderConfig, UNet, UNetConfig

CONFIG = UNetConfig(
    8, 3, channels=8, channel_mult=(1,), num_res_blocks=1, num_groups=4, num_heads=2,
    attention_resolutions=(8,),
    text=TextEncoderConfig(vocab_size=9, num_tokens=4, channels=8, num_layers=1, num_heads=2),
)  # fmt: skip
SOURCE, TARGET = jnp.array([[1, 2, 3, 0]]), jnp.array([[1, 4, 3, 0]])
SIGMAS, EULER = dm.Karras()(6), dm.Euler()


@pytest.fixture(scope="module")
def network():
    return unet_flax.functional(drawn(nnx.eval_shape(lambda: UNet(CONFIG, rngs=nnx.Rngs(0)))))


def denoiser(network, *texts):
    call, params = network
    return dm.denoiser(call, params, dm.EDM(), text=jnp.concatenate(texts))


def words(text):
    return [str(token) for token in text[0].tolist() if token]


def pair_of_images(network, target=TARGET, sampler=EULER, **options):
    """The source's image and the target's."""
    aligned = dm.align_tokens(words(SOURCE), words(target), 4)
    denoise = dm.prompt_to_prompt(denoiser(network, SOURCE, target), *aligned, SIGMAS, **options)
    noise = SIGMAS[0] * jax.random.normal(jax.random.key(1), (1, 8, 8, 3))
    return jnp.split(sampler(denoise, jnp.concatenate([noise, noise]), SIGMAS, keys(2)), 2)


def keys(count):
    return jnp.stack([jax.random.key(0)] * count)


def plain(network, text):
    noise = SIGMAS[0] * jax.random.normal(jax.random.key(1), (1, 8, 8, 3))
    return dm.Euler()(denoiser(network, text), noise, SIGMAS, keys(1))


def close(a, b):
    # float32 sums in another order, grown over six steps
    return np.allclose(a, b, rtol=1e-3, atol=1e-3)


def test_without_any_share_each_is_drawn_as_if_alone(network):
    before, after = pair_of_images(network, cross=0.0, own=0.0)
    assert close(before, plain(network, SOURCE)) and close(after, plain(network, TARGET))


def test_the_source_is_drawn_as_if_alone(network):
    before, after = pair_of_images(network, scale=np.full(4, 2.0))
    assert close(before, plain(network, SOURCE))
    assert not close(after, plain(network, TARGET))


@pytest.mark.parametrize("sampler", [dm.Heun(), dm.Ancestral()])
def test_under_the_same_text_both_images_are_the_same(network, sampler):
    before, after = pair_of_images(network, SOURCE, sampler)
    assert close(before, after)


def test_more_of_the_sources_attention_is_nearer_to_the_source(network):
    distances = []
    for share in (0.0, 0.5, 1.0):
        before, after = pair_of_images(network, cross=share, own=share)
        distances.append(float(jnp.square(after - before).mean()))
    assert distances[0] > distances[1] > distances[2] > 0  # the values of attention still differ


def test_shares_are_of_the_steps_from_the_first(network):
    aligned = dm.align_tokens(words(SOURCE), words(TARGET), 4)
    both, x = denoiser(network, SOURCE, TARGET), jax.random.normal(jax.random.key(2), (2, 8, 8, 3))
    denoise = dm.prompt_to_prompt(both, *aligned, SIGMAS, cross=0.5, own=0.5)
    for sigma in SIGMAS[:3]:
        assert not close(denoise(x, sigma)[1], both(x, sigma)[1])
    for sigma in SIGMAS[3:-1]:
        assert close(denoise(x, sigma), both(x, sigma))


def test_with_the_noise_of_a_real_image_the_source_is_that_image(network):
    image = jax.random.uniform(jax.random.key(3), (1, 8, 8, 3), minval=-1)
    two = jnp.concatenate([image, image])
    source = denoiser(network, SOURCE, SOURCE)
    x, rest, replay = dm.ddpm_invert(source, two, SIGMAS, keys(2)).begin(0.0)
    aligned = dm.align_tokens(words(SOURCE), words(TARGET), 4)
    denoise = dm.prompt_to_prompt(denoiser(network, SOURCE, TARGET), *aligned, rest)
    before, after = jnp.split(replay(denoise, x, rest, keys(2)), 2)
    assert close(before, image) and not close(after, image)


# --- attention


def attention(kind, *widths):
    made = nnx.eval_shape(lambda: kind(*widths, num_heads=2, num_groups=4, rngs=nnx.Rngs(0)))
    return drawn(made)


EDIT = dict(mapper=jnp.eye(5), cross_share=jnp.ones(5), self_share=jnp.ones(()), scale=jnp.ones(5))


def test_a_token_is_attended_to_where_its_source_was():
    """With equal contexts but for their order, the mapper undoes the order."""
    layer, order = attention(CrossAttention, 8, 6), np.array([2, 0, 1, 4, 3])
    x = jax.random.normal(jax.random.key(0), (1, 4, 4, 8))
    context = jax.random.normal(jax.random.key(1), (1, 5, 6))
    other = jax.random.normal(jax.random.key(2), (1, 4, 4, 8))  # its own queries do not count
    mapper = jnp.zeros((5, 5)).at[order, jnp.arange(5)].set(1.0)
    contexts = jnp.concatenate([context, context[:, order]])
    images = jnp.concatenate([x, other])
    edited = layer(images, contexts, edit=EDIT | {"mapper": mapper}) - images
    np.testing.assert_allclose(edited[1], edited[0], atol=1e-5)


def test_the_result_is_linear_in_the_scale_of_a_token():
    layer = attention(CrossAttention, 8, 6)
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 8))
    context = jax.random.normal(jax.random.key(1), (2, 5, 6))

    def at(value):
        edit = EDIT | {"cross_share": jnp.zeros(5), "scale": jnp.ones(5).at[2].set(value)}
        return layer(x, context, edit=edit)

    np.testing.assert_allclose(at(1.0), layer(x, context), atol=1e-5)
    np.testing.assert_allclose(at(3.0) - at(1.0), 2 * (at(1.0) - at(0.0)), atol=1e-4)


@pytest.mark.parametrize(("side", "is_replaced"), [(16, True), (17, False)])
def test_self_attention_is_replaced_on_small_maps(side, is_replaced):
    layer = attention(SelfAttention, 8)
    x = jax.random.normal(jax.random.key(0), (2, side, side, 8))
    edited, plain = layer(x, EDIT), layer(x)
    np.testing.assert_allclose(edited[0], plain[0], atol=1e-5)
    assert np.allclose(edited[1], plain[1], atol=1e-5) != is_replaced


# --- the alignment of tokens


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("a red cat", "a blue cat", {(0, 0): 1, (1, 1): 1, (2, 2): 1}),
        ("a cat", "a fluffy cat", {(0, 0): 1, (1, 2): 1}),
        ("a fluffy cat", "a cat", {(0, 0): 1, (2, 1): 1}),
        ("a cat", "a guinea pig", {(0, 0): 1, (1, 1): 0.5, (1, 2): 0.5}),
        ("a guinea pig", "a cat", {(0, 0): 1, (1, 1): 1, (2, 1): 1}),
    ],
)
def test_tokens_correspond_in_order(source, target, expected):
    source, target = source.split(), target.split()
    mapper, is_mapped = dm.align_tokens(source, target, 5)
    found = {(i, j): mapper[i, j] for i, j in np.argwhere(mapper[:3]).tolist() if j < len(target)}
    assert {pair: value for pair, value in found.items() if pair[0] < len(source)} == expected
    assert is_mapped[: len(target)].tolist() == [
        any(j == at for _, j in expected) for at in range(len(target))
    ]


def test_padding_corresponds_to_padding():
    mapper, is_mapped = dm.align_tokens(["a"], ["a", "b"], 4)
    assert mapper[1, 2] == mapper[2, 3] == 1 and mapper[3].sum() == 0
    assert is_mapped.tolist() == [True, False, True, True]


# --- mistakes


def test_mistakes_are_named(network):
    with pytest.raises(ValueError, match="source has 3 tokens, more than length=2"):
        dm.align_tokens(["a", "b", "c"], ["a"], 2)
    aligned = dm.align_tokens(["a"], ["b"], 4)
    with pytest.raises(ValueError, match="own"):
        dm.prompt_to_prompt(denoiser(network, SOURCE, TARGET), *aligned, SIGMAS, own=1.5)
    x = jnp.zeros((3, 8, 8, 3))
    odd = dm.prompt_to_prompt(denoiser(network, SOURCE, TARGET, TARGET), *aligned, SIGMAS)
    with pytest.raises(ValueError, match="as many targets, not 3"):
        odd(x, SIGMAS[0])
    short = dm.prompt_to_prompt(
        denoiser(network, SOURCE, TARGET), *dm.align_tokens(["a"], ["b"], 3), SIGMAS
    )
    with pytest.raises(ValueError, match=r"attention_edit of shapes .*\(3, 3\).* it needs"):
        short(x[:2], SIGMAS[0])
    config = dataclasses.replace(CONFIG, text=None)
    without = nnx.eval_shape(lambda: UNet(config, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match="needs a network that attends to a text"):
        without(x[:2], jnp.zeros(2), attention_edit=EDIT)
