"""Distances of features are those of their formulas, and of torch-fidelity on the same features."""

import re
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
from scipy.linalg import sqrtm

from diffusion import metrics
from diffusion.metrics import FeatureStatistics

GOLDEN = np.load(Path(__file__).parent / "from_torch_fidelity" / "metrics.npz")
"""By make_metrics.py, which lies beside it, from torch-fidelity 0.4.0 in float64."""

RNG = np.random.default_rng(0)
X = RNG.standard_normal((60, 5)) @ RNG.standard_normal((5, 5)) + 3
Y = RNG.standard_normal((50, 5))


def fid(generated, real):
    return metrics.frechet_distance(FeatureStatistics.of(generated), FeatureStatistics.of(real))


def test_fid_equals_torch_fidelitys():
    np.testing.assert_allclose(fid(GOLDEN["generated"], GOLDEN["real"]), GOLDEN["fid"], rtol=1e-9)
    np.testing.assert_allclose(fid(GOLDEN["few"], GOLDEN["real"]), GOLDEN["fid_of_few"], rtol=1e-6)


def test_kid_equals_torch_fidelitys():
    found = metrics.kernel_inception_distance(
        GOLDEN["generated"], GOLDEN["real"], num_subsets=20, subset_size=50
    )
    np.testing.assert_allclose(found, GOLDEN["kid"], rtol=1e-9)


def test_inception_score_equals_torch_fidelitys():
    found = metrics.inception_score(GOLDEN["logits"])
    np.testing.assert_allclose(found, GOLDEN["inception_score"], rtol=1e-9)


def test_precision_and_recall_equal_torch_fidelitys():
    found = metrics.precision_recall(GOLDEN["generated"], GOLDEN["real"])
    np.testing.assert_allclose(found, GOLDEN["precision_recall"], rtol=1e-6)  # float32 shares


def test_frechet_distance_is_the_formula_with_a_matrix_root():
    (a, m), (b, n) = ((np.cov(z, rowvar=False), z.mean(0)) for z in (X, Y))
    expected = np.square(m - n).sum() + np.trace(a + b - 2 * sqrtm(a @ b).real)
    np.testing.assert_allclose(fid(X, Y), expected, rtol=1e-10)


def test_frechet_distance_of_images_fewer_than_the_width_is_exact():
    few, others = RNG.standard_normal((2, 4, 40))
    # by the small Gram matrices, whose roots lose nothing
    a, b = ((z - z.mean(0)) / np.sqrt(3) for z in (few, others))
    shift = few.mean(0) - others.mean(0)
    root = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    expected = shift @ shift + np.square(a).sum() + np.square(b).sum() - 2 * root
    np.testing.assert_allclose(fid(few, others), expected, rtol=1e-12)


def test_frechet_distance_is_symmetric_and_0_of_equal_statistics():
    np.testing.assert_allclose(fid(X, Y), fid(Y, X), rtol=1e-12)
    few = RNG.standard_normal((4, 40))
    # rounding of traces of about 40
    assert 0 <= fid(few, few) < 1e-12 and 0 <= fid(X, X) < 1e-12


def test_images_that_are_all_equal_have_no_spread():
    same = np.ones((5, 3))
    assert fid(same, same) == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(fid(same, np.zeros((5, 3))), 3)


@pytest.mark.parametrize("width", [3, 40])
def test_kid_of_one_subset_is_the_u_statistic(width):
    x, y = RNG.standard_normal((2, 12, width))

    def kernel(a, b):
        return (np.einsum("id,jd->ij", a, b) / width + 1) ** 3

    pairs = ~np.eye(12, dtype=bool)
    expected = kernel(x, x)[pairs].mean() + kernel(y, y)[pairs].mean() - 2 * kernel(x, y).mean()
    found = metrics.kernel_inception_distance(x, y, num_subsets=1, subset_size=12)
    np.testing.assert_allclose(found, (expected, 0.0), rtol=1e-12)


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_cmmd_is_the_v_statistic_of_the_gaussian_kernel(block):
    x, y = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (X, Y))

    def mean_kernel(a, b):
        return np.exp(-np.square(a[:, None] - b[None]).sum(-1) / 200).mean()

    expected = 1000 * (mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y))
    # the ones of the three means cancel here, not there
    np.testing.assert_allclose(metrics.cmmd(x, y, block=block), expected, rtol=1e-9)
    assert abs(metrics.cmmd(x, x, block=block)) < 1e-12


def test_inception_score_is_1_of_equal_images_and_the_number_of_classes_at_most():
    same = metrics.inception_score(np.ones((20, 4)))
    np.testing.assert_allclose(same, (1, 0), atol=1e-12)
    sure = metrics.inception_score(1e4 * np.eye(4)[np.arange(80) % 4], seed=None)
    np.testing.assert_allclose(sure, (4, 0), rtol=1e-12)


def naive_shares(x, y, k):
    """Precision, recall, density, coverage from whole matrices of distances."""
    xx, yy, xy = (
        np.linalg.norm(a[:, None] - b[None], axis=-1) for a, b in ((x, x), (y, y), (x, y))
    )
    radius_x, radius_y = (np.sort(d, axis=1)[:, k] for d in (xx, yy))
    inside = xy <= radius_y
    recall = (xy <= radius_x[:, None]).any(0).mean()
    coverage = (xy.min(0) <= radius_y).mean()
    return inside.any(1).mean(), recall, inside.sum(1).mean() / k, coverage


