"""Spectra, norm ratios and accuracies at lower ranks as lines by the value of a setting."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lowrank.views.figures.matrices import Line, LinesTable
from lowrank.views.figures.style import (
    TEXT,
    Frame,
    band,
    band_key,
    dress,
    key_below,
    plain_numbers,
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
    frame = Frame.of(table, count, width)
    columns, above = frame.columns, frame.lines if table.by else 0
    size = (frame.width, height or 0.75 + 0.16 * above + 2.0 * frame.rows)
    figure = Figure(figsize=size, layout=tight())
    grid = figure.subplots(frame.rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for place, (axes, (title, found)) in enumerate(zip(grid, table.panels, strict=False)):
        dress(axes)
        if table.is_logarithmic:
            axes.set_yscale("log")
            plain_numbers(axes.yaxis)
        for line in found:
            _draw(axes, line, frame.shades[line.value], frame.marker(line.value))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
        axes.margins(x=0.02)
        if table.is_share:
            share_axis(axes)
            axes.set_ylim(0, 103)
        if table.epsilon is not None:
            axes.axhline(table.epsilon, zorder=0, **_EPSILON)
        if title or count == 1:
            axes.set_title(frame.title(title or table.title), fontsize=TEXT, pad=3)
        if place % columns == 0:
            axes.set_ylabel(table.y[1], fontsize=TEXT)
        if place + columns >= count:
            axes.set_xlabel(table.x[1], fontsize=TEXT)
            axes.tick_params(labelbottom=True)
    for axes in grid[count:]:
        axes.set_visible(False)
    _limit(grid[0], table)
    frame.name_values(figure, list(grid[:count]), table, table.title if count > 1 else "")
    _key(figure, table)
    return figure


def _draw(axes: Axes, line: Line, shade: Any, mark: str) -> None:
    width = 1.2 if len(line.x) <= 150 else 0.9
    few = len(line.x) <= _FEW
    every = list(range(0, len(line.x), max(1, len(line.x) // 5)))
    axes.plot(
        line.x, line.mean, color=shade, linewidth=width, marker=mark, markersize=3,
        markevery=None if few else every,
    )  # fmt: skip
    band(axes, line.x, line.mean, line.deviation, shade)
    if np.isfinite(line.decay).any():
        axes.plot(line.x, line.decay, color=shade, **_DECAY)


def _limit(axes: Axes, table: LinesTable) -> None:
    """Shows on a logarithmic axis no more than a hundredth of ε: below it no rank is decided."""
    if not table.is_logarithmic and table.epsilon is not None:
        axes.set_ylim(bottom=0)
    elif table.epsilon is not None:
        lowest = min(float(line.mean[line.mean > 0].min(initial=1)) for line in table.lines)
        axes.set_ylim(bottom=max(0.5 * lowest, table.epsilon / 100))


def _key(figure: Figure, table: LinesTable) -> None:
    """Names the other lines below the panels."""
    key: list[tuple[Any, str]] = []
    if table.epsilon is not None:
        key.append((Line2D([], [], **_EPSILON), f"ε = {table.epsilon:g}"))
    if any(np.isfinite(line.decay).any() for line in table.lines):
        key.append((Line2D([], [], color="0.25", **_DECAY), "pure decay Π(1 − μ·wd)"))
    key += band_key([line.seeds for line in table.lines])
    key_below(figure, key, 1.6)
