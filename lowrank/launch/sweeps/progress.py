"""What a person sees of a sweep: a line per point, and on a terminal where every slot stands.

Of a pack the slot shows the epoch, the number of runs and their least and largest rank.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

from lowrank.common.terminal import Display, duration
from lowrank.launch.logs import cause
from lowrank.launch.stand import stand_of
from lowrank.launch.sweeps.points import LOST, Ended, Point, Tally, name_of
from lowrank.launch.sweeps.search import described

EVERY = 1.0
"""Seconds between two looks into the records of running points, at least."""

SHARE = 0.02
"""Of the time that these looks may take: a pack has many records."""


class Progress(Display):
    """Prints a line for each point that ends, above bars if there is a terminal.

    Args:
        slots: Names of the slots.
        swept: Parameters that vary, which a point is told by.
        metric: Its value is shown.
        output_dir: Where runs are written.
        stream: Where to print.
    """

    def __init__(
        self,
        slots: Sequence[str],
        swept: Sequence[str],
        metric: str,
        output_dir: Path,
        stream: TextIO | None = None,
    ) -> None:
        super().__init__(stream)
        self._slots = slots
        self._swept = swept
        self._metric = metric
        self._output_dir = output_dir
        self._next_look = 0.0
        self._started = time.monotonic()
        self._at_start = 0
        self._tally: Tally | None = None
        self._begun = 0.0
        for name in ("points", *slots):
            self.bar(name, 0, None, "starting")

    def start(self, tally: Tally) -> None:
        """Begins to count.

        Args:
            tally: How the sweep stands.
        """
        self._started = time.monotonic()
        self._at_start = tally.done + len(tally.failed)
        if self._at_start:
            self.line(f"{self._at_start} of {tally.size} points are done already")
        self._update(tally)

    def ended(self, points: Sequence[Point], ended: Ended, seconds: float, tally: Tally) -> None:
        """Tells how a point ended, or several of a pack that failed as one.

        Args:
            points: The points.
            ended: How.
            seconds: Their training took.
            tally: How the sweep stands now.
        """
        self._begun = max(0.0, self._begun - len(points))  # of those that are running
        point = points[0]
        what = f"{name_of(points)} {ended.outcome}"
        if ended.value is not None:
            what += f", {self._metric} {ended.value:.4g}"
        elif ended.outcome == "finished":
            what += f", no {self._metric}"
        left = self._seconds_left(tally)
        swept = described({n: value for n, value in point.values.items() if n in self._swept})
        if len(points) > 1:
            swept = f"{len(points)} points of one pack"
        self.line(
            f"[{tally.done + len(tally.failed)}/{tally.size}] {what}, "
            f"{duration(seconds)}, left {duration(left)}: {swept}"
        )
        if ended.outcome in LOST:
            self.line(f"  no {self._metric} of this point, which is {ended.why}")
        if ended.outcome == "failed":
            of, verb = ("this point", "is") if len(points) == 1 else ("these points", "are")
            again = "not tried again" if point.index in tally.failed else "tried again"
            lines = ended.why.splitlines()
            why = cause(lines) or (lines or [""])[-1]
            self.line(f"  attempt {point.attempt} of {of}, which {verb} {again}: {why}")
        self._update(tally)

    def show(self, running: Mapping[str, Sequence[Point]]) -> None:
        """Shows where the running packs stand; on a terminal only.

        Args:
            running: Points by slot.
        """
        started = time.monotonic()
        if not self.is_terminal or started < self._next_look:
            return
        self._begun = 0.0
        for slot in self._slots:
            points = running.get(slot)
            if not points:
                self.bar(slot, 0, None, "idle")
                continue
            stands = [stand_of(self._output_dir / point.run_id, "rank_mean") for point in points]
            # The record of a member that a rule has ended stands still.
            epoch, epochs = max((each.epoch or 0, each.epochs or 0) for each in stands)
            self._begun += len(points) * epoch / epochs if epochs else 0.0
            self.bar(slot, epoch, epochs or None, _note(points, [each.value for each in stands]))
        took = time.monotonic() - started
        self._next_look = started + max(EVERY, took / SHARE)
        if self._tally is not None:
            self._update(self._tally)

    def _update(self, tally: Tally) -> None:
        self._tally = tally
        done = tally.done + len(tally.failed)
        elapsed = time.monotonic() - self._started
        rate = 60 * (done - self._at_start) / elapsed if elapsed > 0 else 0.0
        note = f"{rate:.1f} a minute, left {duration(self._seconds_left(tally))}"
        for name, count in {**tally.losses, "failed": len(tally.failed)}.items():
            note += f", {count} {name}" if count else ""
        self.bar("points", done, tally.size, note)

    def _seconds_left(self, tally: Tally) -> float:
        """Returns the time left, also counting the epochs of points that are running."""
        done = tally.done + len(tally.failed) + self._begun
        if done <= self._at_start:
            return float("nan")
        pace = (time.monotonic() - self._started) / (done - self._at_start)
        return pace * max(0.0, tally.size - done)


def _note(points: Sequence[Point], ranks: Sequence[float]) -> str:
    """Returns what a slot shows of the points that train there."""
    known = [rank for rank in ranks if math.isfinite(rank)]
    if len(points) == 1:
        return points[0].run_id + (f" rank_mean {known[0]:.1f}" if known else "")
    note = f"{len(points)} runs from {points[0].run_id}"
    return note + (f", rank {min(known):.1f} to {max(known):.1f}" if known else "")
