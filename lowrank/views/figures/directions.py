"""How far a run's leading singular directions stay: with its final epoch, and any two epochs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lowrank.common.texts import csv_text
from lowrank.measure.directions import Directions, overlaps
from lowrank.runs.find import Run
from lowrank.views.figures.shades import SMALL, shade, steps
from lowrank.views.figures.spectrum import edges_of
from lowrank.views.table.rows import Floats

SHOWN = 50
"""Epochs compared with each other, at most."""

LEGEND_LAYERS = 12

_WORDS = {"left": "left (outputs)", "right": "right (inputs)"}


@dataclass(frozen=True)
class DirectionsTable:
    """Overlaps of leading directions of one run.

    Attributes:
        title: What the run is.
        count: The number of directions asked for.
        epochs: Shape (E,), ascending: measured ones, evenly chosen where there are many.
        layers: Names in network order.
        counted: Which of them are.
        overlaps: By side, shape (L, E, E); NaN where there is none.
        chance: By side, shape (L,): the overlap of random directions on average.
    """

    title: str
    count: int
    epochs: Floats
    layers: list[str]
    counted: np.ndarray
    overlaps: dict[str, Floats]
    chance: dict[str, Floats]

    @classmethod
    def of(cls, run: Run, title: str) -> DirectionsTable | None:
        """Takes the table from a run record.

        Args:
            run: As `lowrank.load_run` gives it.
            title: What the run is.

        Returns:
            The table; None where no directions were kept.
        """
        if not run.has_directions or not run.measured.size:
            return None
        places = np.linspace(0, len(run.measured) - 1, min(SHOWN, len(run.measured)))
        epochs = run.measured[places.round().astype(int)]
        at = np.searchsorted(run.epochs, epochs)
        found: dict[str, list[Floats]] = {side: [] for side in Directions._fields}
        chance: dict[str, list[float]] = {side: [] for side in Directions._fields}
        count = 0
        for layer in run.layers:
            for side, vectors in run.directions(layer.name)._asdict().items():
                found[side].append(overlaps(vectors[at]))
                chance[side].append(vectors.shape[-1] / vectors.shape[1])
                count = max(count, vectors.shape[-1])
        return cls(
            title=title,
            count=count,
            epochs=epochs.astype(np.float64),
            layers=[layer.name for layer in run.layers],
            counted=np.array([bool(layer.counted) for layer in run.layers]),
            overlaps={side: np.array(each) for side, each in found.items()},
            chance={side: np.array(each) for side, each in chance.items()},
        )

    @property
    def averaged(self) -> np.ndarray:
        """Which layers heat maps average: the counted ones, or all where none is."""
        return self.counted if self.counted.any() else np.ones_like(self.counted)


def directions_figure(table: DirectionsTable) -> Figure:
    """Draws overlaps with the final epoch, a curve per layer, and below those of any two epochs.

    Args:
        table: Of one run.

    Returns:
        The figure: left vectors on the left, right ones on the right.
    """
    figure = Figure(figsize=(9, 6.6))
    # Places in inches: matplotlib's own layout draws everything twice.
    figure.subplots_adjust(0.6 / 9, 0.5 / 6.6, 1 - 2.1 / 9, 1 - 0.65 / 6.6, 0.12, 0.15)
    upper, lower = figure.subplots(2, 2, sharex="col", sharey="row", height_ratios=[1, 1.3])
    for axes, (side, words) in zip(upper, _WORDS.items(), strict=True):
        _curves(axes, table, side)
        axes.set_title(words, fontsize=9, y=1)
    image = None
    for axes, side in zip(lower, _WORDS, strict=True):
        mean = table.overlaps[side][table.averaged].mean(axis=0)
        edges = edges_of(table.epochs)
        axes.set_facecolor("0.85")
        image = axes.pcolormesh(edges, edges, mean, cmap="cividis", vmin=0, vmax=1)
        axes.set_xlabel("epoch")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(9, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    upper[0].set_ylabel("overlap with the final epoch")
    upper[0].set_ylim(0, 1.04)
    lower[0].set_ylabel("epoch")
    for axes in (*upper, *lower):
        axes.tick_params(labelsize=SMALL)
    box = lower[0].get_position()
    place = figure.add_axes((1 - 1.9 / 9, box.y0, 0.13 / 9, box.height))
    assert image is not None
    bar = figure.colorbar(image, cax=place, label="overlap, mean of the counted layers")
    bar.ax.tick_params(labelsize=SMALL)
    _key(figure, upper[-1], table)
    figure.suptitle(
        f"{table.title}: leading {table.count} singular directions", size=10, y=1 - 0.12 / 6.6,
        va="top",
    )  # fmt: skip
    return figure


def directions_csv(table: DirectionsTable) -> str:
    """Writes what the figure shows: a line per layer, side and pair of epochs.

    Args:
        table: As drawn.

    Returns:
        CSV with a head; nothing where there is no overlap.
    """
    rows: list[list[Any]] = [["layer", "side", "epoch", "other_epoch", "overlap", "chance"]]
    for side, found in table.overlaps.items():
        for name, values, chance in zip(table.layers, found, table.chance[side], strict=True):
            for (one, other), value in np.ndenumerate(values):
                if one >= other:
                    pair = [f"{table.epochs[one]:g}", f"{table.epochs[other]:g}"]
                    told = "" if np.isnan(value) else repr(float(value))
                    rows.append([name, side, *pair, told, f"{chance:.6g}"])
    return csv_text(rows)


def _curves(axes: Axes, table: DirectionsTable, side: str) -> None:
    count = len(table.layers)
    marker = "o" if len(table.epochs) == 1 else None
    for index, values in enumerate(table.overlaps[side][:, :, -1]):
        axes.plot(table.epochs, values, color=shade(index, count), linewidth=1.3, marker=marker)
    chance = table.chance[side][table.averaged].mean()
    axes.axhline(chance, color="0.4", linestyle=":", linewidth=1)
    axes.spines[["top", "right"]].set_visible(False)


def _key(figure: Figure, corner: Axes, table: DirectionsTable) -> None:
    """Names the layers right of the curves, or gives a colour bar if they are many."""
    dotted = corner.lines[-1]
    told = "random directions, mean"
    box = corner.get_position()
    if len(table.layers) > LEGEND_LAYERS:
        place = figure.add_axes((1 - 1.9 / 9, box.y0, 0.13 / 9, box.height * 0.86))
        bar = steps(figure, place, table.layers)
        named = np.linspace(0, len(table.layers) - 1, 8).round().astype(int)
        bar.set_ticks(named + 0.5, labels=[table.layers[index] for index in named])
        bar.ax.invert_yaxis()
    lines = [] if len(table.layers) > LEGEND_LAYERS else list(corner.lines[:-1])
    names = table.layers if lines else []
    corner.legend(
        [*lines, dotted], [*names, told], loc="upper left", bbox_to_anchor=(1.02, 1.06),
        frameon=False, fontsize=SMALL - 1, borderaxespad=0,
    )  # fmt: skip
