"""From the points of a sweep to the tables that are drawn: curves over epochs, landscapes."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lowrank.runs.lost import NO_RANK
from lowrank.views.figures.averages import averaged
from lowrank.views.figures.layout import ByValue, Layout
from lowrank.views.published.comparison import missed
from lowrank.views.published.figures import Point as Published
from lowrank.views.published.figures import compared
from lowrank.views.table.fields import settings
from lowrank.views.table.points import Point
from lowrank.views.table.rows import ACCURACIES, Definition, Floats, RunRow

WITHOUT_RANK = "collapsed or dead: no rank"
"""How a legend says so."""

NUMBERS = ("rank", "deviation", "accuracy", "accuracy_deviation")
"""What `Cells` has of each cell beside counts."""


@dataclass(frozen=True)
class Series:
    """Ranks and accuracies over the measured epochs.

    Attributes:
        epochs: Shape (E,), ascending; fractions within epochs.
        rank: Average rank, shape (E,); NaN where there is none.
        train_accuracy: Shape (E,), 0..1; NaN where not recorded.
        test_accuracy: Shape (E,), 0..1; NaN where not recorded.
    """

    epochs: Floats
    rank: Floats
    train_accuracy: Floats
    test_accuracy: Floats

    @classmethod
    def of(cls, row: RunRow) -> Series:
        """Takes what a run has at the ends of epochs and, without accuracies, within them.

        Args:
            row: Of the run.

        Returns:
            The series.
        """
        absent = np.full(len(row.times), np.nan)
        order = np.argsort(np.concatenate([row.epochs, row.times]), kind="stable")
        columns = ((row.ranks, row.between), *((getattr(row, name), absent) for name in ACCURACIES))
        return cls(
            np.concatenate([row.epochs, row.times])[order],
            *(np.concatenate(parts)[order] for parts in columns),
        )

    @property
    def at_ends(self) -> Series:
        """That of the ends of epochs alone."""
        ends = self.epochs == np.round(self.epochs)
        return Series(
            self.epochs[ends],
            self.rank[ends],
            *(getattr(self, name)[ends] for name in ACCURACIES),
        )


@dataclass(frozen=True)
class Lone:
    """A network that is in no mean, as it collapsed, died or is not finished.

    Attributes:
        run_id: Its run.
        end: collapsed, dead, running, stopped, failed or killed.
        series: What was measured of it.
    """

    run_id: str
    end: str
    series: Series


@dataclass(frozen=True)
class Curve:
    """One point of a sweep: the mean over its finished networks, and the others one by one.

    Attributes:
        value: Place among the values that curves stand for.
        seeds: Number of networks in the mean.
        mean: Over these networks, at the epochs that all have; None for no network.
        deviation: Sample standard deviations; NaN for a single network.
        lone: The networks that are not in the mean.
        published: What was published of a run with these settings: one epoch, NaN for a network
            that died. None where nothing was, or is not asked for.
    """

    value: int
    seeds: int
    mean: Series | None
    deviation: Series | None
    lone: tuple[Lone, ...]
    published: Series | None = None

    @property
    def series(self) -> list[Series]:
        """What is drawn: the mean, if there is one, and the others."""
        means = [] if self.mean is None else [self.mean]
        return [*means, *(lone.series for lone in self.lone)]


@dataclass(frozen=True)
class CurvesTable(ByValue):
    """Average rank and accuracies over epochs, by the value of a setting.

    Attributes:
        panels: Title and curves of each panel.
        definition: Which rank.
        full_rank: The largest possible average rank; NaN where it differs between runs.
    """

    panels: Sequence[tuple[str, Sequence[Curve]]]
    definition: Definition
    full_rank: float


@dataclass(frozen=True)
class ScatterTable:
    """Ranks at one epoch, network by network, against each setting that varies.

    Attributes:
        fields: The settings.
        values: Of each setting, as many as there are networks.
        rank: Shape (N,); NaN for none.
        accuracy: Of the test set, shape (N,), 0..1; NaN where not recorded.
        ends: How each network ended.
        run_ids: Their runs.
        epoch: Where the ranks are from; None for each run's last epoch.
        definition: Which rank.
        full_rank: The largest possible average rank; NaN where it differs between runs.
    """

    fields: Sequence[str]
    values: Sequence[Sequence[Hashable]]
    rank: Floats
    accuracy: Floats
    ends: Sequence[str]
    run_ids: Sequence[str]
    epoch: int | None
    definition: Definition
    full_rank: float


@dataclass(frozen=True)
class Cells:
    """Ranks at one epoch over two settings, one panel of a landscape.

    Attributes:
        title: What this panel has for itself, in words; may be empty.
        rank: Mean over the networks that have one, shape (Y, X); NaN for none.
        deviation: Sample standard deviation, shape (Y, X); NaN for fewer than two networks.
        seeds: Number of these networks, shape (Y, X).
        collapsed: Number of collapsed or dead networks, shape (Y, X).
        unfinished: Number of networks that are not finished, shape (Y, X).
        accuracy: Mean test accuracy over the networks that have a rank, shape (Y, X); NaN for none.
        accuracy_deviation: Sample standard deviation, shape (Y, X); NaN for fewer than two.
    """

    title: str
    rank: Floats
    deviation: Floats
    seeds: Floats
    collapsed: Floats
    unfinished: Floats
    accuracy: Floats
    accuracy_deviation: Floats


@dataclass(frozen=True)
class LandscapeTable:
    """The rank landscape over two settings.

    Attributes:
        title: What is the same in all panels, in words; may be empty.
        x: The setting on the x-axis, in words.
        y: The setting on the y-axis, in words.
        x_labels: Its values in words, X of them.
        y_labels: Its values in words, Y of them.
        panels: At least one.
        epoch: Where the ranks are from; None for each run's last epoch.
        definition: Which rank.
        full_rank: The largest possible average rank; NaN where it differs between runs.
    """

    title: str
    x: str
    y: str
    x_labels: Sequence[str]
    y_labels: Sequence[str]
    panels: Sequence[Cells]
    epoch: int | None
    definition: Definition
    full_rank: float = np.nan


def curves_table(
    points: Sequence[Point],
    layout: Layout,
    definition: Definition,
    published: Sequence[Published] = (),
) -> CurvesTable:
    """Makes the table of one curves figure.

    Args:
        points: Those that the layout was chosen for.
        layout: What curves and panels stand for; its `across` are the curves.
        definition: Which rank the points' rows hold.
        published: Points that are drawn beside curves of their settings.

    Returns:
        The table, without panels that have no run.
    """
    panels = []
    for title, members in layout.panels(points):
        found = [
            replace(_curve(place, point), published=_published(point, published))
            for place in range(len(layout.across.levels))
            for point in members
            if layout.across.place(point.values) == place and point.rows
        ]
        if found:
            panels.append((title, found))
    return CurvesTable(
        **layout.by_value(),
        panels=panels,
        definition=definition,
        full_rank=_full_rank(row for point in points for row in point.rows),
    )


def published_words(table: CurvesTable, figure: str) -> str:
    """Says how many curves have a published value beside them.

    Args:
        table: As drawn.
        figure: Its number.

    Returns:
        Words.
    """
    count = sum(curve.published is not None for _, found in table.panels for curve in found)
    return (
        f"beside {count or 'no'} point{'' if count == 1 else 's'} of the published figure {figure}"
    )


def _published(point: Point, published: Sequence[Published]) -> Series | None:
    """Returns what was published of a run with the settings of a point."""
    own = [compared(settings(row)) for row in point.rows]
    found = [each for each in published if any(not missed(each, has) for has in own)]
    if not found:
        return None
    (first, *_), one = found, np.ones(1)
    rank = np.nan if first.died else first.values.get("mean", np.nan)
    return Series(one * first.epoch, one * rank, *(one * first.values[n] for n in ACCURACIES))


def _full_rank(rows: Iterable[RunRow]) -> float:
    """Returns the full rank that all runs have; NaN where they differ."""
    full = {row.full_rank for row in rows}
    return full.pop() if len(full) == 1 else np.nan


def _curve(value: int, point: Point) -> Curve:
    lone = tuple(
        Lone(row.id, row.end, Series.of(row)) for row in point.rows if row.end != "finished"
    )
    whole = [row for row in point.rows if row.end == "finished"]
    if not whole:
        return Curve(value, 0, None, None, lone)
    series = [Series.of(row) for row in whole]
    columns = [[getattr(each, name) for each in series] for name in ("rank", *ACCURACIES)]
    epochs, means, spreads = averaged([each.epochs for each in series], columns)
    return Curve(value, len(whole), Series(epochs, *means), Series(epochs, *spreads), lone)


def landscape_table(
    points: Sequence[Point], layout: Layout, definition: Definition, epoch: int | None = None
) -> LandscapeTable:
    """Makes the table of one landscape.

    Args:
        points: Those that the layout was chosen for.
        layout: Its `across` is the x-axis, its `up` the y-axis.
        definition: Which rank the points' rows hold.
        epoch: Where the ranks are from; None for each run's last epoch.

    Returns:
        The table.
    """
    assert layout.up is not None
    across, up = layout.across, layout.up
    panels = []
    for title, members in layout.panels(points):
        shape = (len(up.levels), len(across.levels))
        counts = {name: np.zeros(shape) for name in ("seeds", "collapsed", "unfinished")}
        numbers = {name: np.full(shape, np.nan) for name in NUMBERS}
        for point in members:
            x, y = across.place(point.values), up.place(point.values)
            if x is None or y is None:
                continue
            found, accuracies = [], []
            for row in point.rows:
                has_value = epoch is not None or row.end == "finished"
                value = _at(row, row.ranks, epoch) if has_value else np.nan
                if np.isfinite(value):
                    found.append(value)
                    accuracies.append(_at(row, row.test_accuracy, epoch))
                else:
                    kind = "collapsed" if row.end in NO_RANK else "unfinished"
                    counts[kind][y, x] += 1
            counts["seeds"][y, x] = len(found)
            for name, spread, values in (
                ("rank", "deviation", found),
                ("accuracy", "accuracy_deviation", accuracies),
            ):
                if values:
                    numbers[name][y, x] = np.mean(values)
                if len(values) > 1:
                    numbers[spread][y, x] = np.std(values, ddof=1)
        if any(count.any() for count in counts.values()):
            panels.append(Cells(title, **counts, **numbers))
    return LandscapeTable(
        title=layout.title,
        x=across.name,
        y=up.name,
        x_labels=across.labels,
        y_labels=up.labels,
        panels=panels,
        epoch=epoch,
        definition=definition,
        full_rank=_full_rank(row for point in points for row in point.rows),
    )


def _at(row: RunRow, values: Floats, epoch: int | None) -> float:
    """Returns a value at an epoch, or the last one; NaN if there is none."""
    if epoch is None:
        return float(values[-1]) if values.size else np.nan
    places = np.flatnonzero(row.epochs == epoch)
    return float(values[places[0]]) if places.size else np.nan


def scatter_table(
    points: Sequence[Point],
    fields: Sequence[str],
    definition: Definition,
    epoch: int | None = None,
) -> ScatterTable:
    """Makes the table of ranks against every setting.

    Args:
        points: Of the sweep.
        fields: The settings that vary.
        definition: Which rank the points' rows hold.
        epoch: Where the ranks are from; None for each network's last one.

    Returns:
        The table; of a network that is not finished the last rank that it has.
    """
    found = [(point.values, row) for point in points for row in point.rows]

    return ScatterTable(
        fields=fields,
        values=[[values[place] for values, _ in found] for place in range(len(fields))],
        rank=np.array([_at(row, row.ranks, epoch) for _, row in found]),
        accuracy=np.array([_at(row, row.test_accuracy, epoch) for _, row in found]),
        ends=[row.end for _, row in found],
        run_ids=[row.id for _, row in found],
        epoch=epoch,
        definition=definition,
        full_rank=_full_rank(row for _, row in found),
    )
