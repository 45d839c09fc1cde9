"""Leading singular directions of weight matrices, and how far they agree.

W = Σ σ_i u_i v_iᵀ: the left vectors u_i are directions of the outputs, the right ones v_i of the
inputs. A singular vector is known up to its sign, and those of equal σ up to a rotation, so that
only subspaces are compared. Where σ_r = σ_{r+1} the leading subspace itself is not unique.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


class Directions(NamedTuple):
    """The leading singular vectors of one matrix, or of one matrix at several times.

    Attributes:
        left: Of the outputs (…, rows, r), float32, the largest σ first.
        right: Of the inputs (…, columns, r).
    """

    left: Vectors
    right: Vectors

    def unknown(self) -> Directions:
        """Returns as many that are not known, NaN: those of a matrix that has collapsed."""
        return Directions(*(np.full_like(side, np.nan) for side in self))


def overlap(one: Vectors, other: Vectors) -> float:
    """Returns ‖UᵀU'‖²_F/r: the mean squared cosine of the angles between two subspaces.

    Args:
        one: Orthonormal columns U (m, r).
        other: As many, U' (m, r).

    Returns:
        In [0, 1]: 1 for the same subspace, r/m on average for random ones. NaN where one is.

    Example:
        >>> plane, other = np.eye(4)[:, [0, 1]], np.eye(4)[:, [1, 2]]
        >>> overlap(plane, plane), overlap(plane, other)
        (1.0, 0.5)
    """
    found = np.sum((one.astype(np.float64).T @ other) ** 2) / one.shape[1]
    return float(np.minimum(found, 1.0))  # vectors are orthonormal to the precision of float32


def overlaps(vectors: Vectors) -> NDArray[np.float64]:
    """Returns the overlap of each subspace with each.

    Args:
        vectors: Orthonormal columns at E times (E, m, r).

    Returns:
        Overlaps (E, E) as of `overlap`.

    Example:
        >>> overlaps(np.eye(4)[[[0, 1], [1, 2]]].swapaxes(1, 2)).tolist()
        [[1.0, 0.5], [0.5, 1.0]]
    """
    count = len(vectors)
    found = np.empty((count, count))
    for one in range(count):
        for other in range(one + 1):
            found[one, other] = found[other, one] = overlap(vectors[other], vectors[one])
    return found


def alignment(left: Vectors, right: Vectors) -> float:
    """Returns which share of a matrix's leading inputs are leading outputs of the one before it.

    ‖(U ⊗ I_p)ᵀV‖²_F over the most it can be, min(p·r, r'). V are the right vectors of a matrix with
    p columns for each row of the one before, as of the p = k·k taps of a convolution, or of the p
    pixels of each channel before a flattening. With p = 1 and r = r' it is ‖VᵀU‖²_F/r.

    Args:
        left: Left vectors U (m, r) of the matrix before.
        right: Right vectors V (m·p, r').

    Returns:
        In [0, 1]; r·r'/(m·min(p·r, r')) on average for random ones.

    Example:
        >>> [alignment(np.eye(3)[:, :1], np.eye(n)[:, :2]) for n in (3, 6)]
        [1.0, 1.0]
    """
    taps = len(right) // len(left)
    apart = right.astype(np.float64).reshape(len(left), -1)  # (m, p·r')
    most = min(taps * left.shape[1], right.shape[1])
    return float(np.sum((left.astype(np.float64).T @ apart) ** 2) / most)
