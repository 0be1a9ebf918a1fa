"""Laws of Muon: every kernel moves by an orthogonal matrix, all else as by Adam."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import TINY, drawn
from flax import nnx

import configs
import unet_flax
from commands import config_file
from configs import Adam, Muon

SHAPES = {"conv": {"kernel": (3, 3, 8, 4), "bias": (4,)}, "dense": {"kernel": (6, 20)}}
KERNELS = ("conv", "dense")


def arrays(seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.standard_normal(shape), jnp.float32),
        SHAPES | {"table": (7, 5)},
        is_leaf=lambda leaf: isinstance(leaf, tuple),
    )


def first_update(optimizer, gradient):
    made, params = optimizer.make(), arrays(0)
    return made.update(gradient, made.init(params), params)[0]


def test_the_update_of_a_kernel_has_singular_values_near_one_up_to_its_scale():
    update = first_update(Muon(1.0), arrays(1))
    for name in KERNELS:
        kernel = update[name]["kernel"]
        singular = np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]), compute_uv=False)
        # five steps of Newton and Schulz with Muon's coefficients end between 0.7 and 1.2
        assert singular.max() / singular.min() < 1.2 / 0.65, singular


def test_the_size_of_an_update_is_a_fifth_of_the_learning_rate():
    update = first_update(Muon(1e-2), arrays(1))
    for name in KERNELS:
        size = np.sqrt(np.square(update[name]["kernel"]).mean())
        assert 0.65 * 2e-3 < size < 1.2 * 2e-3


def test_a_larger_gradient_moves_no_kernel_further():
    one, other = (
        first_update(Muon(1e-2), jax.tree.map(lambda g, s=scale: s * g, arrays(1)))
        for scale in (1.0, 100.0)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6), one, other)


def test_what_is_no_kernel_moves_as_by_adam_with_nesterovs_momentum():
    gradient, nadam = arrays(1), optax.nadam(1e-2)
    muon = first_update(Muon(1e-2), gradient)
    adam, _ = nadam.update(gradient, nadam.init(arrays(0)))
    np.testing.assert_allclose(muon["conv"]["bias"], adam["conv"]["bias"], rtol=1e-5)
    np.testing.assert_allclose(muon["table"], adam["table"], rtol=1e-5)


@pytest.mark.parametrize("step", [0, 5, 10, 40])
def test_the_learning_rate_is_that_of_adam(step):
    options = dict(warmup_steps=10, decay_steps=50)
    made, params = Muon(1e-2, **options).make(), {"bias": jnp.ones(3)}
    adam = optax.nadam(Adam(1e-2, **options).rate())
    states = [made.init(params), adam.init(params)]
    for _ in range(step + 1):
        updates = []
        for k, optimizer in enumerate((made, adam)):
            update, states[k] = optimizer.update(params, states[k], params)
            updates.append(update["bias"])
    np.testing.assert_allclose(*updates, rtol=1e-5)


@pytest.mark.slow
def test_every_kernel_of_a_network_is_one():
    unet = drawn(nnx.eval_shape(lambda: unet_flax.make(TINY, nnx.Rngs(0))))
    _, params = unet_flax.functional(unet)
    update = first_update_of(Muon(1e-2), params)
    for path, leaf in jax.tree.leaves_with_path(update):
        if "kernel" in jax.tree_util.keystr(path[-1:]) and min(leaf.shape) > 1:
            singular = np.linalg.svd(leaf.reshape(-1, leaf.shape[-1]), compute_uv=False)
            assert singular.max() / singular.min() < 4, jax.tree_util.keystr(path)


def first_update_of(optimizer, params):
    rng = np.random.default_rng(1)
    gradient = jax.tree.map(lambda p: jnp.asarray(rng.standard_normal(p.shape), p.dtype), params)
    made = optimizer.make()
    return jax.jit(made.update)(gradient, made.init(params), params)[0]


def test_it_can_be_a_recipes():
    recipe = dataclasses.replace(configs.load("digits"), optimizer=Muon(1e-2, decay_steps=3000))
    assert config_file.from_json(json.loads(json.dumps(config_file.to_json(recipe)))) == recipe
    assert recipe.optimizer.last_step == 3000
