"""Statistics do not depend on how features came in batches, and their files are EDM's."""

import itertools
from functools import reduce

import numpy as np
import pytest

from diffusion import metrics
from diffusion.metrics import FeatureStatistics

# a mean a thousand times the spread, where a sum of squares would lose six digits
X = 1000 + np.random.default_rng(0).standard_normal((101, 7))
MEAN, COVARIANCE = X.mean(0), np.cov(X, rowvar=False)


def assert_all_of_x(statistics):
    assert statistics.count == len(X)
    np.testing.assert_allclose(statistics.mu, MEAN, rtol=1e-14)
    # relative to the largest; rounding of the mean alone gives 1e-13
    size = np.abs(COVARIANCE).max()
    np.testing.assert_allclose(statistics.sigma, COVARIANCE, rtol=0, atol=1e-12 * size)
    np.testing.assert_array_equal(statistics.sigma, statistics.sigma.T)


@pytest.mark.parametrize("batch", [1, 2, 10, 100, 101])
def test_any_split_into_batches_gives_the_same(batch):
    statistics = FeatureStatistics.empty(7)
    for i in range(0, len(X), batch):
        statistics = statistics.add(X[i : i + batch])
    assert_all_of_x(statistics)


@pytest.mark.parametrize("batch", [1, 40, 101])
def test_batches_that_are_collected_give_the_same(batch):
    assert_all_of_x(FeatureStatistics.of_batches(X[i : i + batch] for i in range(0, 101, batch)))
    many = FeatureStatistics.of_batches([X] * 30, "inception")  # more than wait at once
    assert (many.count, many.protocol) == (3030, "inception")
    np.testing.assert_allclose(many.mu, MEAN, rtol=1e-14)
    np.testing.assert_allclose(many.scatter, 30 * 100 * COVARIANCE, rtol=1e-9)


def test_no_batches_and_batches_of_two_widths_are_refused():
    with pytest.raises(ValueError, match="there are no batches"):
        FeatureStatistics.of_batches([])
    with pytest.raises(ValueError, match="width 3 must have width 7"):
        FeatureStatistics.of_batches([X, X[:, :3]])


def test_any_order_of_merging_gives_the_same():
    parts = [FeatureStatistics.of(part) for part in np.split(X, [1, 30, 31])]
    for order in itertools.permutations([*parts, FeatureStatistics.empty(7)]):
        assert_all_of_x(reduce(FeatureStatistics.merge, order))
    a, b, c, d = parts
    assert_all_of_x(a.merge(b).merge(c.merge(d)))


def test_no_features_change_nothing():
    empty = FeatureStatistics.empty(7)
    assert empty.merge(empty).count == empty.add(X[:0]).count == 0


def test_what_is_saved_is_read_back(tmp_path):
    path = tmp_path / "statistics"  # a name without .npz stays as it is
    FeatureStatistics.of(X, "inception").save(path)
    found = FeatureStatistics.load(path)
    assert (found.count, found.protocol) == (101, "inception")
    np.testing.assert_array_equal(found.mu, FeatureStatistics.of(X).mu)
    np.testing.assert_allclose(found.sigma, FeatureStatistics.of(X).sigma, rtol=1e-15)
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_has_edms_names_and_edms_files_are_read(tmp_path):
    FeatureStatistics.of(X).save(tmp_path / "ours.npz")
    with np.load(tmp_path / "ours.npz") as file:
        mu, sigma = file["mu"], file["sigma"]
    assert mu.dtype == sigma.dtype == np.float64
    np.savez(tmp_path / "edm.npz", mu=mu, sigma=sigma)  # as fid.py does
    found = FeatureStatistics.load(tmp_path / "edm.npz")
    np.testing.assert_array_equal(found.sigma, sigma)
    assert found.count is None
    distance = metrics.frechet_distance(found, FeatureStatistics.of(X, "inception"))
    assert 0 <= distance < 1e-8  # of means of 1,000, whose squares are rounded to 1e-10
    with pytest.raises(ValueError, match="without `count` cannot be extended"):
        found.add(X)
    found.save(tmp_path / "again.npz")
    with np.load(tmp_path / "again.npz") as file:
        assert set(file) == {"mu", "sigma"}


def test_statistics_of_two_protocols_are_not_compared():
    a, b = FeatureStatistics.of(X, "inception"), FeatureStatistics.of(X, "dinov2")
    for call in (metrics.frechet_distance, FeatureStatistics.merge):
        with pytest.raises(ValueError, match="'inception' cannot be compared with .* 'dinov2'"):
            call(a, b)


