"""A list of runs, or of points, as a table on the terminal or as CSV."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from lowrank.common.terminal import aligned, column_widths, duration
from lowrank.common.texts import csv_text, printable, shortened
from lowrank.views.table.entries import GIVEN, MEANS, Entry
from lowrank.views.table.fields import text
from lowrank.views.table.rows import Definition

WIDTH = 80
"""Columns of the table where it goes to no terminal."""

_LONGEST_ID = 20  # a longer one has a line of its own
_GAP = 2
_OF_GROUPS = ("runs", *(f"{name}_sd" for name in MEANS))

Column = tuple[list[str], list[str]]
"""The lines of a head, and the cells."""


def to_csv(entries: Sequence[Entry]) -> str:
    """Writes the entries as CSV.

    Args:
        entries: As `lowrank.views.table.entries` gives them, at least one.

    Returns:
        A head and a line for each run; nothing where a value is unknown.
    """
    rows = (
        [str(list(v)) if isinstance(v, tuple) else v for v in entry.values()] for entry in entries
    )
    return csv_text([entries[0], *rows])


def table(entries: Sequence[Entry], definition: Definition, width: int = WIDTH) -> str:
    """Lists runs, or points with means over seeds, for a terminal.

    Args:
        entries: As `lowrank.views.table.entries` gives them, at least one.
        definition: Which rank they hold.
        width: Columns of the terminal.

    Returns:
        Lines no longer than that, while ids allow; settings that have no room there are named. Best
        accuracy, e-folds and time stand there if all else has room.
    """
    names = list(entries[0])
    is_grouped = "runs" in names
    is_chosen = not is_grouped and "path" not in names
    ends = {"state": "state", "runs": "runs"} if is_grouped else {"epoch": "epoch"}
    ends |= {"rank": "rank_last", "test %": "test_accuracy"}
    further = {"best %": "test_accuracy_best", "e-folds": "efolds", "time": "seconds"}
    columns = [] if is_grouped else [_column(entries, name) for name in ("run", "state")]
    last = [] if is_chosen else [_column(entries, name, head) for head, name in ends.items()]
    spare = [
        _column(entries, name, head)
        for head, name in further.items()
        if not is_chosen and any(entry[name] is not None for entry in entries)
    ]
    given = {*GIVEN, *_OF_GROUPS} - ({"epochs"} if is_grouped else set())
    settings = names[2:] if is_chosen else [name for name in names if name not in given]
    left_out = []
    for name in settings:
        more = [*columns, _column(entries, name)]
        if _fits([*more, *last], width):
            columns = more
        else:
            left_out.append(name)
    while not left_out and spare and _fits([*columns, *last, spare[0]], width):
        last.append(spare.pop(0))
    heads = [head for head, _ in [*columns, *last]]
    left = [place for place, head in enumerate(heads) if head in (["run"], ["state"])]
    lines = aligned(_rows([*columns, *last]), left=left, gap=_GAP, longest=_LONGEST_ID)
    what = "point" if is_grouped else "run"
    count = f"{len(entries)} {what}{'s' if len(entries) > 1 else ''}"
    if "rank_last" in names:
        count += f"; rank: average over the counted layers, {definition}"
    lines.append(count + ("; mean ± sd over the finished runs" if is_grouped else ""))
    same = [name for name in left_out if len({_short(e[name]) for e in entries}) > 1]
    if same:
        told = ", ".join(printable(name, None) for name in same)
        lines.append(f"in --csv and --json also: {told}")
    return "\n".join(lines)


def _column(entries: Sequence[Entry], name: str, head: str = "") -> Column:
    """Returns a column: of what an entry always has, as people read it; else its values."""
    shown: dict[str, Callable[[Entry], str]] = {
        "run": lambda entry: printable(entry["run"], None),
        "state": lambda entry: entry["state"] + (", rerun" if entry.get("rerun_of") else ""),
        "epoch": _progress,
        "rank_last": _ranks,
        "test_accuracy": lambda entry: _mean(entry, "test_accuracy", 100),
        "test_accuracy_best": lambda entry: _mean(entry, "test_accuracy_best", 100),
        "efolds": lambda entry: "-" if entry["efolds"] is None else f"{entry['efolds']:.3g}",
        "seconds": lambda entry: "-" if entry["seconds"] is None else duration(entry["seconds"]),
    }
    value: Callable[[Entry], str] = lambda entry: _short(entry[name])  # noqa: E731
    cell = shown.get(name, value)
    return [head] if head else _head(name), [cell(entry) for entry in entries]


def _fits(columns: Sequence[Column], width: int) -> bool:
    widths = column_widths(_rows(columns), longest=_LONGEST_ID)
    return sum(widths) + _GAP * (len(widths) - 1) <= width


def _rows(columns: Sequence[Column]) -> list[tuple[str, ...]]:
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
    return done if entry.get("epochs") is None else f"{done}/{_short(entry['epochs'])}"


def _ranks(entry: dict[str, Any]) -> str:
    """Returns the first rank and the last one, which a collapsed network does not have."""
    if "rank_last_sd" in entry or "rank_first" not in entry:
        return _mean(entry, "rank_last")
    first, last = (
        "-" if entry[name] is None else f"{entry[name]:.1f}" for name in ("rank_first", "rank_last")
    )
    return f"{first} → {last:>5}"


def _mean(entry: Entry, name: str, scale: int = 1) -> str:
    """Returns a number, with its deviation where it is a mean."""
    if entry[name] is None:
        return "-"
    spread = entry.get(f"{name}_sd")
    return f"{scale * entry[name]:.1f}" + ("" if spread is None else f" ± {scale * spread:.1f}")
