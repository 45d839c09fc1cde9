"""Shades of ordered things, layers or epochs, and the key to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure

SMALL = 8
"""Font size in points of ticks and legends."""


def shade(index: int, count: int) -> Any:
    """Returns one of `count` colours of viridis, without its yellow end: too light on white.

    Args:
        index: 0 is the darkest.
        count: How many there are.

    Returns:
        The colour as matplotlib takes it.
    """
    return colormaps["viridis"](0.92 * index / max(1, count - 1))


def steps(figure: Figure, axes: Axes, names: Sequence[str]) -> Any:
    """Draws a colour bar of one named step per shade.

    Args:
        figure: Where it is drawn.
        axes: Its place in the figure.
        names: Of the steps, the darkest first.

    Returns:
        The colour bar.
    """
    count = len(names)
    colours = ListedColormap([shade(index, count) for index in range(count)])
    bar = figure.colorbar(ScalarMappable(Normalize(0, count), colours), cax=axes)
    bar.set_ticks([index + 0.5 for index in range(count)], labels=list(names))
    bar.ax.tick_params(labelsize=SMALL, length=0)
    return bar
