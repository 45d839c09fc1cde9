"""How figures for a two-column paper look: sizes, colours, markers and how a file is written.

Colours of ordered values are viridis without its light end, those of other values Okabe and Ito's:
both are distinct for colour-blind readers. Markers tell curves apart in grey print as well.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Colormap, ListedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullFormatter

from lowrank.common.files import replacing
from lowrank.common.texts import wrapped
from lowrank.views.figures.layout import ByValue
from lowrank.views.table.factors import spread_by_factors

COLUMN_WIDTH = 3.35
"""Inches: one column of a two-column page."""

PAGE_WIDTH = 7.0
"""Inches: both columns."""

TEXT = 8
"""Font size in points of axis names."""

TICKS = 7
"""Font size in points of ticks and legends."""

MARKERS = ("o", "s", "^", "D", "v", "P", "<", "h", ">", "p", "*", "d")

DARK_TO_LIGHT = ListedColormap([colormaps["viridis"](0.85 * place / 255) for place in range(256)])
"""The colours of numbers: viridis without its light end, too light on white."""
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Distinct for colour-blind readers and in print."""


def colours(values: Sequence[Hashable]) -> list[Any]:
    """Returns a colour for each value of a setting.

    Args:
        values: In order; numbers get ordered colours, dark to light, as do more than seven.

    Returns:
        As many colours.
    """
    count = len(values)
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    if count == 1 or (not numbers and count <= len(OKABE_ITO)):
        return list(OKABE_ITO[:count])
    return [colormaps["viridis"](0.85 * place / (count - 1)) for place in range(count)]


def continuous(values: Sequence[Hashable]) -> Any:
    """Returns the scale of a colour bar for many numbers; None where a legend can name the values.

    Args:
        values: In order.

    Returns:
        A norm of matplotlib, logarithmic where the numbers ask for it, or None.
    """
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(values) <= len(MARKERS) or len(numbers) < len(values):
        return None
    kind = LogNorm if spread_by_factors(numbers) else Normalize
    return kind(min(numbers), max(numbers))


def marker(place: int) -> str:
    """Returns the marker of the curve at a place."""
    return MARKERS[place % len(MARKERS)]


def tight() -> ConstrainedLayoutEngine:
    """Returns the layout of every figure: all text inside, and little room between panels."""
    return ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03, hspace=0.02, wspace=0.02)


