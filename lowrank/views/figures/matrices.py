"""Tables of what matrices do: spectra, ratios of norms over epochs, accuracy at lower ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lowrank.common.errors import InputError
from lowrank.common.texts import csv_text, known, nearest, printable
from lowrank.measure.layers import Layer
from lowrank.measure.truncation import LADDER
from lowrank.runs.find import Run, load_run
from lowrank.runs.lost import NO_RANK
from lowrank.views.figures.averages import averaged
from lowrank.views.figures.layout import ByValue, Layout
from lowrank.views.table.matrices import EVERY, norm_ratios, relative_spectra, usual_layer
from lowrank.views.table.points import Point
from lowrank.views.table.rows import Definition, Floats, RunRow
from lowrank.views.table.truncated import truncated

LOGARITHMIC = 100.0
"""From this factor between the largest and the least value on, an axis is logarithmic."""


@dataclass(frozen=True)
class Line:
    """One point of a sweep: the mean over its networks.

    Attributes:
        value: Place among the values that lines stand for.
        seeds: Number of networks.
        x: Shape (N,), ascending.
        mean: Shape (N,).
        deviation: Sample standard deviation, shape (N,); NaN for a single network.
        decay: What weight decay alone would do, shape (N,); NaN where that is not known.
    """

    value: int
    seeds: int
    x: Floats
    mean: Floats
    deviation: Floats
    decay: Floats


@dataclass(frozen=True)
class LinesTable(ByValue):
    """Lines by the value of a setting, in panels.

    Attributes:
        panels: Title and lines of each panel, at least one.
        x: At the x-axis: the head of its column, and the words.
        y: Likewise at the y-axis.
        is_logarithmic: Whether the y-axis is.
        epsilon: Threshold that is drawn; None for none.
        is_share: Whether the x-axis has halves, quarters, … of one.
    """

    panels: Sequence[tuple[str, Sequence[Line]]]
    x: tuple[str, str]
    y: tuple[str, str]
    is_logarithmic: bool = False
    epsilon: float | None = None
    is_share: bool = False

    @property
    def lines(self) -> list[Line]:
        """Those of all panels."""
        return [line for _, found in self.panels for line in found]


def spectra_table(
    points: Sequence[Point],
    layout: Layout,
    definition: Definition,
    layer: str = "",
    epoch: int | None = None,
) -> LinesTable:
    """Makes the table of one figure of spectra: σ/‖W‖ of a matrix against their index.

    Args:
        points: Those that the layout was chosen for.
        layout: What lines and panels stand for.
        definition: Whose norm divides, and whose threshold is drawn.
        layer: The matrix; by default the middle one of those that are counted.
        epoch: Where the spectra are from; None for each run's last measured epoch.

    Returns:
        The table.

    Raises:
        InputError: If no run has such a matrix, or was measured at that epoch.
    """
    name = _known_layer(points, layer)

    def of_row(row: RunRow) -> tuple[Floats, Floats, Floats] | None:
        run = load_run(row.path)
        at = row.epochs[-1] if epoch is None and row.epochs.size else epoch
        if at is None or at not in row.epochs or name not in run.spectra:
            return None
        relative = relative_spectra(run, [int(at)], definition.rank_norm)[name][0]
        if not np.isfinite(relative).any():
            return None
        places = np.arange(1.0, len(relative) + 1)
        return places, relative, np.full(len(relative), np.nan)

    panels = _panels(points, layout, of_row)
    if not panels:
        when = "the last epoch" if epoch is None else f"epoch {epoch}"
        raise InputError(f"epoch: no network has a spectrum of {printable(name)} at {when}")
    least = [
        float(line.mean[line.mean > 0].min(initial=1)) for _, found in panels for line in found
    ]
    title = f"{printable(name)}, " + ("last epoch" if epoch is None else f"epoch {epoch}")
    symbol = "‖W‖_F" if definition.rank_norm == "frobenius" else "‖W‖_2"
    return LinesTable(
        **layout.by_value(title),
        panels=panels,
        x=("index", "index of the singular value"),
        y=("sigma_over_norm", f"σ / {symbol}"),
        is_logarithmic=max(_highest(panels), definition.epsilon) > LOGARITHMIC * min(least),
        epsilon=definition.epsilon,
    )


def ratio_table(
    points: Sequence[Point], layout: Layout, layer: str = "", every: int = EVERY
) -> LinesTable:
    """Makes the table of one figure of norm ratios ‖W(t+k)‖/‖W(t)‖ over k epochs, against t+k.

    Beside them Π(1 − μ·wd) over the steps of these epochs: what is left of a matrix whose gradients
    are zero, as once a network interpolates.

    Args:
        points: Those that the layout was chosen for.
        layout: What lines and panels stand for.
        layer: The matrix; by default the mean over those that are counted.
        every: The number k of epochs.

    Returns:
        The table.

    Raises:
        InputError: If there is no such matrix, or no two epochs so far from each other.
    """
    name = _known_layer(points, layer) if layer else ""

    def of_row(row: RunRow) -> tuple[Floats, Floats, Floats] | None:
        run = load_run(row.path)
        wanted = [
            each.name for each in _all(run) if each.name == name or (each.counted and not name)
        ]
        if not wanted:
            return None
        ends, of_layers, decay = norm_ratios(run, row.epochs, wanted, every)
        ratios = np.mean(of_layers, axis=0)
        if name and name not in {each.name for each in run.layers}:
            decay = np.full(len(decay), np.nan)  # of what is no weight itself it says nothing
        kept = np.isfinite(ratios)
        return ends[kept], ratios[kept], decay[kept]

    panels = _panels(points, layout, of_row)
    if not panels:
        raise InputError(
            f"every: no network has norms {every} epochs from each other; allowed: multiples of "
            "the runs' measure_every"
        )
    what = printable(name) or "mean over the counted matrices"
    return LinesTable(
        **layout.by_value(what),
        panels=panels,
        x=("epoch", "epoch"),
        y=("norm_ratio", f"‖W‖ / ‖W‖ of {every} epoch{'s' if every > 1 else ''} before"),
    )


def truncation_table(
    points: Sequence[Point], layout: Layout, epoch: int | None = None
) -> LinesTable:
    """Makes the table of one figure of test accuracy against the share of full rank that is kept.

    Args:
        points: Those that the layout was chosen for.
        layout: What lines and panels stand for.
        epoch: Of the networks; None for each run's last with `truncation_every`.

    Returns:
        The table.

    Raises:
        InputError: If no network was truncated at that epoch.
    """
    steps = [kept for kept in LADDER if kept.kind == "share"]
    drawn: set[int] = set()

    def of_row(row: RunRow) -> tuple[Floats, Floats, Floats] | None:
        run = load_run(row.path)
        found = truncated(run, steps)
        if found is None:
            return None
        places = found.places if epoch is None else found.places[run.epochs[found.places] == epoch]
        if not places.size:
            return None
        shares = np.array([kept.amount for kept in steps])
        drawn.add(int(run.epochs[places[-1]]))
        return shares, 100 * found.accuracies[:, places[-1]], np.full(len(shares), np.nan)

    panels = _panels(points, layout, of_row)
    if not panels:
        when = "" if epoch is None else f" at epoch {epoch}"
        raise InputError(
            f"epoch: no network was truncated{when}; allowed: runs with truncation_every that have "
            "a rank"
        )
    when = f"epoch {min(drawn)}" if len(drawn) == 1 else "last truncated epoch"
    return LinesTable(
        **layout.by_value(when),
        panels=panels,
        x=("share_kept", "rank kept / full rank of every counted matrix"),
        y=("test_accuracy", "test accuracy in %"),
        is_share=True,
    )


def lines_csv(table: LinesTable) -> str:
    """Writes what such a figure shows: a line per panel, value and place on the x-axis.

    Args:
        table: As drawn.

    Returns:
        CSV with a head; nothing where a number is not known.
    """
    has_decay = any(np.isfinite(line.decay).any() for line in table.lines)
    head = ["panel", *([table.by] if table.by else []), "seeds", table.x[0], table.y[0]]
    rows: list[list[Any]] = [[*head, f"{table.y[0]}_std", *(["decay"] if has_decay else [])]]
    for title, found in table.panels:
        for line in found:
            start = [title, *([table.labels[line.value]] if table.by else []), line.seeds]
            for x, *numbers in zip(line.x, line.mean, line.deviation, line.decay, strict=True):
                shown = [known(each) for each in numbers]
                rows.append([*start, f"{x:g}", *(shown if has_decay else shown[:2])])
    return csv_text(rows)


def _panels(
    points: Sequence[Point],
    layout: Layout,
    of_row: Callable[[RunRow], tuple[Floats, Floats, Floats] | None],
) -> list[tuple[str, list[Line]]]:
    """Returns title and lines of every panel that has any.

    A line is the mean over the finished networks of a point or, where it has none, over those that
    are not finished; collapsed and dead ones have no line.
    """
    panels = []
    for title, members in layout.panels(points):
        found = []
        for point in members:
            alive = [row for row in point.rows if row.end not in NO_RANK]
            whole = [row for row in alive if row.end == "finished"] or alive
            read = [each for row in whole if (each := of_row(row)) is not None and each[0].size]
            place = layout.across.place(point.values)
            if read:
                found.append(_mean(place, read))
        if found:
            panels.append((title, sorted(found, key=lambda line: line.value)))
    return panels


def _mean(value: int, read: Sequence[tuple[Floats, Floats, Floats]]) -> Line:
    places, *columns = zip(*read, strict=True)
    x, (mean, decay), (spread, _) = averaged(places, columns)
    return Line(value, len(read), x, mean, spread, decay)


def _all(run: Run) -> tuple[Layer, ...]:
    """Returns the weight matrices, then what is measured beside them."""
    return (*run.layers, *run.derived)


def _known_layer(points: Iterable[Point], asked: str) -> str:
    """Returns the matrix asked for, or the middle one of those that are counted.

    Raises:
        InputError: If no run has it.
    """
    layers = [
        layer
        for path in dict.fromkeys(row.path for point in points for row in point.rows)
        for layer in _all(load_run(path))
    ]
    names = list(dict.fromkeys(layer.name for layer in layers))
    usual = usual_layer(layers)
    if asked not in names and (asked or not usual):
        raise InputError(f"layer: no run has '{printable(asked)}'{nearest(asked[:60], names)}")
    return asked or usual


def _highest(panels: Sequence[tuple[str, Sequence[Line]]]) -> float:
    return max(float(line.mean.max()) for _, found in panels for line in found)
