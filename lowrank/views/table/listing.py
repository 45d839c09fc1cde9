"""A list of runs: what varies, how far each came, as a table on the terminal or as CSV."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowrank.common.terminal import aligned, column_widths
from lowrank.common.texts import csv_text, printable, shortened
from lowrank.views.table.fields import differing, plain, text
from lowrank.views.table.rows import Definition, RunRow

WIDTH = 80
"""Columns of the terminal that the table is made for."""

_LONGEST_ID = 20  # a longer one has a line of its own
_GAP = 2


def entries_of(rows: Sequence[RunRow]) -> list[dict[str, Any]]:
    """Returns what is said of every run.

    Args:
        rows: The runs.

    Returns:
        For each run by name: ``run``, ``state`` (collapsed and dead are states here), the settings
        that vary and the seed where it does, ``epoch`` (the last one measured) and ``epochs``,
        ``rank_first`` and ``rank_last``, ``test_accuracy``, ``path``. What is unknown is None.
    """
    fields, found = differing(rows)
    return [
        {
            "run": row.id,
            "state": row.end,
            **{name: each.get(name, plain(row.config.get(name))) for name in fields},
            "epoch": int(row.epochs[-1]) if row.epochs.size else None,
            "epochs": plain(row.config.get("epochs")),
            "rank_first": _number(row.ranks[:1]),
            "rank_last": _number(row.ranks[-1:]),
            "test_accuracy": _number(row.test_accuracy[-1:]),
            "path": str(row.path.parent),
        }
        for row, each in zip(rows, found, strict=True)
    ]


def to_csv(entries: Sequence[dict[str, Any]]) -> str:
    """Writes the entries as CSV.

    Args:
        entries: As `entries_of` gives them, at least one.

    Returns:
        A head and a line for each run; nothing where a value is unknown.
    """
    rows = (
        [str(list(v)) if isinstance(v, tuple) else v for v in entry.values()] for entry in entries
    )
    return csv_text([entries[0], *rows])


def table(entries: Sequence[dict[str, Any]], definition: Definition) -> str:
    """Lists runs for a terminal.

    Args:
        entries: As `entries_of` gives them, at least one.
        definition: Which rank they hold.

    Returns:
        Lines of at most 80 columns, while ids allow; settings that have no room there are named.
    """
    given = ("run", "state", "epoch", "epochs", "rank_first", "rank_last", "test_accuracy", "path")
    fields = [name for name in entries[0] if name not in given]
    ends = {
        "epoch": [_progress(entry) for entry in entries],
        "rank": [_ranks(entry) for entry in entries],
        "test %": [
            "-" if entry["test_accuracy"] is None else f"{100 * entry['test_accuracy']:.1f}"
            for entry in entries
        ],
    }
    columns = [
        (["run"], [printable(entry["run"], None) for entry in entries]),
        (["state"], [entry["state"] for entry in entries]),
    ]
    last = [([head], cells) for head, cells in ends.items()]
    left_out = []
    for name in fields:
        more = [*columns, (_head(name), [_short(entry[name]) for entry in entries])]
        widths = column_widths(_rows([*more, *last]), longest=_LONGEST_ID)
        if sum(widths) + _GAP * (len(widths) - 1) <= WIDTH:
            columns = more
        else:
            left_out.append(name)
    rows = _rows([*columns, *last])
    lines = aligned(rows, left=(0, 1), gap=_GAP, longest=_LONGEST_ID)
    count = f"{len(entries)} run{'s' if len(entries) > 1 else ''}"
    lines.append(f"{count}; rank: average over the counted layers, {definition}")
    same = [name for name in left_out if len({_short(e[name]) for e in entries}) > 1]
    if same:
        names = ", ".join(printable(name, None) for name in same)
        lines.append(f"in --csv and --json also: {names}")
    return "\n".join(lines)


def _rows(columns: Sequence[tuple[list[str], list[str]]]) -> list[tuple[str, ...]]:
    """Returns the rows of a table of heads, of one line or several, and the cells below them."""
    height = max(len(head) for head, _ in columns)
    padded = ([*[""] * (height - len(head)), *head, *cells] for head, cells in columns)
    return list(zip(*padded, strict=True))


def _head(name: str) -> list[str]:
    """Returns a setting's name on lines that are no wider than they must be."""
    words = printable(name, None).split("_")
    return [f"{word}_" for word in words[:-1]] + words[-1:]


def _short(value: Hashable) -> str:
    return shortened(text(value), 16)


def _progress(entry: dict[str, Any]) -> str:
    done = "-" if entry["epoch"] is None else str(entry["epoch"])
    return done if entry["epochs"] is None else f"{done}/{_short(entry['epochs'])}"


def _ranks(entry: dict[str, Any]) -> str:
    """Returns the first rank and the last one, which a collapsed network does not have."""
    first, last = (
        "-" if entry[name] is None else f"{entry[name]:.1f}" for name in ("rank_first", "rank_last")
    )
    return f"{first} → {last:>5}"


def _number(values: NDArray[np.float64]) -> float | None:
    """Returns the one value; None if there is none, or it is not finite."""
    return float(values[0]) if np.isfinite(values).any() else None
