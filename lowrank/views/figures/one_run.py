"""Figures of one run or several: tables in, matplotlib figures out.

Nothing here touches files, pyplot or matplotlib's global settings; save a figure with
``figure.savefig(path)``. Colours are viridis by depth or epoch, cividis for shares, and the blue
and vermilion of Okabe and Ito: distinct for colour-blind readers and in print.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import blended_transform_factory

from lowrank.runs.find import Run
from lowrank.views.figures.directions import DirectionsTable, directions_figure
from lowrank.views.figures.shades import SMALL, shade, steps
from lowrank.views.figures.spectrum import edges_of, spectrum_over_time
from lowrank.views.figures.truncation import truncation_figure
from lowrank.views.table.fields import assignments, plain
from lowrank.views.table.rows import Floats

LEGEND_LAYERS = 12
"""Up to so many layers are named in a legend; more are a colour bar of depth."""

MEAN: dict[str, Any] = {"color": "black", "linewidth": 2.2, "linestyle": (0, (4, 1))}
"""How ``rank_mean`` is drawn."""


ALL = "every weight matrix"
WHAT = {
    "weight": ALL,
    "qk": "W_Q'W_K of every attention head",
    "ov": "W_O W_V of every attention head",
    "change": "the change since initialisation",
    "update": "the update by the epoch's last step",
    "gradient": "the gradient on one batch",
}
"""What the matrices of a kind are."""

_DECIDE = ("lr", "weight_decay", "batch_size", "seed")
"""What titles say of a run."""


@dataclass(frozen=True)
class RankTable:
    """Ranks of every layer over the measured epochs of one run.

    Attributes:
        title: What the run is, for a reader who compares several.
        epochs: Shape (E,), ascending, fractions where measured within epochs; epochs that were not
            measured are left out.
        layers: Names in network order, L of them.
        full_ranks: Shape (L,): the smaller dimension of each matrix.
        ranks: Shape (L, E); NaN where a matrix collapsed.
        mean: Shape (E,): ``rank_mean``.
        train_accuracy: Shape (E,), 0..1; NaN within epochs.
        test_accuracy: Shape (E,), 0..1; likewise.
        epsilon: Threshold of the ranks.
        what: Which matrices they are.
    """

    title: str
    epochs: Floats
    layers: Sequence[str]
    full_ranks: Floats
    ranks: Floats
    mean: Floats
    train_accuracy: Floats
    test_accuracy: Floats
    epsilon: float = 1e-3
    what: str = ALL

    @classmethod
    def of(cls, run: Run, title: str = "", kind: str = "weight") -> RankTable:
        """Takes the table from a run record.

        Args:
            run: As `lowrank.load_run` gives it.
            title: By default the settings that decide its rank.
            kind: Of the matrices that are in the table.

        Returns:
            The table at the run's primary ε.
        """
        measured = np.isfinite(run.over_time("collapsed"))
        if kind != "weight":  # what is derived is not measured within epochs
            measured &= np.isin(run.times, run.epochs)

        def metric(name: str) -> Floats:
            return run.over_time(name)[measured]

        layers = [layer for layer in (*run.layers, *run.derived) if layer.kind == kind]
        return cls(
            title=title or settings_of(run),
            epochs=run.times[measured],
            layers=[layer.name for layer in layers],
            full_ranks=np.array([float(min(layer.shape)) for layer in layers]),
            ranks=np.array([metric(f"rank/{layer.name}") for layer in layers]),
            mean=metric("rank_mean"),
            train_accuracy=metric("train_accuracy"),
            test_accuracy=metric("test_accuracy"),
            epsilon=run.config["epsilons"][0],
            what=WHAT[kind],
        )

    @property
    def labels(self) -> list[str]:
        """Each layer with its full rank."""
        pairs = zip(self.layers, self.full_ranks, strict=True)
        return [f"{name} ({full:.0f})" for name, full in pairs]


def settings_of(run: Run) -> str:
    """Returns what tells a run from others of its kind, for a title.

    Args:
        run: The run.

    Returns:
        Network, data and the settings that decide the rank; the id where none is recorded.
    """
    of = [str(run.config[name]) for name in ("model", "dataset") if name in run.config]
    told = [name for name in _DECIDE if run.config.get(name) is not None]
    settings = assignments(told, [plain(run.config[name]) for name in told])
    return " ".join(filter(None, [" on ".join(of), settings])) or run.id


def final_figures(run: Run) -> dict[str, Figure]:
    """Draws what W&B gets with the last epoch's row.

    Args:
        run: As `lowrank.load_run` gives it, with that epoch.

    Returns:
        ``rank_heatmap`` and ``spectrum_over_time``; ``rank_heatmap_<kind>`` of what is measured
        beside the weight matrices; ``accuracy_by_rank`` of a run with
        ``truncation_every``, and ``direction_overlap`` of one with ``directions``.
    """
    measured = np.isfinite(run.metrics["collapsed"])
    spectra = {layer.name: run.spectra[layer.name][measured] for layer in run.layers}
    spectrum = spectrum_over_time(
        np.asarray(run.epochs, dtype=np.float64)[measured],
        spectra,
        epsilons=run.config["epsilons"],
        rank_norm=run.config["rank_norm"],
        title=settings_of(run),
    )
    figures = {"rank_heatmap": rank_heatmap(RankTable.of(run)), "spectrum_over_time": spectrum}
    for kind in dict.fromkeys(layer.kind for layer in run.derived):
        figures[f"rank_heatmap_{kind}"] = rank_heatmap(RankTable.of(run, kind=kind))
    truncated, kept = truncation_figure(run), DirectionsTable.of(run, settings_of(run))
    if truncated is not None:
        figures["accuracy_by_rank"] = truncated
    if kept is not None:
        figures["direction_overlap"] = directions_figure(kept)
    return figures


def rank_heatmap(table: RankTable) -> Figure:
    """Draws rank as a share of full rank, layer by epoch, the first layer on top.

    Args:
        table: Ranks of one run.

    Returns:
        The figure; a cell without rank is grey.
    """
    count = len(table.layers)
    height = 1.5 + max(1.5, 0.19 * count)
    figure = Figure(figsize=(9, height))
    axes = figure.add_subplot()
    # Places in inches: matplotlib's own layout draws everything twice.
    names = 0.55 + 0.009 * SMALL * max(len(label) for label in table.labels)
    left, right = names / 9, 1 - 0.95 / 9
    figure.subplots_adjust(left, 0.5 / height, right, 1 - 0.3 / height)
    axes.set_facecolor("0.85")
    image = axes.pcolormesh(
        edges_of(table.epochs),
        np.arange(count + 1) - 0.5,
        table.ranks / table.full_ranks[:, None],
        cmap="cividis",
        vmin=0,
        vmax=1,
    )
    axes.invert_yaxis()
    axes.set_yticks(range(count), table.labels, fontsize=SMALL)
    axes.set_ylabel("layer (full rank)")
    why = "collapsed, " if table.what == ALL else ""
    _epoch_axis(axes, f" (grey: {why}no rank)" if np.isnan(table.ranks).any() else "")
    title = f"{table.title}: rank of {table.what} at ε = {table.epsilon:g}"
    axes.set_title(title, size=9, x=(0.5 - left) / (right - left), y=1)  # amid the figure
    place = figure.add_axes((1 - 0.8 / 9, 0.5 / height, 0.13 / 9, 1 - 0.8 / height))
    bar = figure.colorbar(image, cax=place, label="rank / full rank")
    bar.ax.tick_params(labelsize=SMALL)
    return figure


def rank_curves(tables: Sequence[RankTable]) -> Figure:
    """Draws rank over epochs per layer, one run beside the other, with accuracies below.

    Args:
        tables: One or more runs.

    Returns:
        The figure. Dotted lines are full ranks; a curve that ends in × is a collapsed matrix.
    """
    figure = Figure(figsize=(1.9 + 4.4 * len(tables), 6), layout="constrained")
    upper, lower = figure.subplots(
        2, len(tables), sharex="col", sharey="row", squeeze=False, height_ratios=[3, 1]
    )
    for table, axes, below in zip(tables, upper, lower, strict=True):
        _curves(axes, table)
        _accuracies(below, table)
        end = f"test accuracy {100 * table.test_accuracy[-1]:.1f} %"
        axes.set_title(f"{table.title}: {end}", size=10)
    upper[0].set_ylabel(f"rank at ε = {tables[0].epsilon:g}")
    upper[0].set_ylim(0, 1.06 * max(table.full_ranks.max() for table in tables))
    lower[0].set_ylabel("accuracy in %")
    lower[0].set_ylim(0, 103)
    for axes in (*upper, *lower):
        axes.tick_params(labelsize=SMALL)
        axes.spines[["top", "right"]].set_visible(False)
    _layer_key(figure, upper, lower[-1], tables)
    return figure


def _curves(axes: Axes, table: RankTable) -> None:
    """Ranks of every layer, their mean, and the full ranks."""
    marker = "o" if len(table.epochs) == 1 else None
    count = len(table.layers)
    for index, values in enumerate(table.ranks):
        axes.plot(table.epochs, values, marker=marker, **_layer_style(index, count))
        finite = np.flatnonzero(np.isfinite(values))
        if finite.size and finite[-1] < len(values) - 1:
            end = table.epochs[finite[-1]], values[finite[-1]]
            axes.plot(*end, "x", color=shade(index, count), markersize=8, markeredgewidth=2)
    axes.plot(table.epochs, table.mean, marker=marker, **MEAN)
    right = blended_transform_factory(axes.transAxes, axes.transData)
    behind = {"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.5}
    for full in np.unique(table.full_ranks):
        axes.axhline(full, color="0.5", linestyle=":", linewidth=1)
    for full in _apart(np.unique(table.full_ranks), 0.05 * table.full_ranks.max()):
        axes.annotate(
            f"full rank {full:.0f}",
            (0.99, full),
            xycoords=right,
            xytext=(0, 3),
            textcoords="offset points",
            fontsize=7,
            ha="right",
            bbox=behind,
        )


def _accuracies(axes: Axes, table: RankTable) -> None:
    """Train and test accuracy in percent."""
    marker = "o" if len(table.epochs) == 1 else None
    style: dict[str, Any] = {"linewidth": 1.5, "marker": marker}
    ends = np.isfinite(table.train_accuracy)
    epochs = table.epochs[ends]
    axes.plot(epochs, 100 * table.train_accuracy[ends], "--", color="#D55E00", **style)
    axes.plot(epochs, 100 * table.test_accuracy[ends], color="#0072B2", **style)
    _epoch_axis(axes)


def _layer_key(
    figure: Figure, upper: Sequence[Axes], corner: Axes, tables: Sequence[RankTable]
) -> None:
    """Names the layers right of the plots, or gives a colour bar if they are many."""
    outside: dict[str, Any] = {
        "loc": "upper left", "bbox_to_anchor": (1.02, 1), "frameon": False, "fontsize": SMALL,
        "alignment": "left", "title_fontsize": SMALL, "borderaxespad": 0,
    }  # fmt: skip
    lines = {"train accuracy": corner.lines[0], "test accuracy": corner.lines[1]}
    mean = {"mean of hidden layers": Line2D([], [], **MEAN)}
    if any(np.isnan(table.ranks).any() for table in tables):
        lines["collapsed: no rank"] = Line2D([], [], color="black", linestyle="none", marker="x")
    table = max(tables, key=lambda table: len(table.layers))
    count = len(table.layers)
    if count <= LEGEND_LAYERS:
        named_lines = {
            label: Line2D([], [], **_layer_style(index, count))
            for index, label in enumerate(table.labels)
        }
        named_lines |= mean
        upper[-1].legend(
            list(named_lines.values()), list(named_lines), title="layer (full rank)", **outside
        )
    else:
        lines |= mean
        place = upper[-1].inset_axes((1.03, 0, 0.04, 1))
        bar = steps(figure, place, table.labels)
        named = np.linspace(0, count - 1, 12).round().astype(int)
        bar.set_ticks(named + 0.5, labels=[table.labels[index] for index in named])
        bar.ax.invert_yaxis()
        bar.set_label("layer (full rank)")
    corner.legend(list(lines.values()), list(lines), **outside)


def _layer_style(index: int, count: int) -> dict[str, Any]:
    """Returns darker and thicker lines towards the input: none hides another at the same rank."""
    thick = 4.2 - 3 * index / max(1, count - 1)
    return {
        "color": shade(index, count),
        "linewidth": thick if count <= LEGEND_LAYERS else 0.8,
        "solid_capstyle": "butt",
    }


def _epoch_axis(axes: Axes, remark: str = "") -> None:
    """Whole numbers only: there is no epoch 2.5."""
    axes.xaxis.set_major_locator(MaxNLocator(9, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    axes.tick_params(axis="x", labelsize=SMALL)
    axes.set_xlabel(f"epoch{remark}")


def _apart(values: Floats, distance: float) -> list[float]:
    """Returns the values from the largest down, without those within `distance` of a kept one."""
    kept: list[float] = []
    for value in values[::-1]:
        if not kept or kept[-1] - value >= distance:
            kept.append(float(value))
    return kept
