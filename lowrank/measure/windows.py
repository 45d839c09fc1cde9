"""What a run has forgotten, from the norms that it recorded: windows of equation (4).

`lowrank.measure.bounds` has the equations and the window of a run before it starts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lowrank.measure.bounds import (
    SETTLED,
    SPLITS,
    check_counts,
    check_epsilon,
    check_momentum,
)

Array = NDArray[np.float64]


def exact_window(
    decays: Sequence[float],
    norms: Sequence[float],
    steps: int,
    epsilon: float,
    *,
    size: float | None = None,
    momentum: float = 0.0,
    most: int | None = None,
) -> int | None:
    """Returns the fewest whole epochs k, counted back from T, after which ε of the weights is left.

    The premise of (4) with recorded norms, so that its bound is a theorem whatever rates and norms
    were. W_r is that of k epochs ago and, with momentum, W_s any recorded after it; where the
    window is the whole run W_0 alone will do, as b_{−1} = 0. Range 1 … T.

    Args:
        decays: x = μ·wd of each epoch 1 … T, in [0, 1), the same in all steps of an epoch.
        norms: ‖W‖_2 at epochs 0 … T; NaN where not measured.
        steps: Steps per epoch.
        epsilon: Threshold ε of the rank, in (0, 1).
        size: ‖W_T‖ in the norm that ε refers to; None takes the last of `norms`.
        momentum: β in [0, 1).
        most: The longest window looked for, in epochs; None looks for any.

    Returns:
        The epochs, or None where no recorded epoch will do.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> exact_window([0.005, 0.005], norms=[3.0, 1.2, 1.0], steps=1440, epsilon=1e-3)
        1
        >>> exact_window([0.0005] * 3, [3.0, 1.2, 1.0, 1.0], 1440, 1e-3, momentum=0.9)
        2
    """
    each, past, now = _checked(decays, norms, steps, epsilon, size, momentum)
    total = len(each)
    longest = total if most is None else min(most, total)
    if now is None or not longest:
        return None
    of_epoch = np.linalg.matrix_power(_step(each[total - longest :], momentum), steps)
    # Of each epoch that W_s may be of, T first: the products of steps from it to T and up to it.
    later, to_end, up_to = np.array([total]), np.eye(2)[None, 0], np.eye(2)[None]
    for k in range(1, longest + 1):
        epoch = total - k
        up_to = up_to @ of_epoch[longest - k]
        if not math.isfinite(past[epoch]):
            continue
        with np.errstate(divide="ignore", invalid="ignore"):  # W_s may not tell b
            of_s = to_end[:, 0] + to_end[:, 1] * up_to[:, 1, 1] / up_to[:, 0, 1]
            of_r = to_end[:, 1] * momentum ** (steps * (later - epoch)) / up_to[:, 0, 1]
            left = np.abs(of_s) * past[later] + np.abs(of_r) * past[epoch]
        whole = up_to[0, 0]
        alone = abs(whole[0]) * past[epoch] if epoch == 0 or whole[1] == 0 else math.inf
        if alone <= epsilon * now or (left <= epsilon * now).any():
            return k
        later = np.append(later, epoch)
        to_end, up_to = np.vstack([to_end, whole]), np.concatenate([up_to, np.eye(2)[None]])
    return None


def settled_window(
    decays: Sequence[float],
    norms: Sequence[float],
    steps: int,
    epsilon: float,
    *,
    size: float | None = None,
    momentum: float = 0.0,
    most: int | None = None,
) -> int | None:
    """Returns the fewest steps n, counted back from T, after which ε of the weights is left.

    The premise of (4), on an assumption about the steps between two measured epochs: that ‖W‖_2 is
    there at most twice what it was at the one before or after, whichever was larger. Range
    1 … T·steps. At a constant rate it is `memory_window` with twice that norm over ‖W_T‖ as ratio.

    Args:
        decays: As for `exact_window`.
        norms: As for `exact_window`.
        steps: Steps per epoch.
        epsilon: Threshold ε of the rank, in (0, 1).
        size: As for `exact_window`.
        momentum: β in [0, 1).
        most: The longest window looked for, in steps; None looks for any.

    Returns:
        The steps, or None before enough were taken.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> settled_window([0.005, 0.005], norms=[1.5, 1.0, 1.0], steps=1440, epsilon=1e-3)
        1598
        >>> settled_window([0.005, 0.005], [1.5, 1.0, 1.0], 1440, 1e-3, size=4.0)
        1240
    """
    each, past, now = _checked(decays, norms, steps, epsilon, size, momentum)
    taken = len(each) * steps
    longest = taken if most is None else min(most + 1, taken)
    if now is None or not longest:
        return None
    back = np.arange(longest) // steps  # epochs before the last, of each step going back from T
    decay, caps = each[::-1][back], SETTLED * _around(past)[back]  # caps[n]: of W_{T−n−1}
    if not momentum:
        enough = np.flatnonzero(np.cumprod(1 - decay) * caps <= epsilon * now)
        return int(enough[0]) + 1 if enough.size else None
    rows = _rows(decay, momentum)
    changes = np.cumsum(np.diff(decay, prepend=decay[0]) != 0)
    found = []
    with np.errstate(divide="ignore", invalid="ignore"):
        for j in SPLITS[longest > SPLITS].tolist():
            # W_s is 1, 2, … steps ago and W_r j more, all of them at one rate: so b_s is known.
            end = longest - j
            between = np.linalg.matrix_power(_step(each[::-1], momentum), j)[back[1 : end + 1]]
            first, second = rows[1 : end + 1].T
            of_s = np.abs(first + second * between[:, 1, 1] / between[:, 0, 1]) * caps[:end]
            of_r = np.abs(second * momentum**j / between[:, 0, 1]) * caps[j:]
            is_one_rate = changes[1 : end + 1] == changes[j:]
            enough = np.flatnonzero(is_one_rate & (of_s + of_r <= epsilon * now))
            if enough.size:
                found.append(int(enough[0]) + j)
    return min(found, default=None)


def _step(decays: Array, momentum: float) -> Array:
    """Returns what a step makes of (W, b/wd) without gradients, (…, 2, 2)."""
    one = np.ones_like(decays)
    rows = [[1 - decays, -momentum * decays], [one, momentum * one]]
    return np.moveaxis(np.array(rows), (0, 1), (-2, -1))


def _rows(decays: Array, momentum: float) -> Array:
    """Returns the first row of the product of the last 0, 1, … steps, (n + 1, 2)."""
    of_w, of_b = 1.0, 0.0
    rows = [(of_w, of_b)]
    for x in decays.tolist():
        of_w, of_b = of_w * (1 - x) + of_b, momentum * (of_b - of_w * x)
        rows.append((of_w, of_b))
    return np.array(rows)


def _around(norms: Array) -> Array:
    """Returns the larger recorded norm before and after each epoch, from the last epoch back."""
    places = np.where(np.isfinite(norms), np.arange(len(norms)), 0)
    before = norms[np.maximum.accumulate(places)]
    reversed_places = np.where(np.isfinite(norms[::-1]), np.arange(len(norms)), 0)
    after = norms[::-1][np.maximum.accumulate(reversed_places)][::-1]
    return np.maximum(before[:-1], after[1:])[::-1]


def _checked(
    decays: Sequence[float],
    norms: Sequence[float],
    steps: int,
    epsilon: float,
    size: float | None,
    momentum: float,
) -> tuple[Array, Array, float | None]:
    """Returns decays and norms as arrays, and ‖W_T‖ unless it is zero or not finite.

    Raises:
        ValueError: An argument is out of range.
    """
    check_counts(steps=steps)
    check_epsilon(epsilon)
    check_momentum(momentum)
    each, past = np.asarray(decays, dtype=np.float64), np.asarray(norms, dtype=np.float64)
    if not ((each >= 0) & (each < 1)).all():
        raise ValueError(f"decays must be in [0, 1), got {', '.join(f'{d:g}' for d in each)}")
    if len(past) != len(each) + 1:
        raise ValueError(
            f"norms must be one for each epoch 0 … {len(each)}, got {len(past)} of them"
        )
    now = float(past[-1]) if size is None else size
    return each, past, now if 0 < now < math.inf else None
