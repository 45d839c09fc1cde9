"""The rank landscape over two settings, as a heat map or as contours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from lowrank.common.errors import InputError
from lowrank.views.figures.style import (
    COLUMN_WIDTH,
    PAGE_WIDTH,
    TEXT,
    TICKS,
    bar_of,
    in_lines,
    key_below,
    seeds_of,
    tight,
)
from lowrank.views.figures.tables import WITHOUT_RANK, Cells, LandscapeTable
from lowrank.views.table.rows import Floats

_MAP = "cividis"
_LEVELS = 10  # contours
_NONE: dict[str, Any] = {"facecolor": "0.85", "edgecolor": "0.55", "linewidth": 0}


def landscape_figure(
    table: LandscapeTable,
    *,
    contours: bool = False,
    width: float | None = None,
    height: float | None = None,
) -> Figure:
    """Draws average rank over two settings; values are at equal distances, as 0 has no logarithm.

    A cell without rank is never coloured: hatched where its networks collapsed, with a circle
    where they are not finished, white where there is none.

    Args:
        table: What to draw, with at least one panel.
        contours: Filled contours between the points instead of cells with their numbers.
        width: In inches; by default one column of a page, or two where there are many panels.
        height: In inches; by default as the number of values needs it.

    Returns:
        The figure.

    Raises:
        InputError: If contours are asked for and there are not two values of each setting.
    """
    if contours and min(len(table.x_labels), len(table.y_labels)) < 2:
        raise InputError("contours need two values or more of each setting; draw a heat map")
    count = len(table.panels)
    columns = count if count <= 3 else -(-count // 2) if count <= 6 else 4
    rows = -(-count // columns)
    wide = width or (COLUMN_WIDTH if count == 1 else PAGE_WIDTH)
    has_accuracy = any(np.isfinite(cells.accuracy).any() for cells in table.panels)
    beside = has_accuracy and count == 1 and width is None  # else below
    wide = PAGE_WIDTH if beside else wide
    kinds = 2 if has_accuracy else 1
    shape = (rows, 2) if beside else (kinds * rows, columns)
    room = (wide - 1.3 * shape[1] / columns) / shape[1]
    cell = min(0.42, max(0.2, room / len(table.x_labels)))
    tall = height or 1.0 + shape[0] * (0.35 + cell * len(table.y_labels))
    figure = Figure(figsize=(wide, tall), layout=tight())
    grid = figure.subplots(*shape, sharex=True, sharey=True, squeeze=False).ravel()
    at = "" if table.epoch is None else f" at epoch {table.epoch}"
    name, _, definition = table.definition.label.partition(" (")
    label = f"{name}{at}" + (f" ({definition}" if definition else "")
    numbers = [(cells.rank, cells.deviation) for cells in table.panels]
    drawn = [(label, _MAP, table.full_rank, numbers)]
    if has_accuracy:
        percents = [(100 * c.accuracy, 100 * c.accuracy_deviation) for c in table.panels]
        drawn.append((f"test accuracy{at} (%)", "viridis", 100.0, percents))
    size = rows * columns
    for axes in grid:
        axes.set_visible(False)
    for kind, (label, colours, full, numbers) in enumerate(drawn):
        scale = _scale(numbers, full)
        panels = grid[kind : kind + 1] if beside else grid[kind * size : kind * size + count]
        for place, (axes, cells, (values, spread)) in enumerate(
            zip(panels, table.panels, numbers, strict=True)
        ):
            axes.set_visible(True)
            if contours:
                _contours(axes, cells, values, scale, colours)
            else:
                in_cells = cell >= 0.3 or height is not None
                _heat_map(axes, cells, values, spread, scale, colours, numbers=in_cells)
            _without_rank(axes, cells)
            title = cells.title if kind == 0 else ""
            _name_axes(axes, table, title, place + kind * beside, max(columns, 2 * beside), count)
            if kind + 1 < len(drawn) and not beside:
                axes.set_xlabel("")
        bar_of(figure, list(panels), scale, colours, label)
    if table.title:
        figure.suptitle(
            in_lines(table.title, 48 if count == 1 and not beside else 100), fontsize=TEXT
        )
    _key(figure, table)
    return figure


def _scale(numbers: Sequence[tuple[Floats, Floats]], full: float) -> Normalize:
    """Returns the scale of the colours, its ends so far apart that noise is no contrast.

    That is a quarter of the full value at least, and eight standard deviations over seeds.
    """
    known = np.concatenate([values[np.isfinite(values)] for values, _ in numbers])
    spreads = np.concatenate([spread.ravel() for _, spread in numbers])
    if not known.size:
        return Normalize(0.0, 1.0)
    low, high = float(known.min()), float(known.max())
    noise = float(np.nanmean(spreads)) if np.isfinite(spreads).any() else 0.0
    least = max(8 * noise, 0.25 * (full if np.isfinite(full) else abs(high))) or 1.0
    if high - low >= least:
        return Normalize(low, high)
    low = max(high - least, min(low, 0.0))
    return Normalize(low, max(high, low + least if low < 0 else high) if high > low else low + 1)


def _heat_map(
    axes: Axes,
    cells: Cells,
    values: Floats,
    spread: Floats,
    scale: Any,
    colours: str,
    *,
    numbers: bool,
) -> None:
    """Colours the cells and writes the numbers into them, with their standard deviations."""
    axes.pcolormesh(
        np.ma.masked_invalid(values), cmap=colours, norm=scale, edgecolors="white", linewidth=0.6
    )
    for y, x in np.argwhere(np.isfinite(values)):
        value = values[y, x]
        red, green, blue, _ = colormaps[colours](scale(value))
        ink = "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"
        if numbers:
            axes.text(
                x + 0.5, y + 0.5, _number(value), ha="center", fontsize=TICKS, color=ink,
                va="bottom" if np.isfinite(spread[y, x]) else "center",
            )  # fmt: skip
            if np.isfinite(spread[y, x]):
                axes.text(
                    x + 0.5, y + 0.46, f"±{_spread(spread[y, x])}", ha="center", va="top",
                    fontsize=TICKS - 2, color=ink,
                )  # fmt: skip
        if cells.collapsed[y, x]:
            axes.plot(x + 0.85, y + 0.82, "x", color=ink, markersize=3, markeredgewidth=0.8)


def _contours(axes: Axes, cells: Cells, found: Floats, scale: Any, colours: str) -> None:
    """Fills between contours at the middles of the cells, which are marked."""
    rows, columns = found.shape
    x, y = np.arange(columns) + 0.5, np.arange(rows) + 0.5
    known = np.isfinite(found)
    levels = MaxNLocator(_LEVELS, steps=[1, 2, 5, 10]).tick_values(scale.vmin, scale.vmax)
    values = np.ma.masked_invalid(found)
    axes.contourf(x, y, values, levels=levels, cmap=colours, norm=scale)
    lines = axes.contour(x, y, values, levels=levels, colors="black", linewidths=0.5)
    for label in axes.clabel(lines, fmt="%g", fontsize=TICKS - 1):
        label.set_path_effects([withStroke(linewidth=1.5, foreground="white")])
    places = np.argwhere(known)
    axes.plot(places[:, 1] + 0.5, places[:, 0] + 0.5, ".", color="black", markersize=2)
    for at_y, at_x in np.argwhere(known & (cells.collapsed > 0)):
        axes.plot(at_x + 0.62, at_y + 0.62, "x", color="black", markersize=3, markeredgewidth=0.8)


def _without_rank(axes: Axes, cells: Cells) -> None:
    """Marks the cells that have no rank."""
    no_rank = ~np.isfinite(cells.rank)
    for y, x in np.argwhere(no_rank & (cells.collapsed > 0)):
        axes.add_patch(Rectangle((x, y), 1, 1, hatch="////", **_NONE))
        axes.plot(x + 0.5, y + 0.5, "x", color="black", markersize=5, markeredgewidth=1.2)
    for y, x in np.argwhere(no_rank & (cells.collapsed == 0) & (cells.unfinished > 0)):
        axes.plot(x + 0.5, y + 0.5, "o", color="0.3", markerfacecolor="white", markersize=5)


def _name_axes(
    axes: Axes, table: LandscapeTable, title: str, place: int, columns: int, count: int
) -> None:
    width, height = len(table.x_labels), len(table.y_labels)
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.tick_params(labelsize=TICKS, length=0, pad=2)
    axes.spines[:].set_linewidth(0.6)
    turned = max(map(len, table.x_labels)) * width > (48 if count == 1 else 130 / columns)
    axes.set_xticks(
        np.arange(width) + 0.5, list(table.x_labels), rotation=45 if turned else 0,
        ha="right" if turned else "center", rotation_mode="anchor",
    )  # fmt: skip
    axes.set_yticks(np.arange(height) + 0.5, list(table.y_labels))
    if place % columns == 0:
        axes.set_ylabel(table.y, fontsize=TEXT)
    if place + columns >= count:
        axes.set_xlabel(table.x, fontsize=TEXT)
        axes.tick_params(labelbottom=True)
    if title:
        axes.set_title(in_lines(title, 44 if count == 1 else 100 // columns), fontsize=TEXT, pad=3)


def _key(figure: Figure, table: LandscapeTable) -> None:
    """Says below the panels what marks mean, and how many seeds a number is a mean of."""

    def all_cells(name: str) -> Floats:
        return np.concatenate([getattr(cells, name).ravel() for cells in table.panels])

    key: list[tuple[Any, str]] = []
    none, seeds = ~np.isfinite(all_cells("rank")), all_cells("seeds")
    collapsed, unfinished = all_cells("collapsed") > 0, all_cells("unfinished") > 0
    if (none & collapsed).any():
        key.append((Patch(hatch="//////", **_NONE), WITHOUT_RANK))
    small: dict[str, Any] = {"linestyle": "none", "color": "0.25"}
    if (~none & collapsed).any():
        cross = Line2D([], [], marker="x", markersize=4, **small)
        key.append((cross, "some seeds collapsed or dead"))
    if (none & ~collapsed & unfinished).any():
        circle = Line2D([], [], marker="o", markersize=5, markerfacecolor="white", **small)
        key.append((circle, "not finished"))
    if (none & ~collapsed & ~unfinished).any():
        key.append((Patch(facecolor="white", edgecolor="0.55", linewidth=0.6), "no run"))
    if told := seeds_of([int(count) for count in seeds if count]):
        key.append((Line2D([], [], linestyle="none"), f"mean {told}"))
    key_below(figure, key, 1.3)


def _spread(value: float) -> str:
    return f"{value:.2g}" if value >= 0.005 else "0"


def _number(value: float) -> str:
    """Returns a rank with three digits at least."""
    return f"{value:.1f}" if abs(value) < 99.95 else f"{value:.0f}"
