"""The tables of figures as CSV, for those who draw or compute themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lowrank.common.texts import csv_text, known
from lowrank.views.figures.tables import (
    NUMBERS,
    CurvesTable,
    LandscapeTable,
    ScatterTable,
    Series,
)
from lowrank.views.table.rows import ACCURACIES


def scatter_csv(table: ScatterTable) -> str:
    """Writes what a scatter figure shows: a line per network.

    Args:
        table: As drawn.

    Returns:
        CSV with a head.
    """
    more = ["end", table.definition.column, "test_accuracy"]
    lines: list[list[Any]] = [_head("run", table.fields, more)]
    for place, run_id in enumerate(table.run_ids):
        values = ["" if each[place] is None else each[place] for each in table.values]
        numbers = [known(table.rank[place]), known(table.accuracy[place])]
        lines.append([run_id, *values, table.ends[place], *numbers])
    return csv_text(lines)


def curves_csv(table: CurvesTable) -> str:
    """Writes what a curves figure shows: a line per panel, curve and epoch.

    Args:
        table: As drawn.

    Returns:
        CSV with a head; the networks that are in no mean have their run's id and end.
    """
    more = ["run", "end", "seeds", "epoch"]
    for name in (table.definition.column, *ACCURACIES):
        more += [name, f"{name}_std"]
    # Without settings that differ, curves stand for runs: there is one column of their ids.
    lines: list[list[Any]] = [_head("panel", [table.by] if table.by else [], more)]
    for title, found in table.panels:
        for curve in found:
            label = [table.labels[curve.value]] if table.by else []
            if curve.mean is not None and curve.deviation is not None:
                start = [title, *label, "", "finished", curve.seeds]
                lines += [start + row for row in _columns(curve.mean, curve.deviation)]
            if curve.published is not None:
                start = [title, *label, "", "published", 1]
                lines += [start + row for row in _columns(curve.published, None)]
            for lone in curve.lone:
                start = [title, *label, lone.run_id, lone.end, 1]
                lines += [start + row for row in _columns(lone.series, None)]
    return csv_text(lines)


def _head(first: str, settings: Sequence[str], more: Sequence[str]) -> list[str]:
    """Returns the names of all columns; a setting's that another has already is said to be one."""
    others = [first, *more]
    return [first, *(f"setting {n}" if n in others else n for n in settings), *more]


def _columns(mean: Series, deviation: Series | None) -> list[list[Any]]:
    columns: list[Any] = [[f"{epoch:.12g}" for epoch in mean.epochs]]
    for name in ("rank", *ACCURACIES):
        columns.append([known(value) for value in getattr(mean, name)])
        spread = getattr(deviation, name) if deviation else np.full(len(mean.epochs), np.nan)
        columns.append([known(value) for value in spread])
    return [list(row) for row in zip(*columns, strict=True)]


def landscape_csv(table: LandscapeTable) -> str:
    """Writes what a landscape shows: a line per panel and cell.

    Args:
        table: As drawn.

    Returns:
        CSV with a head.
    """
    column = table.definition.column
    more = [column, f"{column}_std", "seeds", "collapsed_or_dead", "unfinished"]
    more += ["test_accuracy", "test_accuracy_std"]
    lines: list[list[Any]] = [_head("panel", [table.x, table.y], more)]
    for cells in table.panels:
        for y, x in np.ndindex(cells.rank.shape):
            counts = [int(c[y, x]) for c in (cells.seeds, cells.collapsed, cells.unfinished)]
            found = [known(getattr(cells, name).item(y, x)) for name in NUMBERS]
            place = [cells.title, table.x_labels[x], table.y_labels[y]]
            lines.append([*place, *found[:2], *counts, *found[2:]])
    return csv_text(lines)
