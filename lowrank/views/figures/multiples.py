"""Small plots of spectra side by side on common axes, which two figures fill with curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lowrank.common.texts import printable
from lowrank.views.figures.shades import SMALL

_TITLE = 33  # characters in a line above a plot
_LONGEST_NAME = 200


@dataclass(frozen=True)
class Multiples:
    """An empty figure of small plots.

    Attributes:
        figure: The figure.
        plots: One for each name, in their order.
        small: Font size of what stands in a plot.
        middle: The middle of the plots, as a share of the width.
        lowest: What lies below this value is not shown.
    """

    figure: Figure
    plots: Sequence[Axes]
    small: float
    middle: float
    lowest: float

    def curve(self, axes: Axes, relative: NDArray[np.float64], **style: Any) -> None:
        """Draws a spectrum.

        Args:
            axes: The plot.
            relative: σ/‖W‖, descending, shape (k,).
            **style: As `Axes.plot` takes it.
        """
        count = len(relative)
        shares = (np.arange(count) + 1) / count
        marker = "." if count == 1 else None
        axes.plot(shares, np.maximum(relative, self.lowest / 10), marker=marker, **style)


def multiples(
    names: Sequence[str],
    title: str,
    label: str,
    epsilons: Sequence[float],
    *,
    above: float = 0.0,
    right: float = 0.2,
) -> Multiples:
    """Makes small plots with a dashed line at each threshold.

    Args:
        names: Of the plots, with the number of singular values.
        title: Of the figure.
        label: Of the y-axis.
        epsilons: The thresholds.
        above: Inches between title and plots.
        right: Inches right of the plots.

    Returns:
        The figure.
    """
    columns = min(len(names), 5 if len(names) <= 25 else 9)
    rows = -(-len(names) // columns)
    small = SMALL if columns <= 5 else SMALL - 1.5
    longest = min(_LONGEST_NAME, max(map(len, names)))
    more = 0.1 * (longest // _TITLE)  # inches for further lines of a name
    width, height = 0.7 + right + 1.75 * max(columns, 4), 1.35 + above + more + (1.45 + more) * rows
    figure = Figure(figsize=(width, height))
    # Places in inches: matplotlib's own layout takes seconds for fifty plots.
    edges = {"left": 0.7 / width, "right": 1 - right / width}
    edges |= {"bottom": 0.65 / height, "top": 1 - (0.7 + above + more) / height}
    figure.subplots_adjust(**edges, wspace=0.12, hspace=0.32 + more)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    lowest = min(epsilons) / 30
    for axes, name in zip(grid, names, strict=False):
        lines = wrap(printable(name, _LONGEST_NAME).replace("_", "_ "), _TITLE)  # breaks at spaces
        shown = "\n".join(lines).replace("_ ", "_")
        axes.set_title(shown, fontsize=small - 0.5, pad=3, y=1, parse_math=False)
        for epsilon in epsilons:
            axes.axhline(epsilon, color="0.4", linestyle="--", linewidth=0.7)
    grid[0].set(yscale="log", ylim=(lowest, 1.5), xlim=(0, 1.02), xticks=[0, 0.5, 1])
    grid[0].set_xticklabels(["0", "½", "1"])
    for number, axes in enumerate(grid):
        axes.minorticks_off()
        axes.tick_params(labelsize=small - 0.5)
        axes.yaxis.set_visible(number % columns == 0)  # an axis takes as long as all its curves
        axes.set_visible(number < len(names))
        if len(names) - columns <= number < len(names):
            axes.tick_params(labelbottom=True)
    grid[0].yaxis.set_major_formatter(lambda value, _: _power(value))
    middle = (edges["left"] + edges["right"]) / 2
    figure.suptitle(title, x=middle, y=1 - 0.1 / height, va="top", fontsize=11)
    figure.supxlabel("index of the singular value / number of singular values (in brackets)",
                     x=middle, y=0.12 / height, va="bottom", fontsize=10)  # fmt: skip
    figure.supylabel(label, x=0.1 / width, ha="left", fontsize=10)
    return Multiples(figure, list(grid[: len(names)]), small, middle, lowest)


def _power(value: float) -> str:
    """Returns a power of ten as text, which is drawn ten times faster than mathematics.

    Example:
        >>> _power(1e-3)
        '10⁻³'
    """
    return "10" + f"{round(math.log10(value))}".translate(
        str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    )
