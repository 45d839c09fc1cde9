"""The points of a sweep: replicates together, repetitions apart, and what is missing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from lowrank.config.settings import SAME_EXPERIMENT
from lowrank.runs.find import Run
from lowrank.views.table.factors import Values, factors_of, grid, is_grid
from lowrank.views.table.fields import (
    assignments,
    in_order,
    plain,
    settings,
    text,
    varied,
)
from lowrank.views.table.rows import Floats, RunRow

_Run = TypeVar("_Run", RunRow, Run)
_BEST_FIRST = ("finished", "collapsed", "running", "stopped", "killed", "failed")


@dataclass(frozen=True)
class Network:
    """One trained network: a run, or one of its replicas.

    Attributes:
        row: The run.
        place: Which of its replicas.
    """

    row: RunRow
    place: int

    @property
    def ranks(self) -> Floats:
        """Average rank over the run's epochs, shape (E,); NaN where there is none."""
        return np.asarray(self.row.ranks[self.place])

    @property
    def end(self) -> str:
        """How it ended: finished, collapsed, dead, running, stopped, failed or killed."""
        return self.row.ends[self.place]


@dataclass(frozen=True)
class Point:
    """Runs with the same settings but for their seeds.

    Attributes:
        values: Of the fields that vary over the sweep.
        rows: The runs; none where the point is missing.
    """

    values: Values
    rows: tuple[RunRow, ...] = ()

    @property
    def networks(self) -> list[Network]:
        """Every network of every run."""
        return [Network(row, place) for row in self.rows for place in range(len(row.ends))]


@dataclass(frozen=True)
class Plan:
    """The points of a sweep file.

    Attributes:
        fields: What it sweeps, but for the seed.
        seeds: For every point its seeds; None stands for any one seed.
    """

    fields: tuple[str, ...]
    seeds: dict[Values, list[Hashable]]

    @classmethod
    def of(cls, configs: Sequence[Mapping[str, Any]], swept: Sequence[str]) -> Plan:
        """Takes the points from the configurations of a sweep file.

        Args:
            configs: Complete, as `lowrank.config.Config.recorded` gives them.
            swept: The fields that the file sweeps.

        Returns:
            The plan.
        """
        fields = tuple(name for name in swept if name not in SAME_EXPERIMENT)
        seeds: dict[Values, list[Hashable]] = defaultdict(list)
        for config in configs:
            first = config["seed"] if "seed" in swept or config["replicas"] > 1 else None
            seeds[tuple(plain(config[name]) for name in fields)] += [
                None if first is None else first + place for place in range(config["replicas"])
            ]
        return cls(fields, dict(seeds))


@dataclass(frozen=True)
class Sweep:
    """Runs as points of what varies over them.

    Attributes:
        fields: The settings that vary.
        points: Those that have runs, and those of the plan that have none.
        lines: What a reader must know: runs left out, collapsed or not finished, points missing.
    """

    fields: tuple[str, ...]
    points: list[Point]
    lines: list[str]

    @property
    def rows(self) -> list[RunRow]:
        """All runs."""
        return [row for point in self.points for row in point.rows]


def sweep_of(rows: Sequence[RunRow], plan: Plan | None = None) -> Sweep:
    """Sorts runs into points.

    Args:
        rows: The runs.
        plan: The points of a sweep file, if there is one; a run is at the point whose values of
            the plan's fields it has.

    Returns:
        The points, with a line for every repetition, every run of no point, every run that
        collapsed or is not finished, and every point that lacks a run.
    """
    kept, lines = _without_repetitions(rows)
    if plan is not None:
        kept, strangers = at_points(kept, plan)
        lines += strangers
    found = [settings(row) for row in kept]
    base = found[0] if found else {}
    planned: list[dict[str, Hashable]] = []
    if plan is not None:
        planned = [{**base, **dict(zip(plan.fields, v, strict=True))} for v in plan.seeds]
    fields = varied([*found, *planned])
    of_point: dict[Values, list[RunRow]] = {}
    for row, each in zip([*kept, *[None] * len(planned)], [*found, *planned], strict=True):
        rows_there = of_point.setdefault(tuple(each.get(name) for name in fields), [])
        if row is not None:
            rows_there.append(row)
    points = [Point(values, tuple(of_point[values])) for values in _in_order(of_point)]
    lines += _endings(points, fields)
    expected = _usual_seeds(points, fields)
    if plan is not None:
        seeds = zip(planned, plan.seeds.values(), strict=True)
        expected = {tuple(each.get(name) for name in fields): wanted for each, wanted in seeds}
    lines += _missing(points, fields, expected)
    return Sweep(fields, points, lines)


def _usual_seeds(points: Sequence[Point], fields: Sequence[str]) -> dict[Values, list[Hashable]]:
    """Returns what one expects of runs alone: a filled grid, and at each point the usual seeds.

    A grid is expected where the runs fill at least half of it and are no star; a seed where more
    than half of the points have it.
    """
    seeds = {point.values: set(_seeds(point)) for point in points}
    factors = factors_of(fields, list(seeds))
    counts = Counter(seed for each in seeds.values() for seed in each)
    usual = in_order(seed for seed, count in counts.items() if 2 * count > len(seeds))
    cells = grid(factors) if is_grid(factors, list(seeds)) else list(seeds)
    return {values: usual or [None] for values in cells}


