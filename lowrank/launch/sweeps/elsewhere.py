"""Points of a sweep that ran elsewhere: in another sweep, on another machine, by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lowrank.common.errors import InputError
from lowrank.config import Config, of_stored
from lowrank.config.settings import is_of_train_py, with_role
from lowrank.launch.sweeps.points import Ended
from lowrank.launch.sweeps.search import Search
from lowrank.runs.directory import ENDED
from lowrank.runs.find import Run
from lowrank.runs.lost import lost
from lowrank.views.table.rows import find

_DECISIVE = with_role("science", "replicate", "measurement")


def end_of(run: Run, metric: str) -> Ended:
    """Returns how a run that has ended counts as a point.

    Args:
        run: The run.
        metric: The point's value.
    """
    gone = lost(run)
    if gone is not None:
        return Ended(gone.how, why=gone.text)
    value = float(run.metrics[metric][-1]) if metric in run.metrics else math.nan
    return Ended(run.state, value if math.isfinite(value) else None)


def found_in(search: Search, places: Sequence[str]) -> tuple[dict[int, Ended], list[str]]:
    """Finds the points of a grid that ran elsewhere to their end.

    Experiment, seed, epochs and what is measured must be those of the point; where and on what
    machine it ran is of no account.

    Args:
        search: The points.
        places: As `lowrank.views.table.rows.find` takes them.

    Returns:
        How each of those points ended, by number, and lines on what was found.

    Raises:
        InputError: If it is no grid, or there are no runs.
    """
    if search.grid is None:
        method = search.sweep.method
        raise InputError(f"missing_from: a {method} search lacks no points; allowed: with a grid")
    runs, lines = find(places)
    numbers = {_key(config): n for n, config in enumerate(search.configs)}
    ends: dict[int, Ended] = {}
    for run in runs:
        if run.state not in ENDED or not is_of_train_py(run.config):
            continue
        try:
            number = numbers.get(_key(of_stored(run.config)))
        except InputError as error:  # of another version
            lines += [f"left out: run {run.id}: {line}" for line in error.lines]
            continue
        if number is not None and number < search.size:
            ends.setdefault(number, end_of(run, search.metric))
    where = ", ".join(places)
    lines.append(f"{len(ends)} of {search.size} points ran to their end in {where}")
    return ends, lines


def _key(config: Config) -> tuple[Any, ...]:
    return tuple(getattr(config, name) for name in _DECISIVE)
