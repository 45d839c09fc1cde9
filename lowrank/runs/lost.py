"""Whether a run was lost: its network died, or matrices of it collapsed. It then has no rank."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lowrank.common.texts import few
from lowrank.runs.metrics import metric_of
from lowrank.runs.reader import Array, Run

DEAD, COLLAPSED = "dead", "collapsed"
"""How a run can be lost; every table and message has these words."""

NO_RANK = (COLLAPSED, DEAD)
"""How a network ends that has no rank."""

_MOST_NAMES = 5  # of collapsed matrices in a line


class Lost(NamedTuple):
    """How a run was lost.

    Attributes:
        how: `DEAD` or, if matrices have no rank at all, `COLLAPSED`.
        since: The first epoch of those at the end at which that held.
        text: The whole of it, in a line.
    """

    how: str
    since: int
    text: str


def lost(run: Run) -> Lost | None:
    """Finds out whether a run was lost, as its record says at the last measured epoch.

    Args:
        run: Any run.

    Returns:
        How; None if it was not, or nothing was measured.
    """
    run.preload([DEAD, COLLAPSED, "train_accuracy"])
    collapsed, dead = (metric_of(run, name) for name in (COLLAPSED, DEAD))
    measured = np.flatnonzero(np.isfinite(collapsed))
    if not len(measured):
        return None
    texts, since = [], {}
    if collapsed[measured[-1]] > 0:
        since[COLLAPSED] = _since(run, measured, collapsed)
        of_layers = {layer.name: metric_of(run, f"rank/{layer.name}") for layer in run.layers}
        names = [name for name, ranks in of_layers.items() if np.isnan(ranks[measured[-1]])]
        which = few(names, _MOST_NAMES) or f"{collapsed[measured[-1]]:g} matrices"
        texts.append(f"collapsed since epoch {since[COLLAPSED]}: {which}")
    if dead[measured[-1]] > 0:
        since[DEAD] = _since(run, measured, dead)
        accuracy = metric_of(run, "train_accuracy")[measured[-1]]
        with_accuracy = "" if np.isnan(accuracy) else f", train accuracy {accuracy:.3g}"
        texts.append(f"dead since epoch {since[DEAD]}{with_accuracy}")
    how = next(iter(since), None)
    return None if how is None else Lost(how, since[how], "; ".join(texts))


def _since(run: Run, measured: NDArray[np.int64], values: Array) -> int:
    """Returns the first epoch of the last stretch of measured ones at which a value is above 0."""
    well = np.flatnonzero(~(values[measured] > 0))
    return int(run.epochs[measured[well[-1] + 1 if len(well) else 0]])