def _missing(
    points: Sequence[Point], fields: Sequence[str], expected: Mapping[Values, list[Hashable]]
) -> list[str]:
    """Returns a line for each point that has no run, or not all of its seeds."""
    present = {point.values: _seeds(point) for point in points if point.rows}
    lines = []
    for values in _in_order(expected):
        wanted, there = expected[values], present.get(values, [])
        lost = list((Counter(wanted) - Counter(there)).elements())
        if None in wanted:  # any seed will do: only how many there are counts
            lost = lost[: max(0, len(wanted) - len(there))]
        where = assignments(fields, values) or "the only point"
        if not there:
            lines.append(f"missing: {where}" + (f" ({_seed_words(lost)})" if lost[1:] else ""))
        elif lost:
            lines.append(f"missing: {where}, {_seed_words(lost)}")
    return lines


def _without_repetitions(rows: Sequence[RunRow]) -> tuple[list[RunRow], list[str]]:
    """Returns the best run of every experiment and seed, and a line for every other one."""
    best: dict[Hashable, RunRow] = {}
    lines = []
    for row in sorted(rows, key=lambda row: (_BEST_FIRST.index(row.state), -len(row.epochs),
                                             row.created)):  # fmt: skip
        seed, replicas = row.config.get("seed"), row.config.get("replicas")
        key = (frozenset(settings(row).items()), plain(seed), plain(replicas))
        if seed is None or key not in best:
            best[row.id if seed is None else key] = row
        else:
            lines.append(
                f"left out: run {row.id} ({row.state}) repeats {best[key].id} "
                f"({best[key].state}), with the same seed"
            )
    order = {row.path: place for place, row in enumerate(rows)}
    return sorted(best.values(), key=lambda row: order[row.path]), lines


def at_points(rows: Sequence[_Run], plan: Plan) -> tuple[list[_Run], list[str]]:
    """Finds the runs at the points of a plan.

    Args:
        rows: The runs.
        plan: The plan.

    Returns:
        Those at a point, and a line for every other one.
    """
    kept, lines = [], []
    for row in rows:
        found = settings(row)
        values = tuple(found.get(name) for name in plan.fields)
        if values in plan.seeds:
            kept.append(row)
        else:
            where = assignments(plan.fields, values)
            lines.append(f"left out: run {row.id} is at no point of the sweep ({where})")
    return kept, lines


def _endings(points: Sequence[Point], fields: Sequence[str]) -> list[str]:
    """Returns a line for each run that collapsed, died or is not finished."""
    lines = []
    for point in points:
        for row in point.rows:
            ends = Counter(end for end in row.ends if end != "finished")
            for end, count in ends.items():
                seed = row.config.get("seed")
                where = " ".join(
                    filter(None, [assignments(fields, point.values),
                                  "" if seed is None else f"seed={text(plain(seed))}"])
                )  # fmt: skip
                some = f", {count} of {len(row.ends)} replicas" if len(row.ends) > 1 else ""
                last = f"{row.epochs[-1]:g}" if row.epochs.size else "none"
                detail = (
                    f"no rank from epoch {row.collapse_epoch:g} on"
                    if end in ("collapsed", "dead")
                    else f"last epoch measured: {last}"
                )
                lines.append(f"{end}: run {row.id} ({where}{some}): {detail}".replace("()", ""))
    return lines


def _seeds(point: Point) -> list[Hashable]:
    seeds: list[Hashable] = []
    for row in point.rows:
        first = row.config.get("seed")
        seeds += [
            int(first) + place if isinstance(first, int) else None for place in range(len(row.ends))
        ]
    return seeds


def _seed_words(seeds: Sequence[Hashable]) -> str:
    if None in seeds:
        return f"{len(seeds)} more seed{'s' if len(seeds) > 1 else ''}"
    found = ", ".join(text(seed) for seed in in_order(seeds))
    return f"seed{'s' if len(seeds) > 1 else ''} {found}"


def _in_order(points: Mapping[Values, object]) -> list[Values]:
    """Returns points sorted by their fields, each in its own order."""
    columns = [in_order(column) for column in zip(*points, strict=True)]
    places = [{value: place for place, value in enumerate(column)} for column in columns]
    return sorted(points, key=lambda values: [p[v] for p, v in zip(places, values, strict=True)])


def pooled(
    means: Sequence[Floats], deviations: Sequence[Floats], counts: Sequence[int]
) -> tuple[Floats, Floats]:
    """Pools groups of measurements of which means, sample deviations and sizes are known.

    Args:
        means: One array for each group.
        deviations: Sample standard deviations; 0 in groups of one.
        counts: How many measurements each group has.

    Returns:
        Mean and sample standard deviation of all; the latter NaN for a single measurement.

    Example:
        >>> mean, deviation = pooled([np.array([1.0]), np.array([3.0])], [np.zeros(1)] * 2, [1, 1])
        >>> float(mean[0]), round(float(deviation[0]), 4)
        (2.0, 1.4142)
    """
    n = np.array(counts, dtype=np.float64)[:, None]
    values, spread = np.array(means), np.array(deviations)
    mean = (n * values).sum(axis=0) / n.sum()
    squares = ((n - 1) * spread**2 + n * (values - mean) ** 2).sum(axis=0)
    total = n.sum()
    return mean, np.sqrt(squares / (total - 1)) if total > 1 else np.full_like(mean, np.nan)
