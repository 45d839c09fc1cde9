"""Spectra, norm ratios and accuracies at lower ranks as lines by the value of a setting."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from lowrank.views.figures.matrices import Line, LinesTable
from lowrank.views.figures.style import (
    COLUMN_WIDTH,
    DARK_TO_LIGHT,
    PAGE_WIDTH,
    TEXT,
    bar_of,
    colours,
    columns_of,
    continuous,
    dress,
    fitting,
    in_lines,
    key_above,
    key_below,
    marker,
    plain_numbers,
    seeds_of,
    tight,
)
from lowrank.views.figures.truncation import share_axis

_FEW = 16  # places on the x-axis that each get a marker
_DECAY: dict[str, Any] = {"linestyle": (0, (3, 1.5)), "linewidth": 0.9}
_EPSILON: dict[str, Any] = {"color": "0.35", "linestyle": ":", "linewidth": 0.9}


def lines_figure(
    table: LinesTable, width: float | None = None, height: float | None = None
) -> Figure:
    """Draws a panel of lines for each value of a second setting, with one key for all.

    Args:
        table: What to draw.
        width: In inches; by default one column of a page, or two where there are many panels.
        height: In inches; by default as the number of panels needs it.

    Returns:
        The figure.
    """
    count = len(table.panels)
    columns = columns_of(count)
    rows = -(-count // columns)
    scale = continuous(table.values)
    wide = width or (COLUMN_WIDTH + (1.2 if scale else 0) if columns == 1 else PAGE_WIDTH)
    above = 0 if scale or not table.by else -(-len(table.labels) // fitting(table.labels, wide))
    size = (wide, height or 0.75 + 0.16 * above + 2.0 * rows)
    figure = Figure(figsize=size, layout=tight())
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    shades = colours(table.values)
    if scale:
        shades = [DARK_TO_LIGHT(scale(value)) for value in table.values]
    for place, (axes, (title, found)) in enumerate(zip(grid, table.panels, strict=False)):
        dress(axes)
        if table.is_logarithmic:
            axes.set_yscale("log")
            plain_numbers(axes.yaxis)
        for line in found:
            _draw(axes, line, shades[line.value], "" if scale else marker(line.value))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
        axes.margins(x=0.02)
        if table.is_share:
            share_axis(axes)
            axes.set_ylim(0, 103)
        if table.epsilon is not None:
            axes.axhline(table.epsilon, zorder=0, **_EPSILON)
        if title or count == 1:
            room = int(wide / columns / 0.068)
            axes.set_title(in_lines(title or table.title, room), fontsize=TEXT, pad=3)
        if place % columns == 0:
            axes.set_ylabel(table.y[1], fontsize=TEXT)
        if place + columns >= count:
            axes.set_xlabel(table.x[1], fontsize=TEXT)
            axes.tick_params(labelbottom=True)
    for axes in grid[count:]:
        axes.set_visible(False)
    _limit(grid[0], table)
    _keys(figure, table, shades, scale, list(grid[:count]))
    return figure


def _draw(axes: Axes, line: Line, shade: Any, mark: str) -> None:
    width = 1.2 if len(line.x) <= 150 else 0.9
    few = len(line.x) <= _FEW
    every = list(range(0, len(line.x), max(1, len(line.x) // 5)))
    axes.plot(
        line.x, line.mean, color=shade, linewidth=width, marker=mark, markersize=3,
        markevery=None if few else every,
    )  # fmt: skip
    if np.isfinite(line.deviation).any():
        low, high = line.mean - line.deviation, line.mean + line.deviation
        axes.fill_between(line.x, low, high, color=shade, alpha=0.22, linewidth=0)
    if np.isfinite(line.decay).any():
        axes.plot(line.x, line.decay, color=shade, **_DECAY)


def _limit(axes: Axes, table: LinesTable) -> None:
    """Shows on a logarithmic axis no more than a hundredth of ε: below it no rank is decided."""
    if not table.is_logarithmic and table.epsilon is not None:
        axes.set_ylim(bottom=0)
    elif table.epsilon is not None:
        lowest = min(float(line.mean[line.mean > 0].min(initial=1)) for line in table.lines)
        axes.set_ylim(bottom=max(0.5 * lowest, table.epsilon / 100))


def _keys(figure: Figure, table: LinesTable, shades: Any, scale: Any, panels: list[Axes]) -> None:
    """Names the values above the panels, or in a colour bar, and the other lines below."""
    fixed = f" ({table.title})" if table.title and len(table.panels) > 1 else ""
    if scale:
        bar_of(figure, panels, scale, DARK_TO_LIGHT, table.by)
    elif table.by:
        key_above(figure, shades, table.labels, f"{table.by}{fixed}")
    key: list[tuple[Any, str]] = []
    if table.epsilon is not None:
        key.append((Line2D([], [], **_EPSILON), f"ε = {table.epsilon:g}"))
    if any(np.isfinite(line.decay).any() for line in table.lines):
        key.append((Line2D([], [], color="0.25", **_DECAY), "pure decay Π(1 − μ·wd)"))
    if told := seeds_of([line.seeds for line in table.lines]):
        key.append((Patch(color="0.25", alpha=0.22, linewidth=0), told))
    key_below(figure, key, 1.6)
