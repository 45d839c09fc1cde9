"""Best approximations of weight matrices of lower rank: what is kept, how much, and its names."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lowrank.measure.ranks import energy_rank

if TYPE_CHECKING:
    from torch import Tensor

ACCURACY, RANK = "truncated_accuracy", "truncated_rank"


class Kept(NamedTuple):
    """How much of every matrix is kept.

    Attributes:
        kind: ``share`` of full rank, or ``energy``, the share of ‖W‖² = Σσ_i².
        amount: In (0, 1].

    Example:
        >>> Kept("share", 0.25).rank(np.ones(10)), Kept("energy", 0.9).rank(np.array([3.0, 1.0]))
        (3, 1)
    """

    kind: Literal["share", "energy"]
    amount: float

    @property
    def accuracy(self) -> str:
        """The metric that holds the test accuracy of the truncated network."""
        return f"{ACCURACY}@{self}"

    @property
    def mean_rank(self) -> str:
        """The metric that holds the mean rank that the counted matrices were left."""
        return f"{RANK}@{self}"

    def __str__(self) -> str:
        return f"{self.kind}_{self.amount:g}"

    def rank(self, spectrum: NDArray[np.float64]) -> int:
        """Returns the fewest directions that hold so much, at least one.

        Args:
            spectrum: Singular values (k,), finite.

        Returns:
            Rank, 1 … k.
        """
        if self.kind == "energy":
            return max(1, int(energy_rank(spectrum, self.amount)))
        return max(1, math.ceil(self.amount * len(spectrum) - 1e-9))


LADDER = (
    *(Kept("share", 2.0**-power) for power in range(6, -1, -1)),
    *(Kept("energy", energy) for energy in (0.9, 0.99, 0.999)),
)
"""What a curve of accuracy against rank is made of: 1/64, 1/32, … 1 of full rank, and energies."""


class Factors:
    """One matrix as a product of two, of any rank: the best approximation of that rank there is.

    Its error ‖W − W_r‖/‖W‖ is √(Σ_{i>r} σ_i²)/‖W‖, the least of any matrix of rank r. Source:
    Eckart and Young, *The approximation of one matrix by another of lower rank*, Psychometrika
    1(3), 1936. The singular vectors of the shorter side are the eigenvectors of the smaller Gram
    matrix, in float64; W is projected on them.

    Args:
        matrix: Shape (rows, columns), finite.

    Attributes:
        spectrum: Singular values (min(rows, columns),), descending, float64; those below 1e-8 σ_1
            are rounding errors.

    Example:
        >>> import torch
        >>> left, right = Factors(torch.diag(torch.tensor([3.0, 2.0, 1.0]))).of_rank(2)
        >>> (left @ right).diagonal()
        tensor([3., 2., 0.], dtype=torch.float64)
    """

    def __init__(self, matrix: Tensor) -> None:
        import torch  # who only reads names of metrics does without

        rows, columns = matrix.shape
        self._is_tall = rows > columns
        self._wide = matrix.detach().double()
        self._wide = self._wide.mT if self._is_tall else self._wide
        energies, vectors = torch.linalg.eigh(self._wide @ self._wide.mT)
        self.spectrum: NDArray[np.float64] = energies.flip(0).clamp(min=0).sqrt().cpu().numpy()
        self._vectors = vectors.flip(1)  # (k, k), those of the largest σ first

    def of_rank(self, rank: int) -> tuple[Tensor, Tensor]:
        """Returns the factors of the best approximation of a rank.

        Args:
            rank: From 1 to min(rows, columns).

        Returns:
            Tensors (rows, rank) and (rank, columns), float64.
        """
        basis = self._vectors[:, :rank]
        other = basis.mT @ self._wide
        return (other.mT, basis.mT) if self._is_tall else (basis, other)


def is_of_truncation(name: str) -> bool:
    """Returns whether a metric is of truncated networks.

    Args:
        name: Of any metric.
    """
    return name.startswith((f"{ACCURACY}@", f"{RANK}@"))
