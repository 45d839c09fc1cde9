"""What is said of every run in a list of them: read, sorted, and averaged over seeds."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowrank.common.errors import InputError, refuse
from lowrank.common.texts import nearest, one_of, printable
from lowrank.runs.comparison import original_of
from lowrank.runs.derived import is_derived
from lowrank.runs.find import Run
from lowrank.runs.metrics import metric_of
from lowrank.views.table.effort import efolds, preload, seconds
from lowrank.views.table.fields import differing, in_order, plain
from lowrank.views.table.rows import RunRow

Entry = dict[str, Any]

GIVEN = (
    "run", "state", "epoch", "epochs", "rank_first", "rank_last", "test_accuracy",
    "test_accuracy_best", "efolds", "seconds", "rerun_of", "path",
)  # fmt: skip
"""Names in an entry that are no settings."""

MEANS = ("rank_first", "rank_last", "test_accuracy", "test_accuracy_best", "efolds")
"""Of a group their mean is said, and their sample standard deviation with ``_sd`` behind."""


def entries_of(rows: Sequence[RunRow], runs: Sequence[Run] = ()) -> list[Entry]:
    """Returns what is said of every run.

    Args:
        rows: The runs.
        runs: Their records in the same order; without them time and e-folds are unknown.

    Returns:
        For each run by name: ``run``, ``state`` (collapsed and dead are states here), the settings
        that vary and the seed where it does, ``epoch`` (the last one measured) and ``epochs``,
        ``rank_first`` and ``rank_last``, ``test_accuracy`` and the best one of all epochs,
        forgetting ``efolds``, ``seconds`` of work, ``rerun_of`` (the original's id), ``path``. What
        is unknown is None.
    """
    fields, found = differing(rows)
    entries = [
        {
            "run": row.id,
            "state": row.end,
            **{name: each.get(name, plain(row.config.get(name))) for name in fields},
            "epoch": int(row.epochs[-1]) if row.epochs.size else None,
            "epochs": plain(row.config.get("epochs")),
            "rank_first": _number(row.ranks[:1]),
            "rank_last": _number(row.ranks[-1:]),
            "test_accuracy": _number(row.test_accuracy[-1:]),
            "test_accuracy_best": _number(np.fmax.reduce(row.test_accuracy, initial=np.nan)),
            "efolds": None,
            "seconds": None,
            "rerun_of": original_of(row.config),
            "path": str(row.path.parent),
        }
        for row, each in zip(rows, found, strict=True)
    ]
    for entry, run in zip(entries, runs, strict=False):
        preload(run)
        entry |= {"efolds": _number(efolds(run)), "seconds": _number(seconds(run))}
    return entries


def with_columns(
    entries: Sequence[Entry], runs: Sequence[Run], names: Sequence[str]
) -> list[Entry]:
    """Chooses what is said of every run.

    Args:
        entries: As `entries_of` gives them.
        runs: Their records in the same order.
        names: What an entry has, settings, or metrics, of which the last value is taken.

    Returns:
        Entries with the run, its state, and these in this order.

    Raises:
        InputError: With a line for each name that none of the runs has.
    """
    known = dict.fromkeys([*entries[0], *(name for run in runs for name in run.config)])
    logged = dict.fromkeys(name for run in runs for name in run.metrics)
    refuse(
        f"columns: no run has '{printable(name, 80)}'{nearest(name[:60], [*known, *logged])}"
        for name in names
        if name not in known
        and name not in logged
        and not any(is_derived(name, [*run.layers, *run.derived]) for run in runs)
    )

    def value(entry: Entry, run: Run, name: str) -> Any:
        if name in entry:
            return entry[name]
        if name in known:
            return plain(run.config.get(name))
        values = metric_of(run, name)
        at_end = _number(values[-1:])
        # Some are measured in some epochs only. What was lost since then is not its last value.
        return at_end if at_end is not None else _number(values[run.epochs == run.measured[-1:]])

    return [
        {name: value(entry, run, name) for name in dict.fromkeys(["run", "state", *names])}
        for entry, run in zip(entries, runs, strict=True)
    ]


def ordered(entries: Sequence[Entry], by: str) -> list[Entry]:
    """Sorts entries; what has no value comes last.

    Args:
        entries: At least one.
        by: A name in them, with ``-`` before it for the largest first.

    Returns:
        The entries.

    Raises:
        InputError: If they have no such name.

    Example:
        >>> [each["lr"] for each in ordered([{"lr": 0.1}, {"lr": None}, {"lr": 0.2}], "-lr")]
        [0.2, 0.1, None]
    """
    name = by.removeprefix("-")
    if name not in entries[0]:
        near = nearest(name[:60], entries[0])
        raise InputError(
            f"sort: got '{printable(by, 80)}'; allowed: {one_of(list(entries[0]))}{near}"
        )
    place = {value: n for n, value in enumerate(in_order(entry[name] for entry in entries))}
    sign = -1 if by.startswith("-") else 1
    return sorted(entries, key=lambda e: (e[name] is None, sign * place[e[name]]))


def grouped(entries: Sequence[Entry]) -> list[Entry]:
    """Averages runs that differ in their seed only.

    Args:
        entries: As `entries_of` gives them.

    Returns:
        For each point its settings, ``state`` (how many ended how), ``runs`` in the means, of
        `MEANS` their mean and standard deviation, ``seconds`` in all. A run that is not finished,
        collapsed or died, or repeats another of the point, is in no mean.
    """
    fields = [name for name in entries[0] if name not in (*GIVEN, "seed")]
    if len({entry["epochs"] for entry in entries}) > 1:
        fields.append("epochs")
    points: dict[tuple[Hashable, ...], list[Entry]] = {}
    for entry in entries:
        points.setdefault(tuple(entry[name] for name in fields), []).append(entry)
    found = []
    for values, members in points.items():
        ends = Counter(each["state"] for each in members)
        seeds = {each["run"]: each.get("seed") for each in members}
        done = [
            each
            for each in members
            if each["state"] == "finished"
            and (each["rerun_of"] not in seeds or seeds[each["rerun_of"]] != each.get("seed"))
        ]
        numbers: Entry = {}
        for name in MEANS:
            of = [each[name] for each in done if each[name] is not None]
            numbers[name] = statistics.fmean(of) if of else None
            numbers[f"{name}_sd"] = statistics.stdev(of) if len(of) > 1 else None
        times = [each["seconds"] for each in members if each["seconds"] is not None]
        found.append(
            {
                **dict(zip(fields, values, strict=True)),
                "state": ", ".join(
                    f"{count} {end}" if len(ends) > 1 else end for end, count in ends.items()
                ),
                "runs": len(done),
                **numbers,
                "seconds": sum(times) if times else None,
            }
        )
    return found


def _number(values: NDArray[np.float64] | float) -> float | None:
    """Returns the one value; None if there is none, or it is not finite."""
    return float(np.ravel(values)[0]) if np.isfinite(values).any() else None
