"""The shape of a spectrum's upper end, beside how many directions it has.

Both take singular values (..., k) in any order, do not depend on the scale of W, and are NaN for a
zero matrix and for a spectrum that is not finite.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lowrank.measure.ranks import Quantity, frobenius_norm, spectral_norm


def power_law(s: ArrayLike) -> tuple[Quantity, Quantity]:
    """Fits a power law p(λ) ∝ λ^−α to the eigenvalues λ = σ² from some λ_min on.

    Of every λ as λ_min the maximum likelihood is α = 1 + n/Σ log(λ_i/λ_min) over the n eigenvalues
    from it on; the λ_min is taken whose fitted distribution is nearest to that of the eigenvalues
    (least Kolmogorov-Smirnov distance). WeightWatcher does so, after dropping eigenvalues below
    1e-5; here those that are zero to rounding, σ ≤ 1e-12 σ_1, are dropped. Below 20 eigenvalues
    it corrects a bias, which is not done here. Source: Clauset, Shalizi and Newman, *Power-law
    distributions in empirical data*, SIAM Review 51(4), 2009, equations 3.1 and 3.9; Martin, Peng
    and Mahoney, *Predicting trends in the quality of state-of-the-art neural networks*, Nature
    Communications 12, 2021.

    Args:
        s: Singular values (..., k).

    Returns:
        α (...), above 1, and λ_min (...) in units of σ²; NaN where fewer than two distinct
        eigenvalues are left.

    Example:
        >>> uniform = (np.arange(1000) + 0.5) / 1000
        >>> alpha, start = power_law(uniform ** (-1 / (2 * (3 - 1))))  # λ of exponent 3 from 1 on
        >>> round(alpha, 1), round(start, 1)
        (3.0, 1.0)
    """
    values = np.asarray(s, dtype=np.float64)
    if values.ndim == 1:
        return _fit(np.sort(values))
    fits = np.array([_fit(each) for each in np.sort(values.reshape(-1, values.shape[-1]))])
    alpha, start = fits.reshape(*values.shape[:-1], 2).transpose(-1, *range(values.ndim - 1))
    return alpha, start


def power_law_alpha(s: ArrayLike) -> Quantity:
    """Returns the exponent α of `power_law`.

    Args:
        s: Singular values (..., k).

    Returns:
        α (...).
    """
    return power_law(s)[0]


def edge_ratio(s: ArrayLike, shape: tuple[int, int]) -> Quantity:
    """Returns σ_1 over the Marchenko-Pastur edge of a random matrix of equal size and variance.

    The edge is v(√m + √n), where v² = ‖W‖²/(mn) is the mean square of the entries: the largest
    singular value of a large matrix of independent entries is there. Range √(mn)/((√m + √n)√k) …
    √(mn)/(√m + √n); 1 of a large random matrix. Source: Marchenko and Pastur, 1967; Martin and
    Mahoney, *Implicit self-regularization in deep neural networks*, JMLR 22, 2021.

    Args:
        s: Singular values (..., k).
        shape: Rows m and columns n.

    Returns:
        Ratio (...).

    Example:
        >>> round(edge_ratio([2.0, 0.0], (2, 2)), 4)  # rank one: 2/(√(4/4)·2√2)
        0.7071
    """
    rows, columns = shape
    norm = np.asarray(frobenius_norm(s))
    edge = (math.sqrt(rows) + math.sqrt(columns)) / math.sqrt(rows * columns)
    ratio = np.asarray(spectral_norm(s)) / np.where(norm > 0, norm, np.nan) / edge
    return ratio if ratio.ndim else float(ratio)


def _fit(ascending: NDArray[np.float64]) -> tuple[float, float]:
    """Returns α and λ_min for one spectrum (k,), sorted."""
    peak = ascending[-1] if ascending.size else 0.0
    if not (np.isfinite(ascending).all() and peak > 0):
        return math.nan, math.nan
    logs = 2 * np.log(ascending[ascending > 1e-12 * peak] / peak)
    best = (math.inf, math.nan, math.nan)
    for first in range(len(logs) - 1):
        tail = logs[first:] - logs[first]
        total = tail.sum()
        if total <= 0:
            continue
        alpha = 1 + len(tail) / total
        fitted = -np.expm1((1 - alpha) * tail)
        distance = np.abs(fitted - np.arange(len(tail)) / len(tail)).max()
        best = min(best, (float(distance), float(alpha), float(logs[first])))
    _, alpha, start = best
    return alpha, math.exp(start) * float(peak) ** 2
