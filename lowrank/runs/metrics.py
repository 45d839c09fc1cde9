"""Metrics of a run over its epochs, also those that it lacks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from lowrank.runs.reader import Array, Run


def metric_of(run: Run, name: str) -> Array:
    """Returns a metric at each epoch of a run.

    Args:
        run: The run.
        name: Of the metric.

    Returns:
        Shape (E,); NaN where it was not recorded.
    """
    values = run.metrics.get(name)
    return np.full(len(run.epochs), np.nan) if values is None else np.asarray(values)
