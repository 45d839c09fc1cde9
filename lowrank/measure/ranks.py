"""Quantities of a spectrum: each one function of the singular values of a matrix.

All take singular values (..., k) in any order, as `lowrank.measure.spectra.singular_values`
gives them, and return a float, or an array (...) for several spectra at once. With ‖W‖ the
Frobenius norm:

- a zero matrix has rank, energy rank and norms 0, but no stable and no effective rank: NaN;
- a spectrum with a value that is not finite has none of them: NaN;
- nothing over- or underflows on the way: the largest value is divided out first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Quantity = float | NDArray[np.float64]
"""A number of one matrix or network, or an array (...) of several."""


def rank(s: ArrayLike, epsilon: float, norm: str = "frobenius") -> Quantity:
    """Counts the normalised singular values above a threshold: #{i : σ_i/‖W‖ > ε}.

    It does not depend on the scale of W. Range 0 … k, and 1 … k for ``norm="spectral"``, W ≠ 0.
    Source: Galanti, Siegel, Gupte and Poggio, *SGD with Weight Decay Secretly Minimizes the Ranks
    of Your Neural Networks*, CPAL 2025, PMLR 280:1388-1412. Its text has the spectral norm and
    ε = 1e-3, its code and figures the Frobenius norm and ε from 1e-3 to 0.05.

    Args:
        s: Singular values (..., k).
        epsilon: Threshold ε in [0, 1): no σ_i/‖W‖ exceeds 1.
        norm: ‖W‖ in the definition, ``frobenius`` or ``spectral``.

    Returns:
        Rank (...), a whole number or NaN.

    Raises:
        ValueError: `epsilon` or `norm` is none of these.

    Example:
        >>> rank([4.0, 3.0, 0.001], 1e-3), rank([4.0, 3.0, 0.001], 1e-4)
        (2.0, 3.0)
    """
    if not 0 <= epsilon < 1:
        raise ValueError(f"epsilon must be in [0, 1), got {epsilon}")
    if norm not in RANK_NORMS:
        raise ValueError(f"norm must be one of {', '.join(RANK_NORMS)}, got {norm!r}")
    relative, peak = _relative(s)
    # The largest relative value is 1, so the norm is below 1 for a zero matrix only.
    size = np.maximum(np.sqrt(_energy(relative)), 1) if norm == "frobenius" else np.ones(peak.shape)
    return _result((relative / size[..., None] > epsilon).sum(-1), peak)


def stable_rank(s: ArrayLike) -> Quantity:
    """Returns the stable rank ‖W‖²/‖W‖_2² = Σσ_i²/σ_1².

    It does not depend on the scale of W and is at most its rank. Range 1 … k; NaN for W = 0.
    Source: Rudelson and Vershynin, *Sampling from large matrices*, J. ACM 54(4), 2007
    ("numerical rank", which elsewhere is a count of σ_i above rounding errors).

    Args:
        s: Singular values (..., k).

    Returns:
        Stable rank (...).

    Example:
        >>> stable_rank([2.0, 1.0, 1.0])
        1.5
    """
    relative, peak = _relative(s)
    return _result(np.where(peak > 0, _energy(relative), np.nan), peak)


def effective_rank(s: ArrayLike, power: int = 1) -> Quantity:
    """Returns the effective rank exp(−Σ p_i log p_i) with p_i = σ_i^power/Σσ^power, 0·log 0 = 0.

    It does not depend on the scale of W and is at most its rank. Range 1 … k; NaN for W = 0.
    Of a large random square matrix it is .8050 k for power 1, and k/√e for 2. Source: Roy and
    Vetterli, *The effective rank: a measure of effective dimensionality*, EUSIPCO 2007,
    definition 1 (power 1); power 2 is the exponential of the entropy of the energy, as in "SVD
    entropy" (Alter, Brown and Botstein, PNAS 97(18), 2000).

    Args:
        s: Singular values (..., k).
        power: 1 or 2.

    Returns:
        Effective rank (...).

    Example:
        >>> round(effective_rank([2.0, 1.0, 1.0]), 4)  # entropy of 1/2, 1/4, 1/4: 1.5 log 2
        2.8284
    """
    relative, peak = _relative(s)
    p = relative**power
    p = p / np.maximum(p.sum(-1, keepdims=True), 1)
    entropy = -(p * np.log(np.where(p > 0, p, 1))).sum(-1)
    return _result(np.where(peak > 0, np.exp(entropy), np.nan), peak)


def participation_ratio(s: ArrayLike) -> Quantity:
    """Returns the participation ratio (Σσ_i²)²/Σσ_i⁴.

    It does not depend on the scale of W and is at most its rank. Range 1 … k; NaN for W = 0; k/2 of
    a large random square matrix. Source: Bell and Dean, *Atomic vibrations in vitreous silica*,
    Discussions of the Faraday Society 50, 1970, as it is used for eigenvalues of covariances.

    Args:
        s: Singular values (..., k).

    Returns:
        Participation ratio (...).

    Example:
        >>> participation_ratio([1.0, 1.0, 0.0])
        2.0
    """
    relative, peak = _relative(s)
    fourth = np.maximum(_energy(relative**2), 1)
    return _result(np.where(peak > 0, _energy(relative) ** 2 / fourth, np.nan), peak)


def nuclear_rank(s: ArrayLike) -> Quantity:
    """Returns the nuclear rank (Σσ_i)²/Σσ_i², the squared ratio of nuclear and Frobenius norm.

    It does not depend on the scale of W and is at most its rank. Range 1 … k; NaN for W = 0;
    .7205 k of a large random square matrix. The step of an optimiser that orthogonalises its
    update, such as Muon, is bounded by it (Davis and Drusvyatskiy, *When do spectral gradient
    updates help in deep learning?*, arXiv 2512.04299).

    Args:
        s: Singular values (..., k).

    Returns:
        Nuclear rank (...).

    Example:
        >>> nuclear_rank([2.0, 2.0, 0.0])
        2.0
    """
    relative, peak = _relative(s)
    energy = np.maximum(_energy(relative), 1)
    return _result(np.where(peak > 0, relative.sum(-1) ** 2 / energy, np.nan), peak)


def srank(s: ArrayLike, delta: float = 0.01) -> Quantity:
    """Counts the fewest σ whose sum is the share 1 − δ of all: min{r : Σ_{i≤r} σ_i ≥ (1−δ)Σσ}.

    It does not depend on the scale of W. Range 1 … k; 0 for W = 0. A sum that misses the share by
    rounding errors (1e-12) only does reach it. Source: Kumar, Agarwal, Ghosh and Levine, *Implicit
    under-parameterization inhibits data-efficient deep reinforcement learning*, ICLR 2021.

    Args:
        s: Singular values (..., k).
        delta: Share δ of the sum that is left out, in [0, 1).

    Returns:
        srank (...), a whole number or NaN.

    Raises:
        ValueError: `delta` is not in [0, 1).

    Example:
        >>> srank([98.0, 1.5, 0.5]), srank([98.0, 1.5, 0.5], delta=0.001)
        (2.0, 3.0)
    """
    if not 0 <= delta < 1:
        raise ValueError(f"delta must be in [0, 1), got {delta}")
    relative, peak = _relative(s)
    return _result(_fewest(relative, 1 - delta) + (peak > 0), peak)


def energy_rank(s: ArrayLike, fraction: float = 0.99) -> Quantity:
    """Counts the fewest directions that hold a fraction of the energy ‖W‖² = Σσ_i².

    It does not depend on the scale of W. Range 1 … k; 0 for W = 0. A sum that misses the fraction
    by rounding errors (1e-12) only does hold it. Source: "cumulative percentage of total variation"
    (Jolliffe, *Principal Component Analysis*, 2nd ed. 2002, section 6.1.1).

    Args:
        s: Singular values (..., k).
        fraction: The energy to be held, in (0, 1].

    Returns:
        Energy rank (...), a whole number or NaN.

    Raises:
        ValueError: `fraction` is not in (0, 1].

    Example:
        >>> energy_rank([3.0, 4.0, 0.1]), energy_rank([3.0, 4.0, 0.1], fraction=0.6)
        (2.0, 1.0)
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be in (0, 1], got {fraction}")
    relative, peak = _relative(s)
    return _result(_fewest(relative**2, fraction) + (peak > 0), peak)


