"""What a run's networks did with matrices of lower rank, as it was tested while they trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lowrank.measure.truncation import LADDER, Kept
from lowrank.runs.find import Run
from lowrank.runs.metrics import metric_of
from lowrank.views.table.rows import Floats


class Truncated(NamedTuple):
    """Of a run with ``truncation_every``, a row for each step of what is kept.

    Attributes:
        places: Those of its epochs in which it was tested, in order.
        accuracies: (steps, epochs), in [0, 1].
        ranks: Mean ranks of the counted matrices, likewise.
        full: Their mean rank at full rank.
    """

    places: NDArray[np.intp]
    accuracies: Floats
    ranks: Floats
    full: float


def truncated(run: Run, steps: Sequence[Kept] = LADDER) -> Truncated | None:
    """Reads what became of a run's networks at lower ranks.

    Args:
        run: As `lowrank.load_run` gives it.
        steps: What is kept of the matrices.

    Returns:
        Their accuracies and ranks; None if the run was never so tested.
    """
    names = [name for kept in steps for name in (kept.accuracy, kept.mean_rank)]
    if not any(name in run.metrics for name in names):
        return None
    run.preload(names)
    accuracies, ranks = (
        np.array([metric_of(run, name) for name in of_each])
        for of_each in zip(*((kept.accuracy, kept.mean_rank) for kept in steps), strict=True)
    )
    places = np.flatnonzero(np.isfinite(accuracies).all(axis=0))
    if not places.size:
        return None
    full = float(np.mean([min(layer.shape) for layer in run.layers if layer.counted]))
    return Truncated(places, accuracies, ranks, full)
