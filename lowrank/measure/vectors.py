"""Leading singular vectors of many matrices, in float64."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]  # public, yet not in __all__

from lowrank.measure.directions import Directions
from lowrank.measure.spectra import PLACES, in_threads, workspace

FROM_GRAM = 1e-3
"""Least σ_r/‖W‖ at which eigenvectors of a Gram matrix are taken. They and the other side, which
follows by multiplication, are off by some u·‖W‖²/σ_r² ≤ 1e-9 then, below the 6e-8 of float32."""


def leading_directions(matrices: Sequence[Tensor], count: int) -> list[Directions]:
    """Computes the singular vectors of the largest singular values, in float64.

    They are eigenvectors of the smaller Gram matrix, the other side follows by multiplication; an
    SVD where some σ is too small for that (`FROM_GRAM`). On a CPU several matrices at a time.

    Args:
        matrices: Real tensors (rows, columns).
        count: How many of each, r; all of a matrix that has fewer.

    Returns:
        Of each matrix its vectors, rounded to float32; NaN where it is zero or not finite. A matrix
        of a rank below r has r orthonormal ones all the same, of which the last are arbitrary.

    Example:
        >>> (found,) = leading_directions([torch.diag(torch.tensor([1.0, 3.0, 2.0]))], 1)
        >>> abs(found.left).T.tolist(), abs(found.right).T.tolist()
        ([[0.0, 1.0, 0.0]], [[0.0, 1.0, 0.0]])
    """
    placed = [w if w.device.type in PLACES else w.cpu() for w in matrices]
    order = sorted(range(len(placed)), key=lambda place: -placed[place].numel())
    limit = max([2**28, *map(workspace, placed)])
    found = in_threads(
        lambda batch: _leading(batch[0], count), [[placed[place]] for place in order], limit
    )
    return [each for _, each in sorted(zip(order, found, strict=True), key=lambda pair: pair[0])]


@torch.no_grad()
def _leading(matrix: Tensor, count: int) -> Directions:
    rows, columns = matrix.shape
    count = min(count, rows, columns)
    peak = float(torch.linalg.vector_norm(matrix, torch.inf)) if matrix.numel() else 0.0
    if not 0 < peak < np.inf:
        return Directions(*(np.full((n, count), np.nan, np.float32) for n in (rows, columns)))
    power = int(np.frexp(peak)[1])  # divided in two steps: 2^-power itself may be out of range
    scaled = matrix.double() * 2.0 ** -(power // 2) * 2.0 ** (power // 2 - power)
    is_wide = rows <= columns
    short, long = _of_wide(scaled if is_wide else scaled.T, count)
    sides = (short, long) if is_wide else (long, short)
    return Directions(*(side.float().contiguous().cpu().numpy() for side in sides))


def _of_wide(matrix: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Returns left and right vectors of a matrix with no more rows than columns."""
    try:
        eigenvalues, vectors = torch.linalg.eigh(matrix @ matrix.T)
    except LinAlgError:
        least = 0.0
    else:
        left = vectors.flip(-1)[:, :count]
        values = eigenvalues.clamp_min(0).sqrt().flip(-1)
        least = float(values[count - 1] / torch.linalg.vector_norm(values))
    if least >= FROM_GRAM:
        return left, matrix.T @ left / values[:count]
    # LAPACK's SVD is several times faster for tall matrices than for wide ones.
    right, _, left = torch.linalg.svd(matrix.T.cpu(), full_matrices=False)
    return left.T[:, :count], right[:, :count]
