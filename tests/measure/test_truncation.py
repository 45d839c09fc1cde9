"""Best approximations against numpy's float64 SVD and the error that Eckart and Young proved."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lowrank.measure.truncation import LADDER, Factors, Kept


@pytest.mark.parametrize("shape", [(7, 30), (30, 7), (9, 9), (1, 5)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_error_of_a_truncated_matrix_is_the_root_of_the_energy_left_out(shape, dtype):
    torch.manual_seed(0)
    matrix = torch.randn(shape, dtype=dtype) * torch.logspace(0, -3, shape[1], dtype=dtype)
    whole = matrix.double().numpy()
    u, s, vh = np.linalg.svd(whole, full_matrices=False)
    factors = Factors(matrix)
    np.testing.assert_allclose(factors.spectrum, s, atol=1e-7 * s[0])
    for rank in range(1, len(s) + 1):
        left, right = factors.of_rank(rank)
        assert (left.shape, right.shape) == ((shape[0], rank), (rank, shape[1]))
        found = (left @ right).numpy()
        np.testing.assert_allclose(found, (u * s)[:, :rank] @ vh[:rank], atol=1e-6 * s[0])
        error = np.linalg.norm(whole - found) / np.linalg.norm(whole)
        expected = np.sqrt((s[rank:] ** 2).sum()) / np.linalg.norm(whole)
        assert error == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("kept", LADDER, ids=str)
def test_the_rank_is_the_least_that_holds_what_is_kept(kept):
    rng = np.random.default_rng(0)
    for count in (1, 5, 64, 100):
        s = np.sort(rng.exponential(size=count))[::-1]
        held = np.arange(1, count + 1) / count
        if kept.kind == "energy":
            held = np.cumsum(s**2) / (s**2).sum()
        expected = next(r for r in range(1, count + 1) if held[r - 1] >= kept.amount - 1e-9)
        assert kept.rank(s) == expected


def test_a_zero_matrix_keeps_a_direction_and_stays_zero():
    factors = Factors(torch.zeros(4, 6))
    assert Kept("energy", 0.99).rank(factors.spectrum) == 1
    left, right = factors.of_rank(1)
    assert not (left @ right).any()


def test_metrics_are_named_by_what_is_kept():
    assert [kept.accuracy for kept in LADDER[-4:-1]] == [
        "truncated_accuracy@share_1",
        "truncated_accuracy@energy_0.9",
        "truncated_accuracy@energy_0.99",
    ]
    assert LADDER[0].mean_rank == "truncated_rank@share_0.015625"
