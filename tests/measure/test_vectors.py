"""Leading singular vectors, against numpy's SVD in float64 and matrices whose vectors are known."""

import numpy as np
import pytest
import torch

from lowrank.measure.directions import overlap
from lowrank.measure.vectors import FROM_GRAM, leading_directions


def matrix(rows, columns, spectrum, seed=0):
    """A matrix with given singular values and random vectors, which are returned as well."""
    random = np.random.default_rng(seed)
    k = len(spectrum)
    left, right = (np.linalg.qr(random.standard_normal((n, k)))[0] for n in (rows, columns))
    return torch.from_numpy(left * spectrum @ right.T), left, right


@pytest.mark.parametrize("shape", [(12, 30), (30, 12), (300, 20)])
@pytest.mark.parametrize("count", [1, 5, 12])
def test_the_subspaces_are_those_of_numpys_svd(shape, count):
    weights = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    left, _, right = np.linalg.svd(weights.double().numpy())
    (found,) = leading_directions([weights], count)
    for side, exact in ((found.left, left), (found.right, right.T)):
        assert side.dtype == np.float32
        assert overlap(side, exact[:, :count]) == pytest.approx(1, abs=1e-6)
        np.testing.assert_allclose(side.T @ side, np.eye(count), atol=1e-6)


@pytest.mark.parametrize("ratio", [0.3 * FROM_GRAM, 1e-9])
def test_small_singular_values_have_the_vectors_that_an_svd_gives_them(ratio):
    # The squares of these are lost in rounding beside the largest.
    weights, left, right = matrix(20, 40, np.array([1.0, ratio, ratio / 2]))
    (found,) = leading_directions([weights], 3)
    for side, exact in ((found.left, left), (found.right, right)):
        for place in range(3):
            cosine = abs(side[:, place].astype(np.float64) @ exact[:, place])
            assert cosine == pytest.approx(1, abs=1e-5)


def test_more_than_a_matrix_has_are_all_it_has():
    (found,) = leading_directions([torch.randn(4, 9)], 100)
    assert (found.left.shape, found.right.shape) == ((4, 4), (9, 4))


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_there_are_none_of_a_matrix_that_is_zero_or_not_finite(value):
    weights = torch.full((3, 5), value)
    (found,) = leading_directions([weights], 2)
    assert np.isnan(found.left).all()
    assert np.isnan(found.right).all()
    assert (found.left.shape, found.right.shape) == ((3, 2), (5, 2))


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_no_scale_is_too_small_or_too_large(scale):
    weights, left, _ = matrix(6, 8, np.array([3.0, 2.0, 1.0]))
    (found,) = leading_directions([weights * scale], 2)
    assert overlap(found.left, left[:, :2]) == pytest.approx(1, abs=1e-6)


def test_a_matrix_of_lower_rank_has_orthonormal_vectors_all_the_same():
    weights, left, _ = matrix(6, 8, np.array([3.0, 1.0]))
    (found,) = leading_directions([weights], 4)
    np.testing.assert_allclose(found.left.T @ found.left, np.eye(4), atol=1e-6)
    np.testing.assert_allclose(found.right.T @ found.right, np.eye(4), atol=1e-6)
    assert overlap(found.left[:, :2], left) == pytest.approx(1, abs=1e-6)


def test_each_matrix_has_its_own_whatever_others_are_beside_it():
    matrices = [torch.randn(n, 12) for n in (4, 16, 8)]
    together = leading_directions(matrices, 3)
    for weights, found in zip(matrices, together, strict=True):
        (alone,) = leading_directions([weights], 3)
        assert found.left.tobytes() == alone.left.tobytes()
        assert found.right.tobytes() == alone.right.tobytes()