def test_the_protocol_is_kept_where_one_of_two_has_it():
    a, b = FeatureStatistics.of(X, "inception"), FeatureStatistics.of(X)
    assert a.merge(b).protocol == b.merge(a).protocol == "inception"
    for one, other in ((a, b), (b, a)):  # 0 but for the rounding of the root of sigma^2
        assert metrics.frechet_distance(one, other) < 1e-12 * np.trace(a.sigma)


def test_statistics_kept_in_float32_are_read(tmp_path):
    """Their covariance, of fewer images than its width, has negative eigenvalues by rounding."""
    x = np.random.default_rng(1).standard_normal((20, 100))
    mu, sigma = x.mean(0).astype(np.float32), np.cov(x, rowvar=False).astype(np.float32)
    np.savez(tmp_path / "statistics.npz", mu=mu, sigma=sigma)
    found = FeatureStatistics.load(tmp_path / "statistics.npz")
    distance = metrics.frechet_distance(found, found)
    assert 0 <= distance < 1e-5 * np.trace(sigma)
    np.testing.assert_allclose(
        metrics.frechet_distance(found, FeatureStatistics.of(2 * x)),
        metrics.frechet_distance(FeatureStatistics.of(x), FeatureStatistics.of(2 * x)),
        rtol=1e-5,
    )


def test_a_sigma_with_a_negative_eigenvalue_has_no_distance(tmp_path):
    np.savez(tmp_path / "statistics.npz", mu=np.zeros(2), sigma=np.array([[1.0, 2], [2, 1]]))
    found = FeatureStatistics.load(tmp_path / "statistics.npz")
    with pytest.raises(ValueError, match="comes out as -6, because a sigma is no covariance"):
        metrics.frechet_distance(found, found)


EYE = np.eye(3)
DAMAGED = {
    "no sigma": (dict(mu=np.ones(3)), "has no sigma"),
    "no mu": (dict(sigma=EYE), "has no mu"),
    "nothing": (dict(mu=np.ones(0), sigma=np.ones((0, 0))), r"must have the shapes \(D,\) and"),
    "two counts": (dict(mu=np.ones(3), sigma=EYE, count=[3, 4]), r"count=\[3 4\] must be"),
    "another shape": (dict(mu=np.ones(4), sigma=EYE), r"must have the shapes \(D,\) and"),
    "not symmetric": (dict(mu=np.ones(3), sigma=EYE + np.eye(3, k=1)), "not symmetric"),
    "a negative variance": (dict(mu=np.ones(3), sigma=-EYE), "a variance below 0"),
    "not finite": (dict(mu=np.ones(3), sigma=np.full((3, 3), np.inf)), "sigma must be finite"),
    "nan": (dict(mu=np.full(3, np.nan), sigma=EYE), "mu must be finite"),
    "integers": (dict(mu=np.ones(3, int), sigma=EYE), "mu must be finite floating-point"),
    "objects": (dict(mu=np.array([None] * 3), sigma=EYE), "cannot be read as an npz"),
    "a count of one": (dict(mu=np.ones(3), sigma=EYE, count=1), "count=1 must be"),
    "a broken count": (dict(mu=np.ones(3), sigma=EYE, count=2.5), "count=2.5 must be"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_file_of_something_else_is_refused_in_one_line(tmp_path, damage):
    arrays, says = DAMAGED[damage]
    path = tmp_path / "statistics.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=says) as error:
        FeatureStatistics.load(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


@pytest.mark.parametrize("cut", [0, 10, 300, -30])
def test_a_damaged_file_is_refused_in_one_line(tmp_path, cut):
    path = tmp_path / "statistics.npz"
    FeatureStatistics.of(X).save(path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match="cannot be read as an npz") as error:
        FeatureStatistics.load(path)
    assert "\n" not in str(error.value)


def test_an_array_that_is_no_npz_is_refused_and_a_missing_file_is_missing(tmp_path):
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(ValueError, match="cannot be read as an npz"):
        FeatureStatistics.load(tmp_path / "x.npy")
    with pytest.raises(FileNotFoundError):
        FeatureStatistics.load(tmp_path / "none.npz")


def test_features_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="features must be finite; 1 are not"):
        FeatureStatistics.empty(2).add(np.array([[0.0, 1.0], [np.inf, np.nan]]))
    with pytest.raises(ValueError, match="width 3 must have width 2"):
        FeatureStatistics.empty(2).add(np.ones((4, 3)))
