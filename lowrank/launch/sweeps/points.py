"""A point of a sweep, how an attempt at it ended, and how the sweep stands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lowrank.runs.lost import NO_RANK

PRUNED = "pruned"
"""Outcome of a run that was ended early, as worse than others."""

LOST = (*NO_RANK, PRUNED)
"""Outcomes of a run that is done and has no value."""


@dataclass(frozen=True)
class Point:
    """One point, taken by this launcher.

    Attributes:
        index: Its number in the sweep, from 0.
        run_id: Of its run, the same at every attempt.
        values: Of every parameter, without overrides.
        trial: Optuna's number of this attempt.
        attempt: 1 for the first; only failures count.
    """

    index: int
    run_id: str
    values: Mapping[str, Any]
    trial: int
    attempt: int


def run_id_of(prefix: str, number: int) -> str:
    """Returns the id of a point's run.

    Args:
        prefix: Of the sweep.
        number: Of the point.

    Example:
        >>> run_id_of("ab", 7)
        'ab-0007'
    """
    return f"{prefix}-{number:04d}"


def name_of(points: Sequence[Point]) -> str:
    """Returns what points are called that train together.

    Args:
        points: One or several.

    Example:
        >>> name_of([Point(n, f"ab-000{n}", {}, n, 1) for n in range(3)])
        'ab-0000+2'
    """
    return points[0].run_id + (f"+{len(points) - 1}" if len(points) > 1 else "")


@dataclass
class Job:
    """A pack that a worker trains.

    Attributes:
        points: Its points.
        size: Members of the pack, with those that are done already.
        log: What their runs print.
        offset: Where in the log this attempt begins.
        started: On the monotonic clock.
    """

    points: Sequence[Point]
    size: int
    log: Path
    offset: int
    started: float


@dataclass(frozen=True)
class Ended:
    """How an attempt ended.

    Attributes:
        outcome: ``finished``, ``collapsed``, ``dead``, ``pruned``, ``failed`` or ``stopped``.
        value: Of the sweep's metric; None where there is none.
        why: Last lines of a failure, or how the run was lost or pruned.
        log: The file with the rest.
    """

    outcome: str
    value: float | None = None
    why: str = ""
    log: str = ""


@dataclass(frozen=True)
class Tally:
    """How a sweep stands.

    Attributes:
        size: Points in all.
        done: Of these finished, collapsed, dead or pruned.
        running: Here and elsewhere.
        failed: Last attempt of each point that failed too often, by point number.
        lost: How each of those ended that are done and have no rank, by point number.
    """

    size: int
    done: int
    running: int
    failed: Mapping[int, Ended]
    lost: Mapping[int, Ended] = field(default_factory=dict)

    @property
    def settled(self) -> bool:
        """Whether nothing is left to do."""
        return self.done + len(self.failed) == self.size

    @property
    def losses(self) -> Counter[str]:
        """How many points were lost, by outcome."""
        return Counter(ended.outcome for ended in self.lost.values())
