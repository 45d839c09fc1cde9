"""The shape of a spectrum's upper end.

The power-law fit against its definition written out in plain Python, and against eigenvalues that
are exact quantiles of a power law; the Marchenko-Pastur edge against closed forms and against a
random matrix. Agreement with WeightWatcher is tested in test_weightwatcher.py.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowrank.measure.tails import edge_ratio, power_law, power_law_alpha

few = settings(max_examples=40, deadline=None)


def slow_fit(s: list[float]) -> tuple[float, float]:
    """Every eigenvalue as λ_min: the maximum likelihood of α, and the distance of distributions."""
    values = sorted(x * x for x in s)
    best = (math.inf, math.nan, math.nan)
    for i, start in enumerate(values[:-1]):
        tail = values[i:]
        total = math.fsum(math.log(x / start) for x in tail)
        if total <= 0:
            continue
        alpha = 1 + len(tail) / total
        distance = max(
            abs(1 - (x / start) ** (1 - alpha) - below / len(tail)) for below, x in enumerate(tail)
        )
        if distance < best[0] - 1e-12:
            best = (distance, alpha, start)
    return best[1:]


@few
@given(s=st.lists(st.integers(1, 10**6).map(lambda i: i / 997), min_size=2, max_size=30))
def test_power_law_is_its_definition(s):
    assert power_law(s) == pytest.approx(slow_fit(s), rel=1e-9, nan_ok=True)


@pytest.mark.parametrize("exponent", [1.5, 2.5, 4.0, 6.0])
def test_exact_quantiles_of_a_power_law_give_its_exponent(exponent):
    quantiles = (1 - (np.arange(2000) + 0.5) / 2000) ** (-1 / (exponent - 1))
    assert power_law_alpha(np.sqrt(quantiles)) == pytest.approx(exponent, rel=0.02)


def test_the_body_below_a_power_law_is_left_out():
    tail = (1 - (np.arange(500) + 0.5) / 500) ** (-1 / 2)  # α = 3 from 1 on
    body = np.linspace(0.01, 0.999, 500)
    alpha, start = power_law(np.sqrt([*tail, *body]))
    assert alpha == pytest.approx(3, rel=0.05)
    assert start == pytest.approx(1, rel=0.1)


@few
@given(scale=st.sampled_from([1e-150, 1e-3, 7.0, 1e150]), seed=st.integers(0, 99))
def test_neither_depends_on_the_scale(scale, seed):
    s = np.random.default_rng(seed).pareto(2, 40) + 0.1
    assert power_law_alpha(scale * s) == pytest.approx(power_law_alpha(s), rel=1e-9)
    assert edge_ratio(scale * s, (40, 50)) == pytest.approx(edge_ratio(s, (40, 50)), rel=1e-12)


def test_zeros_are_no_part_of_a_power_law():
    s = np.random.default_rng(0).pareto(2, 40) + 0.1
    assert power_law([*s, 0.0, 0.0, 1e-14]) == power_law(s)


@pytest.mark.parametrize("s", [[0.0, 0.0], [1.0], [2.0, 2.0], [math.nan, 1.0], [math.inf, 1.0]])
def test_there_is_no_exponent_without_two_different_eigenvalues(s):
    assert math.isnan(power_law_alpha(s))


def test_leading_dimensions_are_independent():
    s = np.random.default_rng(1).pareto(2, (2, 3, 20)) + 0.1
    alpha, start = power_law(s)
    assert alpha.shape == start.shape == edge_ratio(s, (20, 30)).shape == (2, 3)
    assert (alpha[1, 2], start[1, 2]) == power_law(s[1, 2])
    assert edge_ratio(s, (20, 30))[1, 2] == edge_ratio(s[1, 2], (20, 30))


@pytest.mark.parametrize("shape", [(5, 5), (3, 12), (40, 7)])
def test_edge_ratio_of_rank_one_and_of_equal_values(shape):
    rows, columns = shape
    k = min(shape)
    one = math.sqrt(rows * columns) / (math.sqrt(rows) + math.sqrt(columns))
    assert edge_ratio(np.eye(k)[0], shape) == pytest.approx(one)
    assert edge_ratio(np.ones(k), shape) == pytest.approx(one / math.sqrt(k))
    assert math.isnan(edge_ratio(np.zeros(k), shape))


@pytest.mark.parametrize("shape", [(400, 400), (200, 800)])
def test_a_random_matrix_ends_at_the_edge(shape):
    matrix = np.random.default_rng(0).uniform(-1, 1, shape)
    s = np.linalg.svd(matrix, compute_uv=False)
    assert edge_ratio(s, shape) == pytest.approx(1, abs=0.02)