@pytest.mark.parametrize("block", [1, 16, 1000])
@pytest.mark.parametrize("k", [1, 3, 5])
def test_shares_are_those_of_whole_matrices(k, block):
    x, y = X - 3, Y  # so that the sets overlap
    found = (
        *metrics.precision_recall(x, y, k=k, block=block),
        *metrics.density_coverage(x, y, k=k, block=block),
    )
    np.testing.assert_allclose(found, naive_shares(x, y, k), rtol=1e-12)


def test_copies_of_the_real_images_are_as_good_as_they_and_cover_them():
    real = RNG.integers(0, 2, (40, 3)) + 0.1  # many are equal, so that radii are 0
    assert metrics.precision_recall(real, real) == (1, 1)
    assert metrics.density_coverage(real, real).coverage == 1
    assert metrics.precision_recall(real + 1000, real) == (0, 0)
    assert metrics.density_coverage(real + 1000, real) == (0, 0)


@pytest.mark.parametrize("block", [7, 1000])
def test_equal_features_have_the_distance_0(block):
    """Sums of products in another order would leave rounding between them."""
    real = np.repeat(RNG.standard_normal((20, 64)), 6, axis=0)  # so that radii are 0
    assert metrics.precision_recall(real[::-1], real, block=block) == (1, 1)
    assert metrics.precision_recall(real + 1e-3, real, block=block) == (0, 0)


def test_shares_do_not_depend_on_the_mean_of_the_features():
    moved = metrics.precision_recall(X + 1e7, Y + 3 + 1e7)
    assert moved == metrics.precision_recall(X, Y + 3)


def test_kid_takes_100_subsets_by_default():
    found = metrics.kernel_inception_distance(X, Y, subset_size=20)
    expected = metrics.kernel_inception_distance(X, Y, subset_size=20, num_subsets=100)
    assert found == expected


def test_one_mode_of_two_has_full_precision_and_half_the_coverage():
    modes = RNG.standard_normal((2, 30, 4)) + np.array([0, 100])[:, None, None]
    both = modes.reshape(60, 4)
    assert metrics.precision_recall(modes[0], both) == (1, 0.5)
    assert metrics.density_coverage(modes[0], both).coverage == 0.5


MISTAKES = {
    "another width": (lambda: metrics.cmmd(X, Y[:, :3]), "width 3 must have width 5"),
    "no vectors": (lambda: metrics.cmmd(X[0], Y), "must be of shape"),
    "nan": (lambda: metrics.cmmd(np.nan * X, Y), "generated must be finite; 60 are not"),
    "too few for KID": (lambda: metrics.kernel_inception_distance(X, Y), "60 images, and 1000"),
    "too few real ones for KID": (
        lambda: metrics.kernel_inception_distance(X, Y, subset_size=55),
        "real has 50 images, and 55",
    ),
    "no width": (lambda: metrics.cmmd(X[:, :0], Y[:, :0]), "must be of shape"),
    "no bandwidth": (lambda: metrics.cmmd(X, Y, sigma=0), "sigma=0 is outside"),
    "no scale": (lambda: metrics.cmmd(X, Y, scale=0), "scale=0 is outside"),
    "no neighbour": (lambda: metrics.precision_recall(X, Y, k=0), "k=0 must be an integer of 1"),
    "half a neighbour": (lambda: metrics.density_coverage(X, Y, k=1.5), "k=1.5 must be an integer"),
    "no block": (lambda: metrics.cmmd(X, Y, block=0), "block=0 must be an integer"),
    "no subsets": (
        lambda: metrics.kernel_inception_distance(X, Y, num_subsets=0, subset_size=9),
        "num_subsets=0 must be an integer",
    ),
    "no parts": (
        lambda: metrics.inception_score(X, num_splits=0),
        "num_splits=0 must be an integer",
    ),
    "a subset of one": (
        lambda: metrics.kernel_inception_distance(X, Y, subset_size=1),
        "subset_size=1 must be an integer of 2",
    ),
    "too few for k": (lambda: metrics.precision_recall(X[:3], Y), "3 images, and k=3 takes 4"),
    "too few real ones for k": (lambda: metrics.density_coverage(X, Y[:5]), "k=5 takes 6"),
    "too few for the parts": (lambda: metrics.inception_score(X[:9]), "9 images cannot be split"),
    "one image": (lambda: fid(X[:1], Y), "takes 2 images or more"),
    "statistics of another width": (lambda: fid(X, Y[:, :3]), "width 5 cannot be compared"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(mistake, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as outside of tests
    call, says = MISTAKES[mistake]
    with pytest.raises(ValueError, match=says) as error:
        call()
    assert "\n" not in str(error.value)


def test_the_page_on_measures_names_what_there_is():
    page = (Path(__file__).parent.parent / "docs" / "evaluate.md").read_text()
    named = set(re.findall(r"metrics\.([a-zA-Z_]\w+)", page)) - {"md"}
    assert {"frechet_distance", "inception"} <= named <= set(metrics.__all__)
    for name in metrics.__all__:
        assert hasattr(metrics, name)


def test_density_takes_fewer_generated_images_than_k():
    assert metrics.density_coverage(Y[:1], Y).density > 0
