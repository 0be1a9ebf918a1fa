"""Laws of the order in which images are drawn from a mixture."""

import numpy as np
import pytest

from diffusion.data.order import Mixture

GROUPS = {"many": np.arange(0, 17), "few": np.arange(20, 25), "left out": np.arange(30, 33)}
MIXTURE = Mixture(GROUPS, (3, 1, 0))


def drawn(seed, batches, size):
    return np.concatenate([MIXTURE.indices(seed, step, size) for step in batches])


def test_every_batch_has_the_shares():
    for step in range(20):
        batch = MIXTURE.indices(0, step, 8)
        assert np.isin(batch, GROUPS["many"]).sum() == 6
        assert np.isin(batch, GROUPS["few"]).sum() == 2


def test_each_image_of_a_group_comes_once_before_any_comes_again():
    whole = drawn(0, range(40), 8)
    for name in ("many", "few"):
        of_group = whole[np.isin(whole, GROUPS[name])]
        size = len(GROUPS[name])
        for start in range(0, len(of_group) - size, size):
            assert sorted(of_group[start : start + size]) == sorted(GROUPS[name])


def test_the_order_is_the_same_in_batches_of_any_size():
    np.testing.assert_array_equal(drawn(5, range(12), 4), drawn(5, range(4), 12))


def test_seeds_and_epochs_have_orders_of_their_own():
    first = [tuple(drawn(seed, [0], 17)) for seed in range(4)]
    assert len(set(first)) == 4
    few = drawn(0, range(10), 8)
    few = few[np.isin(few, GROUPS["few"])].reshape(-1, 5)
    assert len({tuple(epoch) for epoch in few}) > 1


@pytest.mark.parametrize(
    ("groups", "shares", "says"),
    [
        (GROUPS, (1, 1), "3 whole numbers"),
        (GROUPS, (1, -1, 0), "0 or more"),
        (GROUPS, (0, 0, 0), "not all 0"),
        (GROUPS | {"few": np.arange(0)}, (1, 1, 0), "there is no few"),
    ],
)
def test_shares_that_make_no_sense_are_refused(groups, shares, says):
    with pytest.raises(ValueError, match=says):
        Mixture(groups, shares)
