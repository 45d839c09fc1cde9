"""How far a matrix has turned, whatever its size."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_IN_RANGE = 1e-280
"""Squares of norms between this and its inverse are sums without over- or underflow to speak of."""

_CHUNK = 2**18  # entries of which distances are computed at a time, so that they stay in the cache


def distance(w: Tensor, v: Tensor) -> float:
    """Returns ‖W/‖W‖_F − V/‖V‖_F‖_F in [0, 2], in float64; NaN where there is none.

    Args:
        w: Tensor (rows, columns).
        v: Likewise.

    Returns:
        The distance.

    Example:
        >>> distance(torch.eye(2), -3 * torch.eye(2))
        2.0
    """
    # With D = W − V and s = ‖W‖/‖V‖, the square is ‖D − (s − 1)V‖²/‖W‖²: one pass over both gives
    # the three products it needs. The error is some 1e-8 of |s − 1|, and rounding without stretch.
    changed, along, before = _products(w, v, (0, 0))
    after = before + 2 * along + changed
    is_safe = _IN_RANGE < before < 1 / _IN_RANGE and 2**-16 < after / before < 2**16
    if not is_safe:  # squares out of range, or all digits of W lost beside V
        peaks = [float(torch.linalg.vector_norm(x, torch.inf)) for x in (w, v)]
        if not all(0 < peak < math.inf for peak in peaks):
            return math.nan
        ends = [math.frexp(peak)[1] for peak in peaks]
        if abs(ends[0] - ends[1]) < 4:  # two powers would be a stretch that there is not
            ends[1] = ends[0]
        changed, along, before = _products(w, v, ends)
        after = before + 2 * along + changed
    stretch = math.sqrt(after / before) - 1
    square = changed - 2 * stretch * along + stretch**2 * before
    return math.sqrt(max(0.0, square) / after)


def _products(w: Tensor, v: Tensor, powers: Sequence[int]) -> list[float]:
    """Returns ‖D‖², ⟨D, V⟩ and ‖V‖² with D = W − V, each first divided by its power of two."""
    dtype = torch.complex128 if w.is_complex() else torch.float64
    length = max(1, w.numel()) if w.is_cuda else _CHUNK
    sums = np.zeros(3)
    for parts in zip(w.flatten().split(length), v.flatten().split(length), strict=True):
        # Only these kinds of device have float64; the module may have moved since.
        device = w.device if w.device.type in ("cpu", "cuda") else torch.device("cpu")
        end, start = (part.to(device, dtype) for part in parts)
        if any(powers):  # in two steps, as 2^-power itself may be out of range
            end, start = (
                part * 2.0 ** -(power // 2) * 2.0 ** (power // 2 - power)
                for part, power in zip((end, start), powers, strict=True)
            )
        change = end - start
        dots = [torch.vdot(*of) for of in ((change, change), (change, start), (start, start))]
        sums += torch.stack(dots).real.cpu().numpy()
    return [float(value) for value in sums]
