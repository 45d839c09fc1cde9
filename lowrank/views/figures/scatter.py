"""Average rank against each setting, network by network: for points that form no grid."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lowrank.runs.lost import NO_RANK
from lowrank.views.figures.style import (
    PAGE_WIDTH,
    TEXT,
    TICKS,
    bar_of,
    dress,
    from_zero,
    full_rank,
    key_below,
    plain_numbers,
    tight,
)
from lowrank.views.figures.tables import WITHOUT_RANK, ScatterTable
from lowrank.views.table.factors import spread_by_factors
from lowrank.views.table.fields import in_order, text, words

_MOST_LABELS = 12  # values that are no numbers, along an axis


def scatter_figure(
    table: ScatterTable, width: float | None = None, height: float | None = None
) -> Figure:
    """Draws a panel for each setting: ranks against its values, coloured by test accuracy.

    A network without rank has a cross at the bottom, one that is not finished an open circle.

    Args:
        table: What to draw.
        width: In inches; by default both columns of a page.
        height: In inches; by default as the number of panels needs it.

    Returns:
        The figure.
    """
    count = len(table.fields)
    columns = min(count, 3 if count != 4 else 2)
    rows = -(-count // columns)
    size = (width or PAGE_WIDTH, height or 0.6 + 2.1 * rows)
    figure = Figure(figsize=size, layout=tight())
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    gone = np.array([end in NO_RANK for end in table.ends]) | ~np.isfinite(table.rank)
    whole = np.array([end == "finished" for end in table.ends]) & ~gone
    open_ = ~whole & ~gone
    coloured = np.isfinite(table.accuracy).any()
    style: dict[str, Any] = {"s": 16, "linewidths": 0.7}
    scale = _scale(100 * table.accuracy)
    for place, (axes, field, values) in enumerate(
        zip(grid, table.fields, table.values, strict=False)
    ):
        dress(axes)
        x = _place_on_axis(axes, values)
        axes.set_xlabel(words(field), fontsize=TEXT)
        if place % columns == 0:
            axes.set_ylabel(table.definition.label, fontsize=TEXT)
        shade: dict[str, Any] = {"color": "#0072B2"}
        if coloured:
            shade = {"c": 100 * table.accuracy[whole], "cmap": "viridis", "norm": scale}
        axes.scatter(x[whole], table.rank[whole], edgecolors="0.2", **shade, **style)
        axes.scatter(x[open_], table.rank[open_], facecolors="none", edgecolors="0.2", **style)
        bottom = axes.get_xaxis_transform()
        axes.plot(x[gone], np.full(gone.sum(), 0.03), "x", color="black", markersize=4,
                  transform=bottom, clip_on=False)  # fmt: skip
    for axes in grid[count:]:
        axes.set_visible(False)
    of_full = full_rank(list(grid[:count]), table.full_rank)
    if not table.definition.metric:
        from_zero(grid[0])
    if coloured:
        bar_of(figure, list(grid[:count]), scale, "viridis", "test accuracy (%)")
    small: dict[str, Any] = {"linestyle": "none", "color": "0.25", "markersize": 4}
    key: list[tuple[Any, str]] = []
    if open_.any():
        key.append((Line2D([], [], marker="o", markerfacecolor="white", **small), "not finished"))
    if gone.any():
        key.append((Line2D([], [], marker="x", **small), WITHOUT_RANK))
    key_below(figure, [*key, *of_full], 1.6)
    return figure


def _place_on_axis(axes: Axes, values: Sequence[Hashable]) -> Any:
    """Returns where values are on the x-axis, which becomes logarithmic where they ask for it."""
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) == len(values):
        if spread_by_factors(numbers):
            axes.set_xscale("log")
        elif 0 in numbers and spread_by_factors([v for v in numbers if v]):
            axes.set_xscale("symlog", linthresh=min(v for v in numbers if v))
        elif all(isinstance(v, int) for v in numbers):
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        plain_numbers(axes.xaxis)
        return np.array(numbers, dtype=np.float64)
    levels = in_order(values)
    if len(levels) <= _MOST_LABELS:
        names = [text(level)[:24] for level in levels]
        turned = max(map(len, names)) * len(names) > 24
        axes.set_xticks(range(len(levels)), names, rotation=30 if turned else 0,
                        ha="right" if turned else "center", fontsize=TICKS)  # fmt: skip
    else:
        axes.set_xticks([])
    axes.set_xlim(-0.5, len(levels) - 0.5)
    return np.array([levels.index(value) for value in values], dtype=np.float64)


def _scale(values: Any) -> Any:
    known = values[np.isfinite(values)]
    low, high = (known.min(), known.max()) if known.size else (0.0, 1.0)
    return Normalize(low, high if high > low else low + 1)
