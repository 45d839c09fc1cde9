"""A run's test accuracy against the rank that its matrices keep, epoch by epoch."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from lowrank.measure.truncation import LADDER
from lowrank.runs.find import Run
from lowrank.views.figures.shades import SMALL, shade, steps
from lowrank.views.figures.spectrum import SHOWN_EPOCHS, early
from lowrank.views.table.truncated import truncated

TICKS = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)


def share_axis(axes: Axes) -> None:
    """Makes an x-axis one of shares of full rank: 1/64, 1/32, … 1.

    Args:
        axes: Changed in place.
    """
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(TICKS))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([f"1/{1 / share:.0f}" if share < 1 else "1" for share in TICKS])
    axes.set_xlim(1 / 72, 1.15)


def truncation_figure(run: Run) -> Figure | None:
    """Draws accuracy over the rank kept, a curve for each of up to nine epochs, dark to light.

    Args:
        run: As `lowrank.load_run` gives it.

    Returns:
        The figure: dots are shares of full rank, triangles energies. None for a run without
        `truncation_every`.
    """
    found = truncated(run)
    if found is None:
        return None
    shown = found.places[early(len(found.places), SHOWN_EPOCHS)]
    figure = Figure(figsize=(6, 3.8))
    # Places in inches: matplotlib's own layout draws everything twice.
    figure.subplots_adjust(0.6 / 6, 0.5 / 3.8, 1 - 0.95 / 6, 1 - 0.35 / 3.8)
    axes = figure.add_subplot()
    by_energy = np.array([kept.kind == "energy" for kept in LADDER])
    for place, epoch in enumerate(shown):
        x, y = found.ranks[:, epoch] / found.full, 100 * found.accuracies[:, epoch]
        colour = shade(place, len(shown))
        order = np.argsort(x, kind="stable")
        axes.plot(x[order], y[order], color=colour, linewidth=1.2)
        axes.plot(x[~by_energy], y[~by_energy], "o", color=colour, markersize=3.5)
        axes.plot(x[by_energy], y[by_energy], "^", color=colour, markersize=6, markeredgecolor="w")
    share_axis(axes)
    axes.set_ylim(0, 108)
    axes.set_xlabel("rank kept / full rank, mean of the counted matrices")
    axes.set_ylabel("test accuracy in %")
    axes.set_title(f"{run.id}: accuracy with every counted matrix truncated", size=10)
    axes.tick_params(labelsize=SMALL)
    axes.spines[["top", "right"]].set_visible(False)
    energies = ", ".join(f"{kept.amount:g}" for kept in LADDER if kept.kind == "energy")
    marks = {"share of full rank": "o", f"energy {energies}": "^"}
    handles = [
        Line2D([], [], color="0.3", linestyle="none", marker=mark) for mark in marks.values()
    ]
    axes.legend(handles, list(marks), loc="upper left", fontsize=SMALL, frameon=False)
    place_of_bar = figure.add_axes((1 - 0.8 / 6, 0.5 / 3.8, 0.13 / 6, 1 - 0.85 / 3.8))
    steps(figure, place_of_bar, [f"{run.epochs[e]:g}" for e in shown]).set_label("epoch")
    return figure
