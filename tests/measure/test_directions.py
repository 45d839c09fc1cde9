"""Overlap and alignment of subspaces, against expectations and identities of linear algebra."""

import numpy as np
import pytest

from lowrank.measure.directions import alignment, overlap, overlaps


def subspace(random, rows, count):
    return np.linalg.qr(random.standard_normal((rows, count)))[0]


def rotation(random, size):
    return np.linalg.qr(random.standard_normal((size, size)))[0]


def test_a_subspace_overlaps_with_itself_by_1_in_whatever_basis():
    random = np.random.default_rng(0)
    plane = subspace(random, 20, 4)
    assert overlap(plane, plane) == pytest.approx(1, abs=1e-12)
    assert overlap(plane, plane @ rotation(random, 4)) == pytest.approx(1, abs=1e-12)
    assert overlap(plane, -plane) == pytest.approx(1, abs=1e-12)


def test_an_overlap_is_the_mean_squared_cosine_of_the_angles():
    angle = 0.3
    one = np.eye(5)[:, :2]
    other = np.stack([one[:, 0], [0, np.cos(angle), np.sin(angle), 0, 0]], axis=1)
    assert overlap(one, other) == pytest.approx((1 + np.cos(angle) ** 2) / 2, abs=1e-12)


def test_an_overlap_does_not_change_where_both_are_turned():
    random = np.random.default_rng(1)
    one, other, turn = subspace(random, 9, 3), subspace(random, 9, 3), rotation(random, 9)
    assert overlap(turn @ one, turn @ other) == pytest.approx(overlap(one, other), abs=1e-12)


def test_random_subspaces_overlap_by_r_over_m_on_average():
    # tr(P Q) of two random projectors of rank r in m dimensions has mean r²/m and variance
    # 2 r² (m − r)² / ((m − 1) m² (m + 2)).
    random = np.random.default_rng(2)
    m, r, draws = 24, 6, 400
    found = [overlap(subspace(random, m, r), subspace(random, m, r)) for _ in range(draws)]
    deviation = np.sqrt(2 * r**2 * (m - r) ** 2 / ((m - 1) * m**2 * (m + 2))) / r
    assert np.mean(found) == pytest.approx(r / m, abs=4 * deviation / np.sqrt(draws))
    assert np.std(found) == pytest.approx(deviation, rel=0.2)


def test_overlaps_of_all_times_are_those_of_each_two():
    random = np.random.default_rng(3)
    vectors = np.stack([subspace(random, 8, 2) for _ in range(3)])
    vectors[1] = np.nan
    found = overlaps(vectors)
    assert found[0, 2] == found[2, 0] == overlap(vectors[0], vectors[2])
    np.testing.assert_allclose(found[[0, 2], [0, 2]], 1, atol=1e-12)
    assert np.isnan(found[1]).all()


def test_an_alignment_is_1_where_inputs_are_the_outputs_before_and_0_where_they_are_others():
    random = np.random.default_rng(4)
    turn = rotation(random, 10)
    left = turn[:, :3]
    assert alignment(left, left @ rotation(random, 3)) == pytest.approx(1, abs=1e-12)
    assert alignment(left, turn[:, 3:6]) == pytest.approx(0, abs=1e-12)
    assert alignment(left, turn[:, :1]) == pytest.approx(1, abs=1e-12)
    assert alignment(left, turn[:, :5]) == pytest.approx(1, abs=1e-12)


def test_the_inputs_of_a_convolution_align_by_their_channels():
    # The first kernel passes channel 0 on, at any of its 4 taps; the second reads channel 0 only.
    left = np.eye(3)[:, :1]
    kernel = np.zeros((2, 3, 4))
    kernel[:, 0] = np.random.default_rng(5).standard_normal((2, 4))
    right = np.linalg.svd(kernel.reshape(2, 12), full_matrices=False)[2].T
    assert alignment(left, right) == pytest.approx(1, abs=1e-12)
    moved = np.roll(kernel, 1, axis=1)
    right = np.linalg.svd(moved.reshape(2, 12), full_matrices=False)[2].T
    assert alignment(left, right) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("taps", [1, 9])
def test_random_directions_align_by_what_is_said(taps):
    random = np.random.default_rng(6)
    m, r, s = 16, 2, 4
    pairs = ((subspace(random, m, r), subspace(random, m * taps, s)) for _ in range(400))
    expected = r * s / (m * min(taps * r, s))
    assert np.mean([alignment(*pair) for pair in pairs]) == pytest.approx(expected, rel=0.1)
