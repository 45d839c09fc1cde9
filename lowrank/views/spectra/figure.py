"""A figure of the spectra of all weight matrices of one or more files."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np

from lowrank.common.texts import printable
from lowrank.measure.ranks import frobenius_norm, spectral_norm
from lowrank.views.figures import SMALL
from lowrank.views.spectra.quantities import Measured, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Of Okabe and Ito, one per file: distinct for colour-blind readers and in print."""

_TITLE = 33  # characters in a line above a plot
_LONGEST_NAME = 200


def spectra_figure(files: Sequence[Measured]) -> Figure:
    """Draws the normalised spectrum of every matrix, with the ranks at the first ε.

    Args:
        files: One or more, measured with the same thresholds; matrices of one name share a plot.

    Returns:
        The figure, one small plot per matrix on common axes; dashed lines are the thresholds.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    names = list(dict.fromkeys(row.name for measured in files for row in measured.rows))
    columns = min(len(names), 5 if len(names) <= 25 else 9)
    rows = -(-len(names) // columns)
    longest = min(_LONGEST_NAME, max(map(len, names)))
    more = 0.1 * (longest // (_TITLE - 7))  # inches for further lines of a title
    width, height = 0.9 + 1.75 * max(columns, 4), 1.5 + more + (1.45 + more) * rows
    figure = Figure(figsize=(width, height))
    # Places in inches: matplotlib's own layout takes seconds for fifty plots.
    edges = {"left": 0.7 / width, "right": 1 - 0.2 / width}
    edges |= {"bottom": 0.65 / height, "top": 1 - (0.85 + more) / height}
    figure.subplots_adjust(**edges, wspace=0.12, hspace=0.32 + more)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    epsilons = files[0].epsilons
    lowest = min(epsilons) / 30
    for axes, name in zip(grid, names, strict=False):
        found = [
            (row, measured.rank_norm, colour)
            for measured, colour in zip(files, _colours(len(files)), strict=True)
            for row in measured.rows
            if row.name == name
        ]
        for row, rank_norm, colour in found:
            _curve(axes, row, rank_norm, lowest, colour)
        for epsilon in epsilons:
            axes.axhline(epsilon, color="0.4", linestyle="--", linewidth=0.7)
        _label(axes, name, [(row, colour) for row, _, colour in found], f"rank@{epsilons[0]:g}")
    grid[0].set(yscale="log", ylim=(lowest, 1.5), xlim=(0, 1.02), xticks=[0, 0.5, 1])
    grid[0].set_xticklabels(["0", "½", "1"])
    for axes in grid:
        axes.minorticks_off()
        axes.tick_params(labelsize=SMALL - 1)
    for axes in grid[len(names) :]:
        axes.set_visible(False)
    for axes in grid[len(names) - columns : len(names)]:
        axes.tick_params(labelbottom=True)
    dashed = ", ".join(f"{epsilon:g}" for epsilon in epsilons)
    place: dict[str, Any] = {"x": (edges["left"] + edges["right"]) / 2, "va": "top"}
    figure.suptitle(
        f"Singular values (dashed: ε = {dashed}; in the corner: rank at ε = {epsilons[0]:g})",
        y=1 - 0.1 / height, fontsize=11, **place,
    )  # fmt: skip
    figure.supxlabel("index of the singular value / number of singular values (in brackets)",
                     x=place["x"], y=0.12 / height, va="bottom", fontsize=10)  # fmt: skip
    label = "σ / ‖W‖₂" if files[0].rank_norm == "spectral" else "σ / ‖W‖"
    figure.supylabel(label, x=0.1 / width, ha="left", fontsize=10)
    legend = figure.legend(
        [Line2D([], [], color=colour) for colour in _colours(len(files))],
        [printable(measured.weights.path[-80:], 200) for measured in files],
        loc="upper center",
        bbox_to_anchor=(place["x"], 1 - 0.33 / height),
        ncols=len(files),
        frameon=False,
        fontsize=SMALL,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)  # a $ in the name of a file or a layer is one
    return figure


def _colours(count: int) -> list[str]:
    return [COLOURS[index % len(COLOURS)] for index in range(count)]


def _curve(axes: Axes, row: Row, rank_norm: str, lowest: float, colour: str) -> None:
    s = row.spectrum
    norm = spectral_norm(s) if rank_norm == "spectral" else frobenius_norm(s)
    if row.remark or not norm > 0:
        return
    axes.plot(
        (np.arange(len(s)) + 1) / len(s),
        np.maximum(s / norm, lowest / 10),
        color=colour,
        linewidth=1.2,
        marker="." if len(s) == 1 else None,
    )


def _label(axes: Axes, name: str, found: Sequence[tuple[Row, str]], quantity: str) -> None:
    """Writes name and size above a plot, and the rank of each file into its corner."""
    full = "/".join(str(k) for k in dict.fromkeys(min(row.shape) for row, _ in found))
    lines = wrap(
        f"{printable(name, _LONGEST_NAME)} ({full})".replace("_", "_ "), _TITLE
    )  # breaks at spaces
    axes.set_title(
        "\n".join(lines).replace("_ ", "_"), fontsize=SMALL - 1.5, pad=3, parse_math=False
    )
    for line, (row, colour) in enumerate(reversed(found)):
        text = row.remark.partition(":")[0] or f"{row.quantities[quantity]:.0f}"
        place = (0.05, 0.05 + 0.14 * line)
        axes.text(*place, text, transform=axes.transAxes, fontsize=SMALL - 1.5, color=colour)
