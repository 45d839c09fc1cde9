"""The accuracy of a network of which every counted matrix keeps a lower rank only."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from lowrank.measure.matrices import weight_matrices
from lowrank.measure.truncation import LADDER, Factors
from lowrank.models.factored import plain
from lowrank.training.pack import Pack

if TYPE_CHECKING:
    from torch import Tensor

    from lowrank.training.learner import Learner


def truncation_metrics(
    learner: Learner, proceed: Callable[[], bool] = lambda: True
) -> list[dict[str, float]]:
    """Evaluates copies of the networks in which every counted matrix is truncated.

    For each step of `lowrank.measure.truncation.LADDER` each counted matrix is replaced by its best
    approximation of the rank that the step leaves it; all else stays as it is.

    Args:
        learner: The networks, which stay as they are, and their test set.
        proceed: As in ``Learner.evaluate``.

    Returns:
        Of each network test accuracy and mean rank by W&B's names; NaN where a matrix is not
        finite.

    Raises:
        InterruptedError: If ``proceed`` returned False.
    """
    pack = Pack([plain(copy.deepcopy(network)) for network in learner.pack.networks])
    example = learner.dataset.example
    found: list[dict[str, float]] = [{} for _ in pack.networks]
    with torch.no_grad():
        counted = [
            [m.view() for m in weight_matrices(network, example_input=example) if m.counted]
            for network in pack.networks
        ]
        factors = [_factors(matrices) for matrices in counted]
        for kept in LADDER:
            for row, matrices, of_each in zip(found, counted, factors, strict=True):
                ranks = []
                for matrix, exact in zip(matrices, of_each, strict=False):
                    ranks.append(kept.rank(exact.spectrum))
                    left, right = exact.of_rank(ranks[-1])
                    matrix.copy_(left @ right)
                row[kept.mean_rank] = float(np.mean(ranks)) if ranks else math.nan
            _, accuracies = learner.evaluate(learner.dataset.test, proceed, pack)
            for row, accuracy, of_each in zip(found, accuracies, factors, strict=True):
                row[kept.accuracy] = accuracy if of_each else math.nan
    return found


def _factors(matrices: list[Tensor]) -> list[Factors]:
    """Returns the factors of each matrix; none at all where one is not finite."""
    is_finite = all(bool(torch.isfinite(matrix).all()) for matrix in matrices)
    return [Factors(matrix) for matrix in matrices] if is_finite else []
