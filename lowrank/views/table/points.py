"""The points of a sweep: replicates together, repetitions apart, and what is missing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from lowrank.config.settings import SAME_EXPERIMENT
from lowrank.runs.find import Run
from lowrank.runs.lost import NO_RANK
from lowrank.views.table.factors import Values, factors_of, grid, is_grid
from lowrank.views.table.fields import (
    assignments,
    in_order,
    plain,
    settings,
    text,
    varied,
)
from lowrank.views.table.rows import RunRow

_Run = TypeVar("_Run", RunRow, Run)
_BEST_FIRST = ("finished", "collapsed", "running", "stopped", "killed", "failed")


@dataclass(frozen=True)
class Point:
    """Runs with the same settings but for their seeds.

    Attributes:
        values: Of the fields that vary over the sweep.
        rows: The runs; none where the point is missing.
    """

    values: Values
    rows: tuple[RunRow, ...] = ()


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
            values = tuple(plain(config[name]) for name in fields)
            seeds[values].append(config["seed"] if "seed" in swept else None)
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
        seed = row.config.get("seed")
        key = (frozenset(settings(row).items()), plain(seed))
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
            if row.end == "finished":
                continue
            seed = row.config.get("seed")
            where = " ".join(
                filter(None, [assignments(fields, point.values),
                              "" if seed is None else f"seed={text(plain(seed))}"])
            )  # fmt: skip
            last = f"{row.epochs[-1]:g}" if row.epochs.size else "none"
            how, detail = f"{row.end} since epoch {row.collapse_epoch:g}", ""
            if row.end not in NO_RANK:
                how, detail = f"not finished, {row.end}", f", last epoch measured: {last}"
            lines.append(f"{how}: run {row.id} ({where}){detail}".replace("()", ""))
    return lines


def _seeds(point: Point) -> list[Hashable]:
    seeds = (row.config.get("seed") for row in point.rows)
    return [seed if isinstance(seed, int) else None for seed in seeds]


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
