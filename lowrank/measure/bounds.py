"""The theory beside the measurement: what rank SGD with weight decay allows a weight matrix.

Source: Galanti, Siegel, Gupte and Poggio, *SGD with Weight Decay Secretly Minimizes the Ranks of
Your Neural Networks*, CPAL 2025, PMLR 280:1388-1412 (arXiv 2206.05794, under another title).
Notation, in torch's convention (the theorem's λ is wd/2): learning rate μ, weight decay wd,
x = μ·wd, momentum β, so that a step is

    W_{t+1} = W_t − μ_t b_t,   b_t = β b_{t−1} + G_t + wd·W_t,   b_{−1} = 0,                (1)

which without momentum is (1 − x_t) W_t − μ_t G_t, with G_t the gradient of the loss alone. A matrix
applied at m positions per sample, in g groups, has from a batch of B a gradient of

    rank G_t ≤ min(m·g·B, rows, columns).                                                   (2)

(1) is linear in (W, b) and G, so that going back to the weights of two earlier steps r < s,

    W_T = c W_s + c' W_r + a sum of multiples of G_{r+1} … G_{T−1},                         (3)

with numbers c and c' that depend on x and β only; without momentum c' = 0 and c = Π (1 − x_t) over
the steps from s on, and only their gradients are in the sum. As no σ_i of W_T beyond the rank of
the sum exceeds the spectral norm of the rest (Weyl), for ‖·‖ the Frobenius or the spectral norm

    |c| ‖W_s‖_2 + |c'| ‖W_r‖_2 ≤ ε ‖W_T‖  implies  #{i : σ_i/‖W_T‖ > ε} ≤ m·g·(examples).   (4)

The spectral norm of the past is what counts, also for the rank in the Frobenius norm. (4) holds up
to rounding errors of training in float32, far below any ε in use. It is vacuous where the right
side is not below the full rank, as in most practical settings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

SETTLED = 2.0
"""Where norms are not known they are taken to be at most this multiple of those that are."""

SPLITS = np.unique(np.round(2 ** np.arange(0, 30, 0.5)).astype(int))
"""Numbers s − r of steps between the two weights of (3) that are tried."""


def gradient_rank_bound(
    shape: tuple[int, int], positions: int, groups: int = 1, batch_size: int = 1
) -> int:
    """Returns the largest rank of a gradient, min(m·g·B, rows, columns): equation (2).

    Each position adds one product of a column and a row to the gradient; the view of a grouped
    convolution puts the rows of a group beside its own inputs, so each of the g groups adds one.
    Range 1 … full rank. Exact for any loss of the network's outputs; a term in W itself, such as a
    penalty on its orthogonality or nuclear norm, has a gradient of any rank.

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


def forgetting(decay: float, momentum: float = 0.0) -> float:
    """Returns 1 − |z|, the share of the weights that a step forgets in the long run.

    z is the slow root of z² − (1 + β − x) z + β, the recursion (1) of W without gradients:
    z = [(1 + β − x) + √((1 + β − x)² − 4β)]/2, so that 1 − z = x for β = 0 and about x/(1−β) for
    small x. From x = (1 − √β)² on the root is complex: then |z| = √β, and a larger rate forgets no
    faster. Range 0 … 1 − √β, and 0 … 1 for β = 0.

    Args:
        decay: x = μ·wd in [0, 1).
        momentum: β in [0, 1).

    Returns:
        The share.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> forgetting(0.005), round(forgetting(0.0005, momentum=0.9), 6)
        (0.005, 0.005249)
        >>> round(forgetting(0.02, momentum=0.9), 4)  # and not 0.02/(1 − 0.9)
        0.0513
    """
    if not 0 <= decay < 1:
        raise ValueError(f"decay must be in [0, 1), got {decay}")
    check_momentum(momentum)
    if is_oscillating(decay, momentum):
        return 1 - math.sqrt(momentum)
    root = math.sqrt(_discriminant(decay, momentum))
    return 2 * decay / (1 - momentum + decay + root)  # 1 − z without cancellation


def is_oscillating(decay: float, momentum: float) -> bool:
    """Tells whether the roots of the recursion are complex, so that all it forgets by is √β.

    Args:
        decay: x = μ·wd in [0, 1).
        momentum: β in [0, 1).

    Returns:
        Whether x > (1 − √β)².
    """
    return _discriminant(decay, momentum) < 0


