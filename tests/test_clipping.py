"""Laws of the gradient's norm and of clipping by it, compared with optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import TINY
from flax import nnx

import diffusion as dm
import unet_flax
from diffusion.training.clipping import clip_by_grad_norm, global_norm
from unet_flax import UNet


def tree(scale=1.0):
    rng = np.random.default_rng(0)
    shapes = {"a": (3, 3, 4, 8), "b": (8,), "c": {"d": (8,), "e": (5, 7), "f": ()}, "g": (4,)}
    return jax.tree.map(
        lambda shape: jnp.asarray(scale * rng.standard_normal(shape), jnp.float32),
        shapes,
        is_leaf=lambda node: isinstance(node, tuple),
    )


def test_norm_is_that_of_all_leaves_as_one_vector():
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree())], dtype=np.float64)
    assert global_norm(tree()) == pytest.approx(np.linalg.norm(flat), rel=1e-6)


@pytest.mark.parametrize("shape", [(8, 8), (64,)])
def test_norm_of_many_bfloat16_leaves_keeps_growing(shape):
    leaves = [jnp.full(shape, 0.25, jnp.bfloat16)] * 400  # the squares of each sum to 4
    assert global_norm(leaves) == 40


def test_norm_of_nothing_is_zero():
    assert global_norm(()) == 0 and global_norm({"a": jnp.zeros(3)}) == 0


def test_one_bad_value_shows_in_the_norm():
    for bad in (jnp.nan, jnp.inf):
        assert not jnp.isfinite(global_norm(tree() | {"g": jnp.full(4, bad)}))


def test_network_is_summed_by_kernel_and_by_length():
    _, params = unet_flax.functional(nnx.eval_shape(lambda: UNet(TINY, rngs=nnx.Rngs(0))))
    leaves = jax.tree.leaves(params)
    kernels = [leaf for leaf in leaves if leaf.ndim > 1]
    lengths = {leaf.shape for leaf in leaves if leaf.ndim == 1}
    sums = str(jax.make_jaxpr(global_norm)(params)).count("reduce_sum")
    assert sums == len(kernels) + len(lengths) < len(leaves) * 2 / 3


@pytest.mark.parametrize("scale", [0.0, 0.01, 1.0, 100.0])
def test_clipping_is_that_of_optax(scale):
    grads = tree(scale)
    clipping, theirs = clip_by_grad_norm(1.0), optax.clip_by_global_norm(1.0)
    state = clipping.init(grads)
    ours, _ = clipping.update(grads, state)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),  # two roundings, in another order
        ours,
        theirs.update(grads, theirs.init(grads))[0],
    )
    assert state == theirs.init(grads)  # so that checkpoints of either are the other's


@pytest.mark.parametrize("max_norm", [0.0, -1.0, jnp.nan])
def test_a_bound_that_is_not_positive_is_refused(max_norm):
    with pytest.raises(ValueError, match=r"max_norm=.* is outside \(0, inf\)"):
        clip_by_grad_norm(max_norm)


def test_a_given_norm_is_used_without_computing_it():
    clipping = clip_by_grad_norm(1.0)
    halved, _ = clipping.update(tree(), clipping.init(tree()), grad_norm=jnp.float32(2))
    jax.tree.map(np.testing.assert_array_equal, halved, tree(0.5))


def test_the_step_passes_the_norm_to_its_optimizer():
    def network(params, x, c_noise, **cond):
        return params["scale"] * x

    def divide(updates, state, params=None, *, grad_norm, **_):
        return jax.tree.map(lambda grad: grad / grad_norm, updates), state

    dividing = optax.GradientTransformationExtraArgs(optax.init_empty_state, divide)
    optimizer, ema = optax.chain(dividing, optax.sgd(1.0)), dm.EMA(0.9)
    step = dm.make_train_step(network, dm.EDM(), dm.LogNormal(), optimizer, ema)
    state = dm.TrainState.create({"scale": jnp.ones(())}, optimizer, ema)
    image = jax.random.normal(jax.random.key(1), (4, 2, 2, 1))
    state, _ = step(state, {"image": image}, jax.random.key(0))
    assert abs(state.params["scale"] - 1) == pytest.approx(1, abs=1e-6)
