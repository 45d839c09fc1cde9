"""How figures for a two-column paper look: sizes, colours, markers and how a file is written.

Colours of ordered values are viridis without its light end, those of other values Okabe and Ito's:
both are distinct for colour-blind readers. Markers tell curves apart in grey print as well.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from lowrank.common.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

COLUMN_WIDTH = 3.35
"""Inches: one column of a two-column page."""

PAGE_WIDTH = 7.0
"""Inches: both columns."""

TEXT = 8
"""Font size in points of axis names."""

TICKS = 7
"""Font size in points of ticks and legends."""

MARKERS = ("o", "s", "^", "D", "v", "P", "<", "h", ">", "p", "*", "d")

_OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def colours(values: Sequence[Hashable]) -> list[Any]:
    """Returns a colour for each value of a setting.

    Args:
        values: In order; numbers get ordered colours, dark to light, as do more than seven.

    Returns:
        As many colours.
    """
    from matplotlib import colormaps

    count = len(values)
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    if count == 1 or (not numbers and count <= len(_OKABE_ITO)):
        return list(_OKABE_ITO[:count])
    return [colormaps["viridis"](0.85 * place / (count - 1)) for place in range(count)]


def marker(place: int) -> str:
    """Returns the marker of the curve at a place."""
    return MARKERS[place % len(MARKERS)]


def tight() -> ConstrainedLayoutEngine:
    """Returns the layout of every figure: all text inside, and little room between panels."""
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03, hspace=0.02, wspace=0.02)


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
    return "\n".join(wrap(glued, room)).replace("\xa0", " ")


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
    from matplotlib import rc_context

    form = path.suffix.removeprefix(".").lower()
    undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}  # same data, same file
    # 42: fonts are embedded as TrueType, which publishers accept and programs can edit.
    with replacing(path) as new, rc_context({"pdf.fonttype": 42, "svg.hashsalt": "lowrank"}):
        figure.savefig(new, format=form, dpi=dpi, metadata=undated.get(form))