def memory_window(
    decay: float, epsilon: float, ratio: float = SETTLED, momentum: float = 0.0
) -> int:
    """Returns the steps after which only ε of the weights is left, at a constant rate.

    Without momentum n = ⌈log(ratio/ε) / −log(1 − x)⌉ ≈ log(ratio/ε)/x, the least n with
    (1 − x)^n · ratio ≤ ε. With momentum the least n for which (4) holds with n gradients, whatever
    the earlier weights of no more than `ratio` ‖W_T‖ were: log(ratio/ε)/−log|z| and a few steps
    that tell the two weights of (3) apart. Where z is complex, envelopes are taken in place of what
    oscillates. Range 1 and up.

    Args:
        decay: x = μ·wd in (0, 1).
        epsilon: Threshold ε of the rank, in (0, 1).
        ratio: ‖W_s‖_2/‖W_T‖ of the earlier weights, above ε: 2 once norms have settled.
        momentum: β in [0, 1).

    Returns:
        The memory window, in steps.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> memory_window(0.1 * 0.05, epsilon=1e-3)
        1517
        >>> memory_window(0.01 * 0.05, epsilon=1e-3, momentum=0.9)
        1493
    """
    if not 0 < decay < 1:
        raise ValueError(f"decay must be in (0, 1), got {decay}")
    check_epsilon(epsilon)
    check_momentum(momentum)
    if not (ratio > epsilon and math.isfinite(ratio)):
        raise ValueError(f"ratio must be above epsilon, got {ratio}")
    if not momentum:
        return math.ceil(math.log(ratio / epsilon) / -math.log1p(-decay))
    enough, more = 1, 2
    while _left(more, decay, momentum) * ratio > epsilon:
        enough, more = more, 2 * more
    while more - enough > 1:
        middle = (enough + more) // 2
        if _left(middle, decay, momentum) * ratio > epsilon:
            enough = middle
        else:
            more = middle
    return more - 1  # the gradient of the first step is in the weights after it


def _left(steps: int, decay: float, momentum: float) -> float:
    """Returns the least |c| + |c'| of (3) for r = T − steps, 2 steps or more.

    With z and f the roots, u_n = (z^n − f^n)/(z − f) and j = s − r, c = u_steps/u_j and
    c' = −β^j u_{steps−j}/u_j.
    """
    j = SPLITS[steps > SPLITS]
    counts = np.stack([np.full(j.shape, steps), steps - j, j])
    log_slow = math.log1p(-forgetting(decay, momentum))
    log_fast = math.log(momentum) - log_slow
    square = _discriminant(decay, momentum)
    if square < 0:
        sine = math.sqrt(-square / momentum) / 2
        angle = math.atan2(math.sqrt(-square), 1 + momentum - decay)
        whole, rest, _ = np.minimum(counts * sine, 1)  # at least |sin|
        part = np.abs(np.sin(j * angle))
    else:
        log_ratio = min(log_fast - log_slow, -1e-300)  # below 0, also for equal roots
        whole, rest, part = -np.expm1(counts * log_ratio)
    with np.errstate(divide="ignore"):
        left = np.exp((steps - j) * log_slow) * (whole + np.exp(j * log_fast) * rest) / part
    return float(left.min())


def _discriminant(decay: float, momentum: float) -> float:
    return (1 - momentum - decay) ** 2 - 4 * momentum * decay


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


def forgetting_efolds(
    rates: Sequence[float], steps: int, weight_decay: float, momentum: float = 0.0
) -> float:
    """Returns L = Σ_t μ_t·wd: decay alone would have shrunk the initial weights by about e^L.

    With momentum Σ_t `forgetting`, which is the same for β = 0. Range 0 and up. Ranks of networks
    with BatchNorm follow it; below 5 no lower rank is seen at ε = 1e-3, between 6 and 13 ranks
    fall clearly.

    Args:
        rates: Rate μ of each epoch, the same in all its steps.
        steps: Steps per epoch.
        weight_decay: wd, 0 or more.
        momentum: β in [0, 1).

    Returns:
        The e-folds; 0 for no epochs.

    Raises:
        ValueError: A rate or the weight decay is negative or not finite, or `steps` is below 1;
            with momentum, μ·wd is 1 or more.

    Example:
        >>> round(forgetting_efolds([0.2] * 24 + [0.04] * 6 + [0.008] * 6, 625, 4e-3), 2)
        12.72
    """
    check_counts(steps=steps)
    check_decay(weight_decay)
    check_momentum(momentum)
    decays = decays_of(rates, weight_decay)
    return steps * math.fsum(forgetting(x, momentum) if momentum else x for x in decays)


def decays_of(rates: Sequence[float], weight_decay: float) -> list[float]:
    """Returns x = μ·wd of each epoch.

    Args:
        rates: Rate μ of each epoch.
        weight_decay: wd.

    Returns:
        The products.

    Raises:
        ValueError: A rate is negative or not finite.
    """
    for rate in rates:
        if not (rate >= 0 and math.isfinite(rate)):
            raise ValueError(f"rate must be 0 or more, got {rate}")
    return [rate * weight_decay for rate in rates]


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


def check_momentum(momentum: float) -> None:
    """Checks a momentum.

    Args:
        momentum: β.

    Raises:
        ValueError: It is not in [0, 1).
    """
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum must be in [0, 1), got {momentum}")
