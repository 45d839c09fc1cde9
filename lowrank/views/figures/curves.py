"""Average rank over epochs by the value of a setting, with the accuracies below."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank.views.figures.style import (
    COLUMN_WIDTH,
    PAGE_WIDTH,
    TEXT,
    TICKS,
    by_rows,
    colours,
    dress,
    in_lines,
    marker,
    tight,
)
from lowrank.views.figures.tables import NO_RANK, Curve, CurvesTable, Lone
from lowrank.views.table.rows import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS_PER_CURVE = 5
_MANY_EPOCHS = 150  # whose noise would be a block of ink
_DASHES = (0, (3, 1.5))


def curves_figure(
    table: CurvesTable, width: float | None = None, height: float | None = None
) -> Figure:
    """Draws the curves: a panel of ranks above one of accuracies, for each value of `by_panel`.

    The mean over finished networks is a thick line with its sample standard deviation as a band.
    A network that collapsed, died or is not finished is in no mean: it has a thin line that ends
    in ×, where it lost its rank, or in a circle.

    Args:
        table: What to draw, with at least one panel.
        width: In inches; by default one column of a page, or two where there are many panels.
        height: In inches; by default as the number of panels needs it.

    Returns:
        The figure.
    """
    from matplotlib.figure import Figure

    count = len(table.panels)
    columns = count if count <= 4 else -(-count // 2) if count <= 8 else 4
    rows = -(-count // columns)
    wide = COLUMN_WIDTH if columns == 1 else PAGE_WIDTH
    legend = 0.16 * -(-len(table.labels) // 4)
    tall = 0.55 + legend + rows * 2.65
    figure = Figure(figsize=(width or wide, height or tall), layout=tight())
    grid = figure.add_gridspec(2 * rows, columns, height_ratios=[2.2, 1] * rows)
    shades = colours(table.values)
    upper: list[Axes] = []
    lower: list[Axes] = []
    for place, (title, found) in enumerate(table.panels):
        row, column = divmod(place, columns)
        above = figure.add_subplot(
            grid[2 * row, column], sharex=upper[0] if upper else None,
            sharey=upper[0] if upper else None,
        )  # fmt: skip
        below = figure.add_subplot(
            grid[2 * row + 1, column], sharex=above, sharey=lower[0] if lower else None
        )
        upper.append(above)
        lower.append(below)
        for curve in found:
            _draw(above, below, curve, shades[curve.value], curve.value, len(table.labels))
        if title:
            room = int(figure.get_size_inches()[0] / columns / 0.068)  # characters
            above.set_title(in_lines(title, room), fontsize=TEXT, pad=3)
        _name_axes(above, below, column == 0, place + columns >= count, table)
    if np.isfinite(table.full_rank):
        for axes in upper:
            axes.axhline(table.full_rank, color="0.55", linestyle=":", linewidth=0.8, zorder=0)
    upper[0].set_ylim(bottom=0)
    lower[0].set_ylim(0, 103)
    if table.title and count == 1:
        upper[0].set_title(in_lines(table.title, 44), fontsize=TEXT, pad=3)
    elif table.title and len(table.labels) == 1:
        figure.suptitle(table.title, fontsize=TEXT)
    _legends(figure, table, shades)
    return figure


def _draw(above: Axes, below: Axes, curve: Curve, shade: Any, place: int, count: int) -> None:
    """Draws one point of the sweep into both panels."""
    if curve.mean is not None and curve.deviation is not None:
        mean, spread = curve.mean, curve.deviation
        marks = _marks(place, count, len(mean.epochs))
        style: dict[str, Any] = {"color": shade, "marker": marker(place), "markersize": 3}
        wide = 1.3 if len(mean.epochs) <= _MANY_EPOCHS else 0.9
        above.plot(mean.epochs, mean.rank, linewidth=wide, markevery=marks, **style)
        _band(above, mean.epochs, mean.rank, spread.rank, shade)
        _accuracy(below, mean.epochs, mean.test_accuracy, "-", 1.1, marks, style)
        _accuracy(below, mean.epochs, mean.train_accuracy, _DASHES, 0.8, [], style)
        _band(below, mean.epochs, 100 * mean.test_accuracy, 100 * spread.test_accuracy, shade)
    for lone in curve.lone:
        _draw_lone(above, below, lone, shade, place, count)


def _draw_lone(above: Axes, below: Axes, lone: Lone, shade: Any, place: int, count: int) -> None:
    """Draws a network that is in no mean, thin, with a mark where its ranks end."""
    series = lone.series
    marks = _marks(place, count, len(series.epochs))
    style: dict[str, Any] = {"color": shade, "marker": marker(place), "markersize": 2}
    above.plot(series.epochs, series.rank, linewidth=0.6, markevery=marks, **style)
    _accuracy(below, series.epochs, series.test_accuracy, "-", 0.6, marks, style)
    _accuracy(below, series.epochs, series.train_accuracy, _DASHES, 0.5, [], style)
    known = np.flatnonzero(np.isfinite(series.rank))
    if known.size:
        end = (series.epochs[known[-1]], series.rank[known[-1]])
        above.plot(*end, color=shade, linestyle="none", clip_on=False, zorder=5, **_mark(lone.end))


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


def _band(axes: Axes, epochs: Floats, mean: Floats, spread: Floats, shade: Any) -> None:
    if np.isfinite(spread).any():
        axes.fill_between(
            epochs, mean - spread, mean + spread, color=shade, alpha=0.22, linewidth=0
        )


def _accuracy(
    axes: Axes,
    epochs: Floats,
    values: Floats,
    line: Any,
    width: float,
    marks: list[int],
    style: Any,
) -> None:
    if np.isfinite(values).any():
        axes.plot(epochs, 100 * values, linestyle=line, linewidth=width, markevery=marks, **style)


def _name_axes(above: Axes, below: Axes, first: bool, last: bool, table: CurvesTable) -> None:
    from matplotlib.ticker import MaxNLocator

    for axes in (above, below):
        dress(axes)
        axes.tick_params(labelleft=first)
    above.tick_params(labelbottom=False)
    above.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    below.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    if first:
        above.set_ylabel(f"average rank ({table.definition})", fontsize=TEXT)
        below.set_ylabel("accuracy (%)", fontsize=TEXT)
    if last:
        below.set_xlabel("epoch", fontsize=TEXT)
    else:
        below.tick_params(labelbottom=True)
    if not below.lines:
        below.text(
            0.5, 0.5, "no accuracy recorded", transform=below.transAxes, fontsize=TICKS,
            ha="center", va="center", color="0.4",
        )  # fmt: skip


def _legends(figure: Figure, table: CurvesTable, shades: Sequence[Any]) -> None:
    """Names the values above the panels, and the kinds of line below them."""
    from matplotlib.lines import Line2D

    plain: dict[str, Any] = {
        "frameon": False, "fontsize": TICKS, "title_fontsize": TICKS, "handlelength": 1.8,
        "columnspacing": 1.0, "handletextpad": 0.4, "borderaxespad": 0.2, "labelspacing": 0.3,
    }  # fmt: skip
    curves = [curve for _, found in table.panels for curve in found]
    if len(table.labels) > 1:
        handles = [
            Line2D([], [], color=shade, marker=marker(place), markersize=3, linewidth=1.3)
            for place, shade in enumerate(shades)
        ]
        inches = figure.get_size_inches()[0]
        longest = max(map(len, table.labels))
        fitting = max(1, int((inches - 0.2) / (0.42 + 0.058 * longest)))
        columns = -(-len(handles) // -(-len(handles) // fitting))
        fixed = f" ({table.title})" if table.title and len(table.panels) > 1 else ""
        figure.legend(
            by_rows(handles, columns), by_rows(table.labels, columns), title=f"{table.by}{fixed}",
            loc="outside upper center", ncols=columns, **plain,
        )  # fmt: skip
    key: list[tuple[Any, str]] = []
    accuracies = [
        series for curve in curves for series in (curve.mean, *(lone.series for lone in curve.lone))
        if series is not None
    ]  # fmt: skip
    grey: dict[str, Any] = {"color": "0.25", "linewidth": 1.1}
    if any(np.isfinite(series.test_accuracy).any() for series in accuracies):
        key.append((Line2D([], [], **grey), "test"))
    if any(np.isfinite(series.train_accuracy).any() for series in accuracies):
        key.append((Line2D([], [], linestyle=_DASHES, **grey), "train"))
    if np.isfinite(table.full_rank):
        handle = Line2D([], [], color="0.55", linestyle=":", linewidth=0.8)
        key.append((handle, f"full rank ({table.full_rank:.4g})"))
    ends = {lone.end in NO_RANK for curve in curves for lone in curve.lone}
    for is_gone, name in ((True, "collapsed: no rank"), (False, "not finished")):
        if is_gone in ends:
            style = _mark("collapsed" if is_gone else "running")
            key.append((Line2D([], [], color="0.25", linestyle="none", **style), name))
    counts = {curve.seeds for curve in curves if curve.seeds}
    if counts and max(counts) > 1:
        from matplotlib.patches import Patch

        low, high = min(counts), max(counts)
        seeds = f"{high}" if low == high else f"{low} to {high}"
        key.append((Patch(color="0.25", alpha=0.22, linewidth=0), f"± sd over {seeds} seeds"))
    columns = min(len(key), max(2, int(figure.get_size_inches()[0] / 1.05)))
    if key:
        ordered = by_rows(key, columns)
        figure.legend(
            [handle for handle, _ in ordered], [name for _, name in ordered],
            loc="outside lower center", ncols=columns, **plain,
        )  # fmt: skip
