"""Published values beside those of runs as a table: on a terminal, as CSV, in Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lowrank.common.terminal import aligned
from lowrank.common.texts import csv_text, known
from lowrank.views.published import ACCURACY_TOLERANCE, RANK_TOLERANCE
from lowrank.views.published.comparison import Comparison, Row
from lowrank.views.published.figures import FIGURES, Point
from lowrank.views.table.fields import text, words

_SAID = ("lr", "weight_decay", "batch_size")  # what a title has of the settings
_HEADS = ("panel", "", "value", "published", "ours", "runs", "difference", "within")


@dataclass(frozen=True)
class Tolerance:
    """How far our mean may be from a published value and still count as it.

    Attributes:
        rank: In per cent of full rank.
        accuracy: In per cent of the examples.
    """

    rank: float = RANK_TOLERANCE
    accuracy: float = ACCURACY_TOLERANCE

    def holds(self, row: Row) -> bool:
        """Returns whether a value is within it.

        Args:
            row: The value.
        """
        return row.is_within(self.rank if row.is_rank else self.accuracy)

    def __str__(self) -> str:
        return (
            f"ranks within {self.rank:g} % of full rank, accuracies within {self.accuracy:g} points"
        )


def title(comparison: Comparison) -> str:
    """Says what is compared.

    Args:
        comparison: Of the points of one figure.

    Returns:
        A line.
    """
    number = comparison.points[0].figure
    figure = FIGURES[number]
    used = comparison.epsilon or figure.epsilon
    epsilon = f"ε = {used:g}"
    if used != figure.epsilon:
        epsilon += f" (the figure's is {figure.epsilon:g})"
    fixed = {name: value for name, value in figure.fixed.items() if name in _SAID}
    told = [figure.network, *(f"{words(name)} {text(value)}" for name, value in fixed.items())]
    settings = comparison.points[0].settings
    changed = [
        f"{name}={text(value)} ({text(settings[name])})"
        for name, value in comparison.instead.items()
    ]
    more = f"; in place of the figure's: {', '.join(changed)}" if changed else ""
    return f"Figure {number}: {', '.join(told)}; {epsilon}{more}"


def summary(comparison: Comparison, tolerance: Tolerance) -> str:
    """Counts the values that agree.

    Args:
        comparison: Of published points and runs.
        tolerance: What agreeing means.

    Returns:
        A line.
    """
    rows = comparison.rows
    with_run = sum(bool(found) for found in comparison.readings)
    points = f"{with_run} of {len(comparison.points)} points have runs"
    if not rows:
        return points
    within = sum(tolerance.holds(row) for row in rows)
    return f"{points}; of their {len(rows)} values {within} agree ({tolerance})"


def as_text(comparison: Comparison, tolerance: Tolerance) -> str:
    """Makes a table for a terminal.

    Args:
        comparison: Of published points and runs.
        tolerance: What the last column means.

    Returns:
        Lines; the table is left out where no point has a run.
    """
    rows = comparison.rows
    lines = [title(comparison)]
    if rows:
        heads = list(_HEADS)
        heads[1] = words(rows[0].point.x_name)
        cells = _without_repetitions([_cells(row, tolerance) for row in rows])
        lines += aligned([heads, *cells], left=(0, 2))
    return "\n".join([*lines, f"{summary(comparison, tolerance)}."])


def notes(comparison: Comparison) -> list[str]:
    """Returns what a reader must know.

    Args:
        comparison: Of published points and runs.

    Returns:
        Lines on runs, then on points.
    """
    return [*comparison.lines, *comparison.missing]


def as_markdown(comparison: Comparison, tolerance: Tolerance) -> str:
    """Makes a table for a page.

    Args:
        comparison: Of published points and runs.
        tolerance: What the last column means.

    Returns:
        Markdown; nothing but heads where no point has a run.
    """
    heads = list(_HEADS)
    heads[1] = words(comparison.points[0].x_name)
    table = [heads, ["---", "---:", "---", *["---:"] * 4, "---"]]
    table += _without_repetitions([_cells(row, tolerance) for row in comparison.rows])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in table)


def as_csv(comparisons: Sequence[Comparison], tolerance: Tolerance) -> str:
    """Writes the numbers: a line for each published value.

    Args:
        comparisons: A figure each.
        tolerance: What the last column means.

    Returns:
        CSV with a head; nothing where a number is not known. Accuracies are 0..1.
    """
    lines: list[list[object]] = [
        ["figure", "panel", "setting", "x", "series", "published", "ours", "sd", "runs",
         "without_rank", "difference", "within"]
    ]  # fmt: skip
    for comparison in comparisons:
        for row in comparison.rows:
            point, gone = row.point, len(row.ours) - len(row.with_value)
            numbers = [known(each) for each in (row.mean, row.deviation)]
            lines.append(
                [point.figure, point.panel, point.x_name, point.x, row.series,
                 known(row.published), *numbers, len(row.ours), gone,
                 known(row.difference), tolerance.holds(row)]
            )  # fmt: skip
    return csv_text(lines)


def listing(points: Sequence[Point], comparisons: Sequence[Comparison]) -> str:
    """Lists figures.

    Args:
        points: All published ones.
        comparisons: A figure each; of none nothing is said of runs.

    Returns:
        Lines: each figure, what was trained, its ε, its points and how many of them have runs.
    """
    found = {
        each.points[0].figure: sum(map(bool, each.readings)) for each in comparisons if each.points
    }
    heads = ["figure", "network", "panels", "ε", "points", *(["with runs"] if found else [])]
    cells = []
    for number, figure in FIGURES.items():
        count = sum(point.figure == number for point in points)
        shown = [
            number,
            figure.network,
            ", ".join(panel.partition(":")[0] for panel in figure.panels),
        ]
        cells.append(
            [*shown, f"{figure.epsilon:g}", str(count), *([str(found[number])] if found else [])]
        )
    return "\n".join(aligned([heads, *cells], left=(0, 1, 2)))


def values(points: Sequence[Point]) -> str:
    """Lists what was published of a figure.

    Args:
        points: Of one figure.

    Returns:
        Lines: a row for each point.
    """
    series = list(points[0].values)
    heads = [
        "panel",
        words(points[0].x_name),
        *(name.replace("_accuracy", " %") for name in series),
    ]
    cells = _without_repetitions(
        [
            [point.panel, text(point.x), *(_shown(Row(point, name, (), 1.0)) for name in series)]
            for point in points
        ],
        columns=1,
    )
    return "\n".join([title(Comparison(points, ())), *aligned([heads, *cells])])


def _cells(row: Row, tolerance: Tolerance) -> list[str]:
    gone = len(row.ours) - len(row.with_value)
    scale = 1 if row.is_rank else 100
    ours = "no rank" if not row.with_value else f"{scale * row.mean:.1f}"
    if not math.isnan(row.deviation):
        ours += f" ± {scale * row.deviation:.1f}"
    count = (
        str(len(row.ours)) if not gone or not row.with_value else f"{len(row.ours)}, {gone} died"
    )
    has_both = not math.isnan(row.difference)
    return [
        row.point.panel,
        text(row.point.x),
        row.series.replace("_accuracy", " accuracy %"),
        _shown(row),
        ours,
        count,
        f"{scale * row.difference:+.1f}" if has_both else "",
        "yes" if tolerance.holds(row) else "no",
    ]


def _shown(row: Row) -> str:
    """Returns the published value in words."""
    if math.isnan(row.published):
        return "died"
    return f"{row.published:.1f}" if row.is_rank else f"{100 * row.published:.1f}"


def _without_repetitions(rows: Sequence[list[str]], columns: int = 2) -> list[list[str]]:
    """Returns rows whose first cells are empty where they are those of the row above."""
    shown, above = [], list[str]()
    for row in rows:
        same = 0
        while above and same < columns and row[same] == above[same]:
            same += 1
        shown.append([""] * same + row[same:])
        above = row
    return shown
