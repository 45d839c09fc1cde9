"""Published values beside those of runs: which run stands for which point, and what it has there.

A run stands for a point if it has every setting that decides (`figures.compared`). Images from a
folder stand in for any data set: a record does not say what they are of, hence a line does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lowrank.common.texts import printable
from lowrank.measure.ranks import rank
from lowrank.runs.find import Run
from lowrank.runs.format import RecordError
from lowrank.runs.lost import NO_RANK
from lowrank.views.published.figures import Point, compared, settings_of
from lowrank.views.table.fields import in_order, plain, settings, text, words
from lowrank.views.table.rows import ACCURACIES, Definition, definitions, read_row

MOST_DIFFERENT = 2
"""Runs that differ from a point in more settings than this were not meant to stand for it."""

_PARTS = {"mean conv": "convolutions.", "mean linear": "linears."}  # of the mixed network


@dataclass(frozen=True)
class Reading:
    """What one run has where the figure was measured.

    Attributes:
        run: Its id.
        epoch: Where its values are from.
        values: By the names of the published series; NaN for the ranks of a network without any.
        full: The largest possible value of each rank.
    """

    run: str
    epoch: int
    values: Mapping[str, float]
    full: Mapping[str, float]


@dataclass(frozen=True)
class Row:
    """One published value beside those of the runs that stand for it.

    Attributes:
        point: Where it was published.
        series: Which of the point's values.
        ours: A value for each run; NaN for a network without rank.
        full: The largest possible value: the full rank, or 1 of an accuracy; NaN without a run.
    """

    point: Point
    series: str
    ours: tuple[float, ...]
    full: float

    @property
    def published(self) -> float:
        """The value; NaN for the rank of a network that died."""
        value = self.point.values[self.series]
        return np.nan if self.is_rank and self.point.died else value

    @property
    def is_rank(self) -> bool:
        """Whether it is no accuracy."""
        return self.series not in ACCURACIES

    @property
    def with_value(self) -> tuple[float, ...]:
        """Ours without the networks that have no rank."""
        return tuple(value for value in self.ours if not np.isnan(value))

    @property
    def mean(self) -> float:
        """The mean over the networks that have a value; NaN for none."""
        return float(np.mean(self.with_value)) if self.with_value else np.nan

    @property
    def deviation(self) -> float:
        """Their sample standard deviation; NaN for fewer than two."""
        return float(np.std(self.with_value, ddof=1)) if len(self.with_value) > 1 else np.nan

    @property
    def difference(self) -> float:
        """Our mean less the published value; NaN where one of them is no rank."""
        return self.mean - self.published

    def is_within(self, tolerance: float) -> bool:
        """Tells whether ours is the published value.

        Args:
            tolerance: In per cent of `full`.

        Returns:
            Whether the difference is at most that. Two networks without rank agree.
        """
        if np.isnan(self.published) or np.isnan(self.mean):
            return bool(np.isnan(self.published) and np.isnan(self.mean))
        return bool(abs(self.difference) <= tolerance / 100 * self.full)


@dataclass(frozen=True)
class Comparison:
    """Published points beside runs.

    Attributes:
        points: Those asked for.
        readings: The runs that stand for each, in the order of the points.
        lines: What a reader must know of these runs.
        missing: Lines on the points that have no run, and on runs that nearly stand for one.
        instead: Settings that were asked for in place of the figure's.
        epsilon: Threshold of the ranks; None for the figure's.
    """

    points: Sequence[Point]
    readings: Sequence[Sequence[Reading]]
    lines: Sequence[str] = ()
    missing: Sequence[str] = ()
    instead: Mapping[str, Hashable] = field(default_factory=dict)
    epsilon: float | None = None

    @property
    def rows(self) -> list[Row]:
        """A row for each value of each point that has a run."""
        return [
            Row(
                point,
                series,
                tuple(reading.values[series] for reading in readings),
                next((reading.full[series] for reading in readings), np.nan),
            )
            for point, readings in zip(self.points, self.readings, strict=True)
            for series in _in_order(point.values)
            if readings
        ]


def compare(
    points: Sequence[Point],
    runs: Sequence[Run],
    instead: Mapping[str, Hashable] | None = None,
    epsilon: float | None = None,
) -> Comparison:
    """Finds for published points the runs that stand for them, and reads their values.

    Args:
        points: The points.
        runs: Where to look.
        instead: Settings that runs have in place of the figure's.
        epsilon: Threshold of the ranks in place of the figure's.

    Returns:
        The comparison. A run that has not come to the epoch of the figure is told in a line, as is
        every point without a run.
    """
    changed = dict(instead or {})
    own = [(run, compared(settings(run))) for run in runs]
    readings: list[list[Reading]] = []
    empty: list[Point] = []
    lines, stood = dict[str, None](), set[str]()
    folders = defaultdict[tuple[str, str], set[str]](set)
    for point in points:
        standing = [(run, has) for run, has in own if not missed(point, has, changed)]
        stood |= {run.id for run, _ in standing}
        if not standing:
            empty.append(point)
        of_seed: dict[Hashable, Reading] = {}
        for run, has in standing:
            try:
                reading = read(run, point, epsilon or point.epsilon)
            except RecordError as error:
                lines[f"left out: {error.lines[0]}"] = None
                continue
            name = printable(run.id, None)
            seed = run.config.get("seed")
            if isinstance(reading, str):
                lines[f"not there yet: run {name} ({reading})"] = None
            elif seed in of_seed:
                first = printable(of_seed[seed].run, None)
                lines[f"left out: run {name} repeats {first}, with the same seed"] = None
            else:
                of_seed[seed] = reading
                if has["dataset"] != point.settings["dataset"]:
                    place = str(run.config.get("data_dir"))
                    folders[place, str(point.settings["dataset"])].add(run.id)
        readings.append(list(of_seed.values()))
    images = [
        f"images: {_runs(ids)} read the folder {printable(folder, 200)} in place of {name}; "
        "whether it holds the same images no record says"
        for (folder, name), ids in folders.items()
    ]
    others = [(run, has) for run, has in own if run.id not in stood]
    missing = [*_without(empty), *_near(points, others, changed)]
    return Comparison(points, readings, [*lines, *images], missing, changed, epsilon)


def missed(
    point: Point, has: Mapping[str, Hashable], instead: Mapping[str, Hashable] | None = None
) -> dict[str, Hashable]:
    """Returns the settings by which a run does not stand for a point.

    Args:
        point: The point.
        has: What `figures.compared` keeps of the run's settings.
        instead: Settings wanted in place of the figure's.

    Returns:
        What the run has of each; nothing if it stands for the point.
    """
    wanted = {**point.settings, **(instead or {})}
    if has.get("dataset") == "imagefolder":
        wanted["dataset"] = "imagefolder"
    return {name: has.get(name) for name, value in wanted.items() if plain(value) != has.get(name)}


def read(run: Run, point: Point, epsilon: float) -> Reading | str:
    """Reads what a run has of the published values.

    Args:
        run: It stands for the point.
        point: The point.
        epsilon: Threshold of the ranks, which are counted in the recorded spectra.

    Returns:
        Its values after as many epochs as the figure's, or after the first measured one beyond;
        in words what it is, where it has not come so far. A network that died earlier has no rank.
    """
    row = read_row(run, next(iter(definitions(run)), Definition()))
    target = max(0, min(point.epoch, int(run.config["epochs"])))
    there = row.epochs[row.epochs >= target]
    if not there.size and row.end not in NO_RANK:
        last = f"epoch {row.epochs[-1]:g}" if row.epochs.size else "no epoch"
        return f"{row.end}, {last} of {target}"
    epoch = int(there[0] if there.size else row.epochs[-1])
    place = int(np.flatnonzero(row.epochs == epoch)[0])
    values = {name: float(getattr(row, name)[place]) for name in ACCURACIES}
    full = dict.fromkeys(ACCURACIES, 1.0)
    counted = [layer for layer in run.layers if layer.counted]
    spectra = run.spectra_at([epoch])
    ranks = [
        np.nan if np.isnan(row.ranks[place]) else float(np.ravel(rank(spectra[n], epsilon))[0])
        for n in (layer.name for layer in counted)
    ]
    sizes = [min(layer.shape) for layer in counted]
    for series in point.values.keys() - values:
        places = _layers_of(series, [layer.path for layer in counted])
        values[series] = float(np.mean([ranks[k] for k in places])) if places else np.nan
        full[series] = float(np.mean([sizes[k] for k in places])) if places else np.nan
    return Reading(run.id, epoch, values, full)


def _layers_of(series: str, paths: Sequence[str]) -> list[int]:
    """Returns the places of the matrices, among the counted ones, whose ranks a series averages."""
    if series.startswith("layer "):
        place = int(series.removeprefix("layer "))
        return [place] if place < len(paths) else []
    part = _PARTS.get(series, "")
    return [place for place, path in enumerate(paths) if path.startswith(part)]


def _in_order(series: Mapping[str, float]) -> list[str]:
    """Returns the names of a point's values: means, layers, accuracies."""
    return sorted(series, key=lambda name: (name in ACCURACIES, not name.startswith("mean")))


