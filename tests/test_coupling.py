"""Laws of the pairing of images and noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.spatial

import diffusion as dm

X_0 = jax.random.normal(jax.random.key(0), (16, 2, 2, 1))
EPS = jax.random.normal(jax.random.key(1), (16, 2, 2, 1))


def rows(array):
    return sorted(map(tuple, np.asarray(array).reshape(16, -1).tolist()))


@pytest.mark.parametrize("coupling", [dm.Independent(), dm.MinibatchOT()])
def test_a_coupling_only_reorders_the_noise(coupling):
    assert rows(jax.jit(coupling.__call__)(X_0, EPS)) == rows(EPS)


def test_the_optimal_pairing_is_scipys():
    def cost(eps):
        return float(jnp.square(X_0 - eps).sum())

    flat = [np.asarray(a).reshape(16, -1) for a in (X_0, EPS)]
    images, noises = scipy.optimize.linear_sum_assignment(
        scipy.spatial.distance.cdist(*flat, "sqeuclidean")
    )
    got = dm.MinibatchOT()(X_0, EPS)
    assert cost(got) == pytest.approx(cost(EPS[noises]), rel=1e-5) and cost(got) < cost(EPS)


def test_in_one_dimension_the_order_is_kept():
    x_0, eps = X_0.reshape(-1, 1), EPS.reshape(-1, 1)
    got = dm.MinibatchOT()(x_0, eps)
    np.testing.assert_array_equal(jnp.argsort(x_0[:, 0]), jnp.argsort(got[:, 0]))
