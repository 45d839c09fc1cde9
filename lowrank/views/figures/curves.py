"""Average rank over epochs by the value of a setting, with the accuracies below."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank.views.figures.style import (
    COLUMN_WIDTH,
    PAGE_WIDTH,
    PLAIN,
    TEXT,
    TICKS,
    bar_of,
    by_rows,
    colours,
    continuous,
    dark_to_light,
    dress,
    in_lines,
    key_below,
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
    scale = continuous(table.values)
    wide = width or (COLUMN_WIDTH + (1.2 if scale else 0) if columns == 1 else PAGE_WIDTH)
    lines = 0 if scale else -(-len(table.labels) // _fitting(table.labels, wide))
    curves = [curve for _, found in table.panels for curve in found]
    has_accuracy = any(_has_accuracy(curve) for curve in curves)
    tall = 0.65 + 0.16 * lines + rows * (2.65 if has_accuracy else 1.85)
    figure = Figure(figsize=(wide, height or tall), layout=tight())
    ratios = [2.2, 1] * rows if has_accuracy else [1] * rows
    grid = figure.add_gridspec(len(ratios), columns, height_ratios=ratios)
    shades = colours(table.values)
    if scale:
        shades = [dark_to_light()(scale(value)) for value in table.values]
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
            style = {"color": shades[curve.value], "marker": "" if scale else marker(curve.value)}
            _draw(above, below, curve, style, len(table.labels))
        if title:
            room = int(figure.get_size_inches()[0] / columns / 0.068)  # characters
            above.set_title(in_lines(title, room), fontsize=TEXT, pad=3)
        _name_axes(above, below, column == 0, place + columns >= count, table)
    if np.isfinite(table.full_rank):
        for axes in upper:
            axes.axhline(table.full_rank, color="0.55", linestyle=":", linewidth=0.8, zorder=0)
    if not table.definition.metric:
        upper[0].set_ylim(bottom=0)
    if lower:
        lower[0].set_ylim(0, 103)
    if table.title and count == 1:
        upper[0].set_title(in_lines(table.title, 44), fontsize=TEXT, pad=3)
    elif table.title and len(table.labels) == 1:
        figure.suptitle(table.title, fontsize=TEXT)
    if scale:
        bar_of(figure, [*upper, *lower], scale, dark_to_light(), table.by)
    _legends(figure, table, shades, named=scale is None)
    return figure


def _fitting(labels: Sequence[str], inches: float) -> int:
    """Returns how many entries of a legend are in a row."""
    return max(1, int((inches - 0.2) / (0.42 + 0.058 * max(map(len, labels)))))


def _has_accuracy(curve: Curve) -> bool:
    found = [curve.mean, *(lone.series for lone in curve.lone)]
    return any(
        np.isfinite(values).any()
        for series in found
        if series is not None
        for values in (series.train_accuracy, series.test_accuracy)
    )


def _draw(above: Axes, below: Axes | None, curve: Curve, style: dict[str, Any], count: int) -> None:
    """Draws one point of the sweep into both panels."""
    if curve.mean is not None and curve.deviation is not None:
        mean, spread = curve.mean, curve.deviation
        marks, shade = _marks(curve.value, count, len(mean.epochs)), style["color"]
        style = {**style, "markersize": 3}
        wide = 1.3 if len(mean.epochs) <= _MANY_EPOCHS else 0.9
        above.plot(mean.epochs, mean.rank, linewidth=wide, markevery=marks, **style)
        _band(above, mean.epochs, mean.rank, spread.rank, shade)
        if below is not None:
            _accuracy(below, mean.epochs, mean.test_accuracy, "-", 1.1, marks, style)
            _accuracy(below, mean.epochs, mean.train_accuracy, _DASHES, 0.8, [], style)
            _band(below, mean.epochs, 100 * mean.test_accuracy, 100 * spread.test_accuracy, shade)
    for lone in curve.lone:
        _draw_lone(above, below, lone, style, curve.value, count)


def _draw_lone(
    above: Axes, below: Axes | None, lone: Lone, style: dict[str, Any], place: int, count: int
) -> None:
    """Draws a network that is in no mean, thin, with a mark where its ranks end."""
    series = lone.series
    marks = _marks(place, count, len(series.epochs))
    style, shade = {**style, "markersize": 2}, style["color"]
    above.plot(series.epochs, series.rank, linewidth=0.6, markevery=marks, **style)
    if below is not None:
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


def _name_axes(
    above: Axes, below: Axes | None, first: bool, last: bool, table: CurvesTable
) -> None:
    from matplotlib.ticker import MaxNLocator

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


def _legends(figure: Figure, table: CurvesTable, shades: Sequence[Any], *, named: bool) -> None:
    """Names the values above the panels, and the kinds of line below them."""
    from matplotlib.lines import Line2D

    curves = [curve for _, found in table.panels for curve in found]
    if named and len(table.labels) > 1:
        handles = [
            Line2D([], [], color=shade, marker=marker(place), markersize=3, linewidth=1.3)
            for place, shade in enumerate(shades)
        ]
        fitting = _fitting(table.labels, figure.get_size_inches()[0])
        columns = -(-len(handles) // -(-len(handles) // fitting))
        fixed = f" ({table.title})" if table.title and len(table.panels) > 1 else ""
        figure.legend(
            by_rows(handles, columns), by_rows(table.labels, columns), title=f"{table.by}{fixed}",
            loc="outside upper center", ncols=columns, **PLAIN,
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
    ends = {lone.end if lone.end in NO_RANK else "" for curve in curves for lone in curve.lone}
    without = [word for word in NO_RANK if word in ends]
    if without:
        cross = Line2D([], [], color="0.25", linestyle="none", **_mark(without[0]))
        key.append((cross, f"{' or '.join(without)}: no rank from there on"))
    if "" in ends:
        circle = Line2D([], [], color="0.25", linestyle="none", **_mark("running"))
        key.append((circle, "not finished"))
    counts = {curve.seeds for curve in curves if curve.seeds}
    if counts and max(counts) > 1:
        from matplotlib.patches import Patch

        low, high = min(counts), max(counts)
        seeds = f"{high}" if low == high else f"{low} to {high}"
        key.append((Patch(color="0.25", alpha=0.22, linewidth=0), f"± sd over {seeds} seeds"))
    key_below(figure, key, 1.05)