def spectral_norm(s: ArrayLike) -> Quantity:
    """Returns the spectral norm ‖W‖_2 = σ_1. Range 0 … ‖W‖.

    Source: Golub and Van Loan, *Matrix Computations*, 4th ed. 2013, section 2.4.2.

    Args:
        s: Singular values (..., k).

    Returns:
        Spectral norm (...).

    Example:
        >>> spectral_norm([4.0, 3.0])
        4.0
    """
    _, peak = _relative(s)
    return _result(peak, peak)


def frobenius_norm(s: ArrayLike) -> Quantity:
    """Returns the Frobenius norm ‖W‖ = √Σσ_i² = √Σw_ij². Range ‖W‖_2 … √k·‖W‖_2.

    Source: Golub and Van Loan, *Matrix Computations*, 4th ed. 2013, section 2.4.2.

    Args:
        s: Singular values (..., k).

    Returns:
        Frobenius norm (...).

    Example:
        >>> frobenius_norm([4.0, 3.0])
        5.0
    """
    relative, peak = _relative(s)
    return _result(np.sqrt(_energy(relative)) * peak, peak)


NORMS = {"frobenius": frobenius_norm, "spectral": spectral_norm}
"""What ‖W‖ may be in the definition of the rank."""

RANK_NORMS = tuple(NORMS)


def _relative(s: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns σ_i/σ_1, zeros for spectra that are zero or not finite, and σ_1, NaN for the latter.

    Raises:
        ValueError: `s` is a single number.
    """
    values = np.asarray(s, dtype=np.float64)
    if values.ndim == 0:
        raise ValueError(f"singular values must have shape (..., k), got the number {values}")
    peak = np.asarray(values.max(-1, initial=0.0))
    peak = np.where(np.isfinite(peak), peak, np.nan)
    usable = peak[..., None] > 0
    return np.where(usable, values, 0.0) / np.where(usable, peak[..., None], 1.0), peak


def _energy(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((vectors**2).sum(-1))


def _fewest(vectors: NDArray[np.float64], share: float) -> NDArray[np.int64]:
    """Counts the largest entries whose sum is below a share of all, rounding errors aside.

    Returns:
        Numbers (...).
    """
    held = np.cumsum(np.sort(vectors, axis=-1)[..., ::-1], axis=-1)
    return np.asarray((held < (share - 1e-12) * vectors.sum(-1, keepdims=True)).sum(-1))


def _result(values: NDArray[Any], peak: NDArray[np.float64]) -> Quantity:
    """Returns float64 values, NaN for spectra that are not finite; a float for a single one."""
    array = np.asarray(np.where(np.isnan(peak), np.nan, values), dtype=np.float64)
    return array if array.ndim else float(array)
