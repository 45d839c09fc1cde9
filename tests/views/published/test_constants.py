"""The paper's constants: initialisations measured anew, and decay beside a product step by step."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lowrank.views.published.constants import (
    Check,
    as_markdown,
    at_initialisation,
    count_above,
    published_ratios,
)


def test_initialisations_are_those_of_the_figures():
    """One draw of each: two draws of a single matrix differ by up to 4."""
    found = list(at_initialisation(draws=1))
    assert len(found) == 2 * 5 + 2 + 1 + 2 + 5
    for check in found:
        slack = 4 if check.quantity.startswith("rank") else check.tolerance
        assert abs(check.ours - check.expected) <= slack, check


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_initialisations_are_those_of_the_figures():
    found = list(at_initialisation(wide=True))
    assert [check for check in found if not check.holds] == []
    assert sum(check.what == "MLP-BN-2-10000" for check in found) == 2


@pytest.mark.parametrize("shape", [(60, 60), (30, 90), (90, 30)])
def test_counts_by_inertia_are_those_of_an_svd(shape):
    matrix = np.random.default_rng(0).uniform(-1, 1, shape)
    values = np.linalg.svd(matrix, compute_uv=False)
    for threshold in (0.5 * values[-1], *(values[:-1] + values[1:]) / 2, 2 * values[0]):
        assert count_above(torch.from_numpy(matrix), threshold) == (values > threshold).sum()


def test_published_ratios_are_those_of_pure_decay():
    found = published_ratios()
    assert len(found) == 9
    assert all(check.holds for check in found)
    steps = 10 * math.ceil(50_000 / 8)
    stepwise = np.prod(np.full(steps, 1 - 0.01 * 0.2 * 5e-4))
    assert found[0].expected == pytest.approx(stepwise, abs=1e-6)
    assert not Check("", "", 0.99, 0.9903, 2e-4).holds


def test_a_table_has_each_name_once():
    checks = [Check("a", "x", 64, 64.25, 1), Check("a", "y", 0.25, 0.251, 1)]
    assert as_markdown(checks, "abcd").splitlines()[2:] == [
        "| a | x | 64.0 | 64.2 |",
        "|  | y | 0.2500 | 0.2510 |",
    ]
