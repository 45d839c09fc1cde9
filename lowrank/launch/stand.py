"""Where a run of this disk stands while it trains, as its record tells."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

from lowrank.runs.find import Run, load_run
from lowrank.runs.format import RecordError
from lowrank.runs.metrics import metric_of

_LAST = 5  # epochs by whose pace the time left is told


class Stand(NamedTuple):
    """What is known of a run.

    Attributes:
        epoch: The last one recorded; None where there is no record, as on another machine.
        epochs: How many it is to have; None likewise.
        value: Of a metric at that epoch; NaN where there is none.
        seconds: Until its end, at the pace of its last epochs; NaN where unknown.
    """

    epoch: int | None = None
    epochs: int | None = None
    value: float = math.nan
    seconds: float = math.nan


def stand_of(directory: Path, metric: str) -> Stand:
    """Returns where a run stands.

    Args:
        directory: Of the run.
        metric: Whose last value is wanted.
    """
    try:
        run = load_run(directory)
        epochs = int(run.config["epochs"])
    except (RecordError, KeyError):
        return Stand()
    if not len(run.epochs):
        return Stand(0, epochs)
    epoch, value = int(run.epochs[-1]), float(metric_of(run, metric)[-1])
    return Stand(epoch, epochs, value, _pace(run) * (epochs - epoch))


def _pace(run: Run) -> float:
    """Returns the seconds of an epoch."""
    parts = ("time/train", "time/evaluate")
    found = [run.metrics[name][-_LAST:] for name in parts if name in run.metrics]
    seconds = [float(value) for part in found for value in part if math.isfinite(value)]
    return sum(seconds) / max(map(len, found)) if seconds else math.nan