def columns_of(panels: int) -> int:
    """Returns how many panels are beside each other.

    Args:
        panels: Their number, 1 or more.

    Example:
        >>> [columns_of(count) for count in (1, 4, 5, 8, 9)]
        [1, 4, 3, 4, 4]
    """
    return panels if panels <= 4 else -(-panels // 2) if panels <= 8 else 4


def fitting(labels: Sequence[str], inches: float) -> int:
    """Returns how many entries of a legend are in a row.

    Args:
        labels: Of the entries.
        inches: The width of the figure.
    """
    return max(1, int((inches - 0.2) / (0.42 + 0.058 * max(map(len, labels)))))


def key_above(figure: Figure, shades: Sequence[Any], labels: Sequence[str], title: str) -> None:
    """Names the values that lines stand for, in rows above the panels.

    Args:
        figure: With its final width.
        shades: The colour of each.
        labels: Their words.
        title: Above them.
    """
    handles = [
        Line2D([], [], color=shade, marker=marker(place), markersize=3, linewidth=1.3)
        for place, shade in enumerate(shades)
    ]
    rows = -(-len(handles) // fitting(labels, figure.get_size_inches()[0]))
    columns = -(-len(handles) // rows)
    figure.legend(
        by_rows(handles, columns), by_rows(labels, columns), title=title,
        loc="outside upper center", ncols=columns, **PLAIN,
    )  # fmt: skip


def by_rows(entries: Sequence[Any], columns: int) -> list[Any]:
    """Returns the entries of a legend so that it reads row by row; matplotlib fills columns.

    Args:
        entries: In reading order.
        columns: Of the legend.

    Returns:
        The entries in matplotlib's order.

    Example:
        >>> by_rows([1, 2, 3, 4, 5], 3)
        [1, 4, 2, 5, 3]
    """
    return [entries[i] for column in range(columns) for i in range(column, len(entries), columns)]


def in_lines(title: str, room: int) -> str:
    r"""Breaks a title between settings, if it is too long for one line.

    Args:
        title: Settings with values, with commas between them.
        room: Characters of a line.

    Returns:
        The title in one line or several.

    Example:
        >>> in_lines("learning rate 0.1, batch size 4", 20)
        'learning rate 0.1,\nbatch size 4'
    """
    glued = title.replace(" ", "\xa0").replace(",\xa0", ", ")  # breaks at commas only
    return "\n".join(wrapped(glued, room)).replace("\xa0", " ")


PLAIN: dict[str, Any] = {
    "frameon": False, "fontsize": TICKS, "title_fontsize": TICKS, "handlelength": 1.8,
    "columnspacing": 1.0, "handletextpad": 0.4, "borderaxespad": 0.2, "labelspacing": 0.3,
}  # fmt: skip
"""How legends look."""


def key_below(figure: Figure, key: Sequence[tuple[Any, str]], room: float) -> None:
    """Says below the panels what marks and lines mean.

    Args:
        figure: Laid out by `tight`.
        key: Handles and names; of none there is no legend.
        room: Inches for each.
    """
    columns = min(len(key), max(1, int(figure.get_size_inches()[0] / room)))
    if key:
        ordered = by_rows(key, columns)
        figure.legend(
            [handle for handle, _ in ordered], [name for _, name in ordered],
            loc="outside lower center", ncols=columns, **PLAIN,
        )  # fmt: skip


@dataclass(frozen=True)
class Frame:
    """A figure of panels whose lines stand for the values of a setting.

    Attributes:
        columns: Panels beside each other.
        rows: Panels below each other.
        width: Inches.
        lines: Of the key above the panels.
        scale: Of the colour bar that is there instead; None where there is none.
        shades: The colour of each value.
    """

    columns: int
    rows: int
    width: float
    lines: int
    scale: Any
    shades: Sequence[Any]

    @classmethod
    def of(cls, table: ByValue, count: int, width: float | None) -> Frame:
        """Lays out panels.

        Args:
            table: What they show.
            count: How many there are.
            width: In inches; None for one column of a page, or two where there are many panels.

        Returns:
            The frame.
        """
        columns, scale = columns_of(count), continuous(table.values)
        wide = width or (COLUMN_WIDTH + (1.2 if scale else 0) if columns == 1 else PAGE_WIDTH)
        lines = 0 if scale else -(-len(table.labels) // fitting(table.labels, wide))
        shades = [DARK_TO_LIGHT(scale(v)) for v in table.values] if scale else colours(table.values)
        return cls(columns, -(-count // columns), wide, lines, scale, shades)

    def marker(self, place: int) -> str:
        """Returns the marker of the line at a place; none where a colour bar names the values.

        Args:
            place: Of the value.
        """
        return "" if self.scale else marker(place)

    def title(self, text: str) -> str:
        """Returns the title of a panel in lines that fit.

        Args:
            text: The title.
        """
        return in_lines(text, int(self.width / self.columns / 0.068))  # inches of a character

    def name_values(
        self, figure: Figure, panels: Sequence[Axes], table: ByValue, fixed: str
    ) -> None:
        """Says in a colour bar beside the panels or in a key above them what lines stand for.

        Args:
            figure: Of the panels.
            panels: All of them.
            table: What they show.
            fixed: What the key says to be the same in all panels; may be empty.
        """
        if self.scale:
            bar_of(figure, panels, self.scale, DARK_TO_LIGHT, table.by)
        elif table.by:
            title = f"{table.by} ({fixed})" if fixed else table.by
            key_above(figure, self.shades, table.labels, title)


def band(axes: Axes, x: Any, mean: Any, spread: Any, shade: Any) -> None:
    """Draws a standard deviation on both sides of a mean, where it is known."""
    if np.isfinite(spread).any():
        axes.fill_between(x, mean - spread, mean + spread, color=shade, alpha=0.22, linewidth=0)


def band_key(counts: Collection[int]) -> list[tuple[Any, str]]:
    """Returns what `key_below` says of bands over so many seeds."""
    told = seeds_of(counts)
    return [(Patch(color="0.25", alpha=0.22, linewidth=0), told)] if told else []


def full_rank(panels: Sequence[Axes], full: float) -> list[tuple[Any, str]]:
    """Draws the full rank into panels, where it is known.

    Args:
        panels: The axes.
        full: The full rank; NaN where there is none.

    Returns:
        What `key_below` says of it.
    """
    if not math.isfinite(full):
        return []
    line: dict[str, Any] = {"color": "0.55", "linestyle": ":", "linewidth": 0.8}
    for axes in panels:
        axes.axhline(full, zorder=0, **line)
    return [(Line2D([], [], **line), f"full rank ({full:.4g})")]


def from_zero(axes: Axes) -> None:
    """Begins the axis of ranks at 0, with room above: the frame cuts no curve at full rank.

    Args:
        axes: With everything drawn.
    """
    axes.set_ylim(0, 1.03 * axes.get_ylim()[1])


def seeds_of(counts: Collection[int]) -> str:
    """Returns in words over how many seeds numbers are means.

    Args:
        counts: Of each mean.

    Returns:
        The words; empty where no mean is of several.
    """
    low, high = min(counts, default=0), max(counts, default=0)
    if high < 2:
        return ""
    return f"± sd over {high if low == high else f'{low} to {high}'} seeds"


def plain_numbers(axis: Axis) -> None:
    """Writes numbers at the ticks of a logarithmic axis without mathematics, which is off.

    Args:
        axis: Any other is left as it is.
    """
    if axis.get_scale() in ("log", "symlog"):
        axis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_minor_formatter(NullFormatter())
        if axis.get_scale() == "log":
            axis.set_major_locator(LogLocator(numticks=5))


def bar_of(
    figure: Figure, panels: Sequence[Axes], scale: Any, colours: str | Colormap, label: str
) -> Colorbar:
    """Draws a colour bar beside panels.

    Args:
        figure: Of the panels.
        panels: That it is for.
        scale: Of the values.
        colours: Their map, or its name.
        label: What they are.

    Returns:
        The bar.
    """
    bar = figure.colorbar(
        ScalarMappable(scale, colours), ax=list(panels), aspect=25, pad=0.02, fraction=0.05
    )
    bar.set_label(label, fontsize=TEXT)
    plain_numbers(bar.ax.yaxis)
    bar.ax.tick_params(labelsize=TICKS, length=2.5, width=0.6, pad=2)
    bar.outline.set_linewidth(0.6)
    return bar


def dress(axes: Axes) -> None:
    """Gives axes small ticks and no frame at the top and on the right."""
    axes.tick_params(labelsize=TICKS, length=2.5, width=0.6, pad=2)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_linewidth(0.6)


def save(figure: Figure, path: Path, dpi: int) -> None:
    """Writes a figure whole or not at all: an older file is replaced only by a complete one.

    Args:
        figure: At its final size.
        path: Its suffix is one of `lowrank.views.FORMATS`.
        dpi: Dots per inch of a PNG, and of what a PDF holds as pixels.
    """
    form = path.suffix.removeprefix(".").lower()
    undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}  # same data, same file
    # 42: fonts are embedded as TrueType, which publishers accept and programs can edit.
    with replacing(path) as new, rc_context({"pdf.fonttype": 42, "svg.hashsalt": "lowrank"}):
        figure.savefig(new, format=form, dpi=dpi, metadata=undated.get(form))
