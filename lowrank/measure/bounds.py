"""The theory beside the measurement: what rank SGD with weight decay allows a weight matrix.

Source: Galanti, Siegel, Gupte and Poggio, *SGD and Weight Decay Secretly Minimize the Rank of Your
Neural Network*, CPAL 2025, arXiv 2206.05794. Notation, in torch's convention (the paper's λ is
wd/2): learning rate μ, weight decay wd, so that a step is

    W_{t+1} = (1 − μ_t·wd) W_t − μ_t G_t,                                                   (1)

with G_t the gradient of the loss alone. A matrix applied at m positions per sample, in g groups,
has from a batch of B a gradient of

    rank G_t ≤ min(m·g·B, rows, columns).                                                   (2)

Going back n steps from the present W_T,

    W_T = P_n W_{T−n} − Σ_{j=1..n} P_{j−1} μ_{T−j} G_{T−j},   P_n = Π_{j=1..n} (1 − μ_{T−j}·wd), (3)

and the sum has rank ≤ Σ m·g·B. As no σ_i of W_T beyond that rank exceeds ‖P_n W_{T−n}‖_2 (Weyl),

    P_n ‖W_{T−n}‖ / ‖W_T‖ ≤ ε   implies   #{i : σ_i/‖W_T‖ > ε} ≤ m·g·(examples in n steps).    (4)

This holds for the Frobenius and for the spectral norm, the same one throughout (‖·‖_2 ≤ ‖·‖_F), and
up to rounding errors of the training, far below any ε in use. It is vacuous where the right side is
not below the full rank, as in most practical settings. With momentum β it holds approximately, for
μ/(1−β) in place of μ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SETTLED = 2.0
"""Norms have settled if ‖W_{T−n}‖/‖W_T‖ is at most this."""


def gradient_rank_bound(
    shape: tuple[int, int], positions: int, groups: int = 1, batch_size: int = 1
) -> int:
    """Returns the largest rank of a gradient, min(m·g·B, rows, columns): equation (2).

    Each position adds one product of a column and a row to the gradient; the view of a grouped
    convolution puts the rows of a group beside its own inputs, so each of the g groups adds one.
    Range 1 … full rank. An exact statement for any loss and network.

    Args:
        shape: Rows and columns of the matrix.
        positions: Positions m per sample, from `lowrank.measure.positions.output_positions`.
        groups: Groups g of a convolution.
        batch_size: Samples B in the batch.

    Returns:
        The bound.

    Raises:
        ValueError: A number is below 1.

    Example:
        >>> gradient_rank_bound((64, 27), positions=4, batch_size=2)
        8
        >>> gradient_rank_bound((64, 27), positions=1024)
        27
    """
    check_counts(rows=shape[0], columns=shape[1], positions=positions, groups=groups)
    check_counts(batch_size=batch_size)
    return min(positions * groups * batch_size, *shape)


def effective_rate(rate: float, momentum: float = 0.0) -> float:
    """Returns μ/(1−β), the rate of plain SGD that SGD with momentum resembles.

    An approximation for rates that change slowly over 1/(1−β) steps; exact for β = 0. Source:
    Polyak, *Some methods of speeding up the convergence of iteration methods*, 1964.

    Args:
        rate: Learning rate μ, 0 or more.
        momentum: β in [0, 1).

    Returns:
        The effective rate.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> round(effective_rate(0.1, momentum=0.9), 6)
        1.0
    """
    if not (rate >= 0 and math.isfinite(rate)):
        raise ValueError(f"rate must be 0 or more, got {rate}")
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum must be in [0, 1), got {momentum}")
    return rate / (1 - momentum)


def memory_window(decay: float, epsilon: float, ratio: float = SETTLED) -> int:
    """Returns the steps after which only ε of the weights is left: equation (4) solved for n.

    n = ⌈log(ratio/ε) / −log(1 − μ·wd)⌉ ≈ log(ratio/ε)/(μ·wd), the least n with
    (1 − μ·wd)^n · ratio ≤ ε. Range 1 and up.

    Args:
        decay: μ·wd in (0, 1), with the effective rate where there is momentum.
        epsilon: Threshold ε of the rank, in (0, 1).
        ratio: ‖W_{T−n}‖/‖W_T‖, 1 or more: 2 once norms have settled.

    Returns:
        The memory window, in steps.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> memory_window(0.1 * 0.05, epsilon=1e-3)
        1517
    """
    if not 0 < decay < 1:
        raise ValueError(f"decay must be in (0, 1), got {decay}")
    check_epsilon(epsilon)
    if not (ratio >= 1 and math.isfinite(ratio)):
        raise ValueError(f"ratio must be 1 or more, got {ratio}")
    return math.ceil(math.log(ratio / epsilon) / -math.log1p(-decay))


def rank_bound(
    shape: tuple[int, int], positions: int, examples: int, groups: int = 1
) -> int | None:
    """Returns the largest rank at ε, m·g·(examples in the memory window): equation (4).

    Range 1 … full rank − 1; None says that it is vacuous. At a constant rate and batch size the
    examples are B·n, with n from `memory_window`.

    Args:
        shape: Rows and columns of the matrix.
        positions: Positions m per sample.
        examples: Samples in all batches of the window, 1 or more.
        groups: Groups g of a convolution.

    Returns:
        The bound, or None where it is not below min(rows, columns).

    Raises:
        ValueError: A number is below 1.

    Example:
        >>> rank_bound((2000, 2000), positions=1, examples=1 * memory_window(0.005, 1e-3))
        1517
        >>> rank_bound((2000, 2000), positions=1, examples=16 * memory_window(0.005, 1e-3)) is None
        True
    """
    check_counts(rows=shape[0], columns=shape[1], positions=positions, groups=groups)
    check_counts(examples=examples)
    bound = positions * groups * examples
    return bound if bound < min(shape) else None


def exact_window(
    decays: Sequence[float], norms: Sequence[float], steps: int, epsilon: float
) -> int | None:
    """Returns the fewest whole epochs k, counted back from T, after which ε of the weights is left.

    That is P_n ‖W_{T−k}‖/‖W_T‖ ≤ ε with n all steps of k epochs: the premise of (4), so that its
    bound is a theorem whatever the rates and norms were. Range 1 … T.

    Args:
        decays: μ·wd of each epoch 1 … T, in [0, 1).
        norms: ‖W‖ at epochs 0 … T; NaN where not measured.
        steps: Steps per epoch.
        epsilon: Threshold ε of the rank, in (0, 1).

    Returns:
        The epochs, or None where no recorded epoch will do.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> exact_window([0.005, 0.005], norms=[3.0, 1.2, 1.0], steps=1440, epsilon=1e-3)
        1
    """
    log_left, history = _history(decays, norms, steps, epsilon)
    if not math.isfinite(history[-1]):
        return None
    with np.errstate(divide="ignore", invalid="ignore"):  # a zero matrix gives inf or NaN: no claim
        left = np.exp(log_left) * history[-2::-1] / history[-1]
    enough = np.flatnonzero(left <= epsilon)
    return int(enough[0]) + 1 if enough.size else None


def settled_window(
    decays: Sequence[float], norms: Sequence[float], steps: int, epsilon: float
) -> int | None:
    """Returns the fewest steps n, counted back from T, with P_n ≤ ε/2 once norms have settled.

    The premise of (4) if ‖W_{T−n}‖ ≤ 2‖W_T‖. Norms being recorded between epochs only, this is
    taken from those last before and first after step T−n, so it is an assumption about the steps
    between. Range 1 … T·steps; at a constant rate it is `memory_window`.

    Args:
        decays: As for `exact_window`.
        norms: As for `exact_window`.
        steps: Steps per epoch.
        epsilon: Threshold ε of the rank, in (0, 1).

    Returns:
        The steps, or None before so many were taken or where norms had not settled.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> settled_window([0.005, 0.005], norms=[1.5, 1.2, 1.0], steps=1440, epsilon=1e-3)
        1517
        >>> settled_window([0.005, 0.005], norms=[3.0, 1.2, 1.0], steps=1440, epsilon=1e-3)
    """
    log_left, history = _history(decays, norms, steps, epsilon)
    needed = math.log(epsilon / SETTLED)
    enough = np.flatnonzero(log_left <= needed)
    if not enough.size or not math.isfinite(history[-1]):
        return None
    whole = int(enough[0])  # epochs that are not enough by themselves
    start = len(decays) - whole - 1  # the epoch before the one that step T−n lies in
    around = [*history[: start + 1][np.isfinite(history[: start + 1])][-1:]]
    around += [*history[start + 1 :][np.isfinite(history[start + 1 :])][:1]]
    if len(around) < 2 or not max(around) <= SETTLED * history[-1]:
        return None
    before = float(log_left[whole - 1]) if whole else 0.0
    per_step = (float(log_left[whole]) - before) / steps
    return whole * steps + min(steps, math.ceil((needed - before) / per_step))


def forgetting_efolds(rates: Sequence[float], steps: int, weight_decay: float) -> float:
    """Returns L = Σ_t μ_t·wd: decay alone would have shrunk the initial weights by about e^L.

    Range 0 and up. Ranks of networks with BatchNorm follow it; below 5 no lower rank is seen at
    ε = 1e-3, between 6 and 13 ranks fall clearly.

    Args:
        rates: Rate of each epoch, effective where there is momentum.
        steps: Steps per epoch.
        weight_decay: wd, 0 or more.

    Returns:
        The e-folds; 0 for no epochs.

    Raises:
        ValueError: A rate or the weight decay is negative or not finite, or `steps` is below 1.

    Example:
        >>> round(forgetting_efolds([0.2] * 24 + [0.04] * 6 + [0.008] * 6, 625, 4e-3), 2)
        12.72
    """
    check_counts(steps=steps)
    check_decay(weight_decay)
    return steps * weight_decay * math.fsum(effective_rate(rate) for rate in rates)


def _history(
    decays: Sequence[float], norms: Sequence[float], steps: int, epsilon: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns log P after the last 1 … T epochs, and the norms as an array.

    Raises:
        ValueError: An argument is out of range.
    """
    check_counts(steps=steps)
    check_epsilon(epsilon)
    each, history = np.asarray(decays, dtype=np.float64), np.asarray(norms, dtype=np.float64)
    if not ((each >= 0) & (each < 1)).all():
        raise ValueError(f"decays must be in [0, 1), got {', '.join(f'{d:g}' for d in each)}")
    if len(history) != len(each) + 1:
        raise ValueError(
            f"norms must be one for each epoch 0 … {len(each)}, got {len(history)} of them"
        )
    return steps * np.cumsum(np.log1p(-each[::-1])), history


def check_counts(**counts: int) -> None:
    """Checks numbers of something.

    Args:
        **counts: By name.

    Raises:
        ValueError: One is below 1.
    """
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be 1 or more, got {count}")


def check_decay(weight_decay: float) -> None:
    """Checks a weight decay.

    Args:
        weight_decay: wd.

    Raises:
        ValueError: It is negative or not finite.
    """
    if not (weight_decay >= 0 and math.isfinite(weight_decay)):
        raise ValueError(f"weight_decay must be 0 or more, got {weight_decay}")


def check_epsilon(epsilon: float) -> None:
    """Checks a threshold of the rank.

    Args:
        epsilon: ε.

    Raises:
        ValueError: It is not in (0, 1).
    """
    if not 0 < epsilon < 1:
        raise ValueError(f"epsilon must be in (0, 1), got {epsilon}")
