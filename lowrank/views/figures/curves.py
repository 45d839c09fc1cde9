"""Average rank over epochs by the value of a setting, with the accuracies below."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lowrank.runs.lost import NO_RANK
from lowrank.views.figures.style import (
    TEXT,
    TICKS,
    Frame,
    band,
    band_key,
    dress,
    from_zero,
    full_rank,
    in_lines,
    key_below,
    tight,
)
from lowrank.views.figures.tables import Curve, CurvesTable, Series
from lowrank.views.table.rows import ACCURACIES

_MARKERS_PER_CURVE = 5
_MANY_EPOCHS = 150  # whose noise would be a block of ink
_DASHES = (0, (3, 1.5))
_PUBLISHED: dict[str, Any] = {
    "linestyle": "none", "marker": "*", "markersize": 8, "markerfacecolor": "white",
    "markeredgewidth": 1, "zorder": 6, "clip_on": False,
}  # fmt: skip


def curves_figure(
    table: CurvesTable, width: float | None = None, height: float | None = None
) -> Figure:
    """Draws the curves: a panel of ranks above one of accuracies, for each value of `by_panel`.

    The mean over finished networks is a thick line with its sample standard deviation as a band.
    A network that collapsed, died or is not finished is in no mean: it has a thin line that ends
    in ×, where it lost its rank, or in a circle. Published values are hollow stars.

    Args:
        table: What to draw, with at least one panel.
        width: In inches; by default one column of a page, or two where there are many panels.
        height: In inches; by default as the number of panels needs it.

    Returns:
        The figure.
    """
    count = len(table.panels)
    frame = Frame.of(table, count, width)
    columns, rows = frame.columns, frame.rows
    has_accuracy = shows_accuracy(table)
    tall = 0.65 + 0.16 * frame.lines + rows * (2.65 if has_accuracy else 1.85)
    figure = Figure(figsize=(frame.width, height or tall), layout=tight())
    ratios = [2.2, 1] * rows if has_accuracy else [1] * rows
    grid = figure.add_gridspec(len(ratios), columns, height_ratios=ratios)
    upper: list[Axes] = []
    lower: list[Axes] = []
    for place, (title, found) in enumerate(table.panels):
        row, column = divmod(place, columns)
        kinds = 2 if has_accuracy else 1
        above = figure.add_subplot(
            grid[kinds * row, column], sharex=upper[0] if upper else None,
            sharey=upper[0] if upper else None,
        )  # fmt: skip
        upper.append(above)
        below = None
        if has_accuracy:
            below = figure.add_subplot(
                grid[2 * row + 1, column], sharex=above, sharey=lower[0] if lower else None
            )
            lower.append(below)
        for curve in found:
            style = {"color": frame.shades[curve.value], "marker": frame.marker(curve.value)}
            _draw(above, below, curve, style, len(table.labels))
            if curve.published is not None:
                _draw_published(above, below, curve.published, style)
        if title:
            above.set_title(frame.title(title), fontsize=TEXT, pad=3)
        _name_axes(above, below, column == 0, place + columns >= count, table)
    of_full = full_rank(upper, table.full_rank)
    if not table.definition.metric:
        from_zero(upper[0])
    if lower:
        lower[0].set_ylim(0, 103)
    if table.title and count == 1:
        upper[0].set_title(in_lines(table.title, 44), fontsize=TEXT, pad=3)
    elif table.title and len(table.labels) == 1:
        figure.suptitle(table.title, fontsize=TEXT)
    frame.name_values(figure, [*upper, *lower], table, table.title if count > 1 else "")
    _key(figure, table, of_full)
    return figure


def shows_accuracy(table: CurvesTable) -> bool:
    """Returns whether any network's accuracy was recorded; without, there is no panel of it."""
    return any(_shown(table, name) for name in ACCURACIES)


def _shown(table: CurvesTable, name: str) -> bool:
    """Returns whether any curve has an accuracy."""
    curves = (curve for _, found in table.panels for curve in found)
    each = (getattr(series, name) for curve in curves for series in curve.series)
    return any(np.isfinite(values).any() for values in each)


def _draw(above: Axes, below: Axes | None, curve: Curve, style: dict[str, Any], count: int) -> None:
    """Draws one point of the sweep into both panels: its mean, and thin what is in no mean."""
    shade = style["color"]
    if curve.mean is not None and curve.deviation is not None:
        mean, spread = curve.mean, curve.deviation
        wide = 1.3 if len(mean.epochs) <= _MANY_EPOCHS else 0.9
        marks = partial(_marks, curve.value, count)
        _lines(above, below, mean, (wide, 1.1, 0.8), marks, {**style, "markersize": 3})
        band(above, mean.epochs, mean.rank, spread.rank, shade)
        if below is not None:
            ends, around = mean.at_ends, spread.at_ends
            band(below, ends.epochs, 100 * ends.test_accuracy, 100 * around.test_accuracy, shade)
    for lone in curve.lone:
        series = lone.series
        marks = partial(_marks, curve.value, count)
        _lines(above, below, series, (0.6, 0.6, 0.5), marks, {**style, "markersize": 2})
        known = np.flatnonzero(np.isfinite(series.rank))
        if known.size:  # a mark where its ranks end
            end = (series.epochs[known[-1]], series.rank[known[-1]])
            mark = _mark(lone.end)
            above.plot(*end, color=shade, linestyle="none", clip_on=False, zorder=5, **mark)