def _without(points: Sequence[Point]) -> list[str]:
    """Returns a line for each panel in which points have no run."""
    panels: dict[tuple[str, str], list[Point]] = defaultdict(list)
    for point in points:
        panels[point.figure, point.panel].append(point)
    return [
        f"no run: figure {figure}, {panel}: {words(found[0].x_name)} "
        + ", ".join(text(point.x) for point in found)
        for (figure, panel), found in panels.items()
    ]


def _near(
    points: Sequence[Point],
    others: Sequence[tuple[Run, Mapping[str, Hashable]]],
    instead: Mapping[str, Hashable],
) -> list[str]:
    """Returns lines on the runs that would stand for a point but for a setting or two."""
    groups: dict[tuple[tuple[str, Hashable], ...], list[str]] = defaultdict(list)
    of_figures = {name for point in points for name in settings_of(point.figure)}
    for run, has in others:
        differing = min((missed(point, has, instead) for point in points), key=len, default={})
        if 0 < len(differing) <= MOST_DIFFERENT and not differing.keys() & of_figures:
            groups[tuple(differing.items())].append(run.id)
    lines = []
    for pairs, ids in groups.items():
        given = ", ".join(f"{name}: {_yaml(value)}" for name, value in pairs)
        told = " and ".join(f"{name}={text(value)}" for name, value in pairs)
        lines.append(
            f"other settings: {_runs(ids)} at {printable(told, 200)}, not the figure's; compared "
            f"with --instead='{{{printable(given, 200)}}}'"
        )
    return lines


def _yaml(value: Hashable) -> str:
    return f"[{text(value)}]" if isinstance(value, tuple) else text(value)


def _runs(ids: Sequence[str] | set[str]) -> str:
    (first, *more) = in_order(ids)
    return f"{len(more) + 1} runs" if more else f"run {printable(str(first), None)}"
