"""Quantities of a spectrum against their definitions, written out in Python for one spectrum.

Properties that hold for all of them (bounds, scale, rotation, identity, rank one, zero, not finite)
are tested over a table of all, with spectra drawn by hypothesis.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from lowrank.measure.ranks import (
    effective_rank,
    energy_rank,
    frobenius_norm,
    nuclear_rank,
    participation_ratio,
    rank,
    spectral_norm,
    srank,
    stable_rank,
)
from lowrank.measure.spectra import convolution_singular_values


@dataclass(frozen=True)
class Case:
    """A quantity, its definition for a list of values, and what closed forms say of it."""

    quantity: Callable[..., Any]
    definition: Callable[[list[float]], float]
    degree: int  # f(c·s) = c^degree · f(s)
    lower: Callable[[list[float]], float]
    upper: Callable[[list[float]], float]
    identity: Callable[[int], float]
    rank_one: float  # of a matrix of norm 1
    zero: float


def norm(s: list[float]) -> float:
    return math.hypot(*s)


def entropy(s: list[float]) -> float:
    p = [x / math.fsum(s) for x in s if x > 0]
    return -math.fsum(x * math.log(x) for x in p)


def fewest_of_sum(s: list[float], share: float) -> int:
    ordered = sorted(s, reverse=True)
    total = math.fsum(s)
    return next(
        r for r in range(1, len(s) + 1) if math.fsum(ordered[:r]) >= (share - 1e-12) * total
    )


def fewest(s: list[float], fraction: float) -> int:
    ordered = sorted(s, reverse=True)
    energy = norm(s) ** 2
    return next(
        r for r in range(1, len(s) + 1) if norm(ordered[:r]) ** 2 >= (fraction - 1e-12) * energy
    )


COARSE = 0.29710293  # a threshold that no ratio of short numbers meets; 1/COARSE² is above 11
ONE, SIZE = (lambda _s: 1.0), (lambda s: float(len(s)))
CASES = {
    "rank@1e-3": Case(
        partial(rank, epsilon=1e-3),
        lambda s: sum(x / norm(s) > 1e-3 for x in s),
        0, ONE, SIZE, lambda n: n, 1, 0,
    ),
    "rank@0.3": Case(
        partial(rank, epsilon=COARSE),
        lambda s: sum(x / norm(s) > COARSE for x in s),
        0, lambda _s: 0.0, lambda _s: 11.0, lambda n: n if n <= 11 else 0, 1, 0,
    ),
    "rank@0.3,spectral": Case(
        partial(rank, epsilon=COARSE, norm="spectral"),
        lambda s: sum(x / max(s) > COARSE for x in s),
        0, ONE, SIZE, lambda n: n, 1, 0,
    ),
    "stable_rank": Case(
        stable_rank, lambda s: (norm(s) / max(s)) ** 2, 0, ONE, SIZE, lambda n: n, 1, math.nan
    ),
    "effective_rank": Case(
        effective_rank, lambda s: math.exp(entropy(s)), 0, ONE, SIZE, lambda n: n, 1, math.nan
    ),
    "effective_rank_energy": Case(
        partial(effective_rank, power=2),
        lambda s: math.exp(entropy([(x / max(s)) ** 2 for x in s])),
        0, ONE, SIZE, lambda n: n, 1, math.nan,
    ),
    "participation_ratio": Case(
        participation_ratio,
        lambda s: norm(s) ** 4 / math.fsum(x**4 for x in s),
        0, ONE, SIZE, lambda n: n, 1, math.nan,
    ),
    "nuclear_rank": Case(
        nuclear_rank,
        lambda s: (math.fsum(s) / norm(s)) ** 2,
        0, ONE, SIZE, lambda n: n, 1, math.nan,
    ),
    "srank": Case(
        srank,
        lambda s: fewest_of_sum(s, 0.99),
        0, ONE, SIZE, lambda n: math.ceil(n * 99 / 100), 1, 0,
    ),
    "energy_rank": Case(
        energy_rank,
        lambda s: fewest(s, 0.99),
        0, ONE, SIZE, lambda n: math.ceil(n * 99 / 100), 1, 0,
    ),
    "energy_rank@0.5": Case(
        partial(energy_rank, fraction=0.5),
        lambda s: fewest(s, 0.5),
        0, ONE, lambda s: float((len(s) + 1) // 2), lambda n: (n + 1) // 2, 1, 0,
    ),
    "spectral_norm": Case(
        spectral_norm, max, 1, lambda s: norm(s) / math.sqrt(len(s)), norm, lambda _n: 1, 1, 0
    ),
    "frobenius_norm": Case(
        frobenius_norm, norm, 1, max, lambda s: math.sqrt(len(s)) * max(s), math.sqrt, 1, 0
    ),
}  # fmt: skip
few = settings(max_examples=40, deadline=None)
every = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())

values = st.integers(0, 10**6).map(lambda i: i / 997)
spectra = st.lists(values, min_size=1, max_size=30).filter(any)


@every
@few
@given(s=spectra)
def test_equals_its_definition(case: Case, s):
    assert case.quantity(s) == pytest.approx(case.definition(s), rel=1e-12)


@every
@few
@given(s=spectra)
def test_stays_within_its_range(case: Case, s):
    value = case.quantity(s)
    assert case.lower(s) * (1 - 1e-12) <= value <= case.upper(s) * (1 + 1e-12)


@every
@few
@given(s=spectra, scale=st.sampled_from([2.0**-700, 1e-3, 3.0, 1e150, 2.0**900]))
def test_is_homogeneous_in_the_scale_without_over_or_underflow(case: Case, s, scale):
    scaled = case.quantity([x * scale for x in s])
    assert scaled == pytest.approx(case.quantity(s) * scale**case.degree, rel=1e-12)


@every
@few
@given(data=st.data())
def test_is_the_same_for_a_rotated_matrix(case: Case, data):
    s = np.array(data.draw(st.lists(st.sampled_from([0.0, 0.1, 1.0, 7.0]), min_size=1).filter(any)))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    u = np.linalg.qr(rng.standard_normal((len(s) + 3, len(s))))[0]
    v = np.linalg.qr(rng.standard_normal((len(s), len(s))))[0]
    rotated = np.linalg.svd(u * s @ v.T, compute_uv=False)
    assert case.quantity(rotated) == pytest.approx(case.quantity(s), rel=1e-9)


@every
@pytest.mark.parametrize("n", [1, 5, 9, 100])
def test_identity(case: Case, n):
    assert case.quantity(np.ones(n)) == pytest.approx(case.identity(n), rel=1e-12)


@every
@pytest.mark.parametrize("n", [1, 2, 50])
def test_rank_one(case: Case, n):
    assert case.quantity(np.eye(n)[0]) == case.rank_one


@every
@pytest.mark.parametrize("n", [0, 1, 6])
def test_zero_matrix(case: Case, n):
    assert case.quantity(np.zeros(n)) == pytest.approx(case.zero, nan_ok=True)


@every
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_value_that_is_not_finite_makes_that_spectrum_nan(case: Case, bad):
    found = case.quantity([[2.0, 1.0], [bad, 1.0], [3.0, bad]])
    assert found[0] == case.quantity([2.0, 1.0])
    assert np.isnan(found[1:]).all()


@every
@few
@given(s=arrays(float, array_shapes(min_dims=2, max_dims=3, max_side=4), elements=values))
def test_leading_dimensions_are_independent(case: Case, s):
    found = case.quantity(s)
    one_by_one = [case.quantity(row) for row in s.reshape(-1, s.shape[-1])]
    assert found.shape == s.shape[:-1]
    assert found.dtype == np.float64
    np.testing.assert_allclose(found.ravel(), one_by_one, rtol=1e-14)


@every
def test_order_is_of_no_matter_and_a_single_spectrum_gives_a_float(case: Case):
    value = case.quantity([5.0, 0.1, 3.0])
    assert type(value) is float
    assert value == pytest.approx(case.quantity([0.1, 3.0, 5.0]), rel=1e-14)


@few
@given(s=spectra)
def test_stable_and_effective_rank_do_not_exceed_the_rank(s):
    assert stable_rank(s) <= rank(s, 0) * (1 + 1e-12)
    assert effective_rank(s) <= rank(s, 0) * (1 + 1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        pytest.param(lambda: rank([1.0], 1.0), r"epsilon must be in \[0, 1\), got 1.0", id="eps=1"),
        pytest.param(lambda: rank([1.0], -0.1), r"epsilon must be .* got -0.1", id="eps<0"),
        pytest.param(lambda: rank([1.0], math.nan), "epsilon must be .* got nan", id="eps=nan"),
        pytest.param(lambda: rank([1.0], 0.1, "max"), "frobenius, spectral, got 'max'", id="norm"),
        pytest.param(lambda: energy_rank([1.0], 0.0), r"in \(0, 1\], got 0.0", id="fraction=0"),
        pytest.param(lambda: srank([1.0], 1.0), r"in \[0, 1\), got 1.0", id="delta=1"),
        pytest.param(lambda: stable_rank(3.0), r"shape \(\.\.\., k\), got the number 3", id="0-d"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- what others call rank: the values that docs/quantities.md states ------------------------


def others(s):
    """Other quantities of a spectrum, as shares of its k values."""
    k, s = len(s), np.sort(s)[::-1]
    p, e = s / s.sum(), s**2 / (s**2).sum()
    return {
        "effective of energies": math.exp(-(e * np.log(e)).sum()) / k,
        "srank": (np.searchsorted(np.cumsum(p), 0.99) + 1) / k,
        "participation": 1 / (e**2).sum() / k,
        "nuclear": s.sum() ** 2 / (s**2).sum() / k,
        "of software": (s > s[0] * k * np.finfo(float).eps).mean(),
        "effective": effective_rank(s) / k,
        "energy": energy_rank(s) / k,
        "stable": stable_rank(s) / k,
    }


def test_values_of_a_random_square_matrix_are_those_stated():
    """The quarter circle law gives them for N → ∞; the table of docs/quantities.md has both."""
    rng = np.random.default_rng(0)
    s = np.linalg.svd(rng.normal(size=(600, 600)), compute_uv=False)
    stated = {
        "effective of energies": 1 / math.sqrt(math.e), "srank": 0.896, "participation": 1 / 2,
        "nuclear": (8 / (3 * math.pi)) ** 2, "of software": 1, "effective": 0.805,
        "energy": 0.771, "stable": 1 / 4,
    }  # fmt: skip
    assert others(s) == pytest.approx(stated, abs=0.006)
    t = (np.arange(200_000) + 0.5) / 100_000  # of the law: density √(4 − t²)/π on [0, 2]
    density = np.sqrt(4 - t**2) / math.pi / 100_000
    for power, held, effective in [(1, 0.896, 0.805), (2, 0.771, 1 / math.sqrt(math.e))]:
        weights = density * t**power / (density * t**power).sum()
        assert density[np.cumsum(weights) > 0.01].sum() == pytest.approx(held, abs=5e-4)
        entropy = -(weights * np.log(weights / density)).sum()
        assert math.exp(entropy) == pytest.approx(effective, abs=5e-4)
    assert density[t > 1e-3 * math.sqrt(1000)].sum() == pytest.approx(0.98, abs=1e-3)  # N = 1000
    small = [np.linalg.svd(rng.normal(size=(100, 100)), compute_uv=False) for _ in range(20)]
    assert np.mean([rank(s, 1e-3) for s in small]) == pytest.approx(99.3, abs=0.5)
    assert np.mean([rank(s, 1e-3, "spectral") for s in small]) == pytest.approx(99.9, abs=0.15)


def test_values_of_a_random_kernel_are_those_stated():
    kernel = np.random.default_rng(0).normal(size=(64, 64, 3, 3))
    unrolled = np.linalg.svd(kernel.reshape(64, -1), compute_uv=False)
    slices = np.linalg.svd(kernel.transpose(2, 3, 0, 1), compute_uv=False).ravel()
    operator = convolution_singular_values(torch.from_numpy(kernel), 16)
    found = [effective_rank(s) / len(s) for s in (unrolled, slices, operator)]
    assert found == pytest.approx([0.985, 0.803, 0.805], abs=0.003)
    ends = [s.min() / s.max() for s in (unrolled, slices)]
    assert ends == [pytest.approx(0.5, abs=0.03), pytest.approx(0.002, abs=0.002)]
    normalised = unrolled / np.linalg.norm(unrolled)
    assert (normalised.min(), normalised.max()) == pytest.approx((1 / 12, 1 / 6), abs=0.01)