def _draw_published(above: Axes, below: Axes | None, values: Series, style: dict[str, Any]) -> None:
    """Draws the rank and both accuracies that were published of a run with these settings."""
    look = {**_PUBLISHED, "color": style["color"]}
    above.plot(values.epochs, values.rank, **look)
    if below is not None:
        below.plot(values.epochs, 100 * values.test_accuracy, **look)
        below.plot(values.epochs, 100 * values.train_accuracy, **look)


def _lines(
    above: Axes,
    below: Axes | None,
    series: Series,
    widths: tuple[float, float, float],
    marks: Callable[[int], list[int]],
    style: dict[str, Any],
) -> None:
    """Draws ranks, test and train accuracies in lines of some widths."""
    places = marks(len(series.epochs))
    above.plot(series.epochs, series.rank, linewidth=widths[0], markevery=places, **style)
    if below is not None:
        ends = series.at_ends
        test = (ends.test_accuracy, "-", widths[1], marks(len(ends.epochs)))
        train = (ends.train_accuracy, _DASHES, widths[2], list[int]())
        for values, line, width, places in (test, train):
            if np.isfinite(values).any():
                below.plot(
                    ends.epochs, 100 * values, linestyle=line, linewidth=width,
                    markevery=places, **style,
                )  # fmt: skip


def _mark(end: str) -> dict[str, Any]:
    """Returns what stands at the end of a curve that is in no mean."""
    if end in NO_RANK:
        return {"marker": "x", "markersize": 6, "markeredgewidth": 1.6}
    return {"marker": "o", "markersize": 5, "markerfacecolor": "white", "markeredgewidth": 1}


def _marks(place: int, count: int, epochs: int) -> list[int]:
    """Returns where a curve has markers: a few, elsewhere than its neighbours."""
    if epochs <= _MARKERS_PER_CURVE:
        return list(range(epochs))
    step = (epochs - 1) / _MARKERS_PER_CURVE
    start = step * (place + 0.5) / max(1, count)
    return [round(start + step * number) for number in range(_MARKERS_PER_CURVE)]


def _name_axes(
    above: Axes, below: Axes | None, first: bool, last: bool, table: CurvesTable
) -> None:
    for axes in (above, *([below] if below else [])):
        dress(axes)
        axes.tick_params(labelleft=first)
    above.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    if first:
        above.set_ylabel(table.definition.label, fontsize=TEXT)
    lowest = below or above
    if below:
        above.tick_params(labelbottom=False)
    lowest.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    if first and below:
        below.set_ylabel("accuracy (%)", fontsize=TEXT)
    if last:
        lowest.set_xlabel("epoch", fontsize=TEXT)
    else:
        lowest.tick_params(labelbottom=True)
    if below and not below.lines:
        below.text(
            0.5, 0.5, "no accuracy recorded", transform=below.transAxes, fontsize=TICKS,
            ha="center", va="center", color="0.4",
        )  # fmt: skip


def _key(figure: Figure, table: CurvesTable, of_full: Sequence[Any]) -> None:
    """Names the kinds of line below the panels."""
    curves = [curve for _, found in table.panels for curve in found]
    key: list[tuple[Any, str]] = []
    grey: dict[str, Any] = {"color": "0.25", "linewidth": 1.1}
    if _shown(table, "test_accuracy"):
        key.append((Line2D([], [], **grey), "test"))
    if _shown(table, "train_accuracy"):
        key.append((Line2D([], [], linestyle=_DASHES, **grey), "train"))
    key += of_full
    ends = {lone.end if lone.end in NO_RANK else "" for curve in curves for lone in curve.lone}
    without = [word for word in NO_RANK if word in ends]
    if without:
        cross = Line2D([], [], color="0.25", linestyle="none", **_mark(without[0]))
        key.append((cross, f"{' or '.join(without)}: no rank from there on"))
    if "" in ends:
        circle = Line2D([], [], color="0.25", linestyle="none", **_mark("running"))
        key.append((circle, "not finished"))
    if any(curve.published is not None for curve in curves):
        key.append((Line2D([], [], color="0.25", **_PUBLISHED), "published"))
    key += band_key([curve.seeds for curve in curves if curve.seeds])
    key_below(figure, key, 1.05)
