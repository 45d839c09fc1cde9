"""What a person sees of a sweep: a line per point, and on a terminal where every slot stands."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from lowrank.common.terminal import duration, say
from lowrank.common.texts import harmless
from lowrank.launch.sweeps.search import described
from lowrank.launch.sweeps.study import Ended, Point, Tally
from lowrank.runs.find import load_run
from lowrank.runs.format import RecordError

EVERY = 1.0
"""Seconds between two looks into the records of running points."""


class Progress:
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
        self._slots = slots
        self._swept = swept
        self._metric = metric
        self._output_dir = output_dir
        self._stream = stream or sys.stdout
        self._bars: Any = None
        self._looked = 0.0
        self._started = time.monotonic()
        self._at_start = 0
        self._tally: Tally | None = None
        self._begun = 0.0

    def __enter__(self) -> Progress:
        if self._stream.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
            from rich.progress import Progress as Bars

            self._bars = Bars(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}", markup=False),
                console=Console(file=self._stream),
                transient=True,
            )
            self._bars.add_task("points", total=None, note="starting")
            for slot in self._slots:
                self._bars.add_task(slot, total=None, note="starting")
            self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def line(self, text: str) -> None:
        """Prints a line.

        Args:
            text: Printed as it is.
        """
        if self._bars is None:
            say(text, self._stream)
        else:
            self._bars.console.print(harmless(text), markup=False, highlight=False, soft_wrap=True)

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

    def ended(self, point: Point, ended: Ended, seconds: float, tally: Tally) -> None:
        """Tells how a point ended.

        Args:
            point: The point.
            ended: How.
            seconds: Its training took.
            tally: How the sweep stands now.
        """
        self._begun = max(0.0, self._begun - 1)  # the point was one of those that are running
        what = f"{point.run_id} {ended.outcome}"
        if ended.value is not None:
            what += f", {self._metric} {ended.value:.4g}"
        elif ended.outcome == "finished":
            what += f", no {self._metric}"
        left = self._seconds_left(tally)
        swept = described({n: value for n, value in point.values.items() if n in self._swept})
        self.line(
            f"[{tally.done + len(tally.failed)}/{tally.size}] {what}, "
            f"{duration(seconds)}, left {duration(left)}: {swept}"
        )
        if ended.outcome == "failed":
            again = "is not tried again" if point.index in tally.failed else "is tried again"
            last = ended.why.splitlines()[-1] if ended.why else ""
            self.line(f"  attempt {point.attempt} of this point, which {again}: {last}")
        self._update(tally)

    def show(self, running: Mapping[str, Point]) -> None:
        """Shows where the running points stand; on a terminal only.

        Args:
            running: Points by slot.
        """
        if self._bars is None or time.monotonic() - self._looked < EVERY:
            return
        self._looked = time.monotonic()
        self._begun = 0.0
        for task in self._bars.tasks[1:]:
            point = running.get(task.description)
            if point is None:
                self._bars.update(task.id, total=None, completed=0, note="idle")
                continue
            epoch, epochs, rank = self._stand(point)
            self._begun += epoch / epochs if epochs else 0.0
            note = f"{point.run_id} rank_mean {rank:.1f}" if epochs else point.run_id
            self._bars.update(task.id, total=epochs or None, completed=epoch, note=note)
        if self._tally is not None:
            self._update(self._tally)

    def _stand(self, point: Point) -> tuple[int, int, float]:
        """Returns a running point's epoch, number of epochs and rank; zeros where unknown."""
        try:
            run = load_run(self._output_dir / point.run_id)
            ranks = run.metrics["rank_mean"] if len(run.epochs) else np.array([np.nan])
            epoch = int(run.epochs[-1]) if len(run.epochs) else 0
            return epoch, int(run.config["epochs"]), float(ranks[-1])
        except (RecordError, KeyError):
            return 0, 0, float("nan")

    def _update(self, tally: Tally) -> None:
        self._tally = tally
        if self._bars is None:
            return
        done = tally.done + len(tally.failed)
        elapsed = time.monotonic() - self._started
        rate = 60 * (done - self._at_start) / elapsed if elapsed > 0 else 0.0
        note = f"{rate:.1f} a minute, left {duration(self._seconds_left(tally))}"
        for name, count in (("collapsed", tally.collapsed), ("failed", len(tally.failed))):
            note += f", {count} {name}" if count else ""
        self._bars.update(self._bars.task_ids[0], total=tally.size, completed=done, note=note)

    def _seconds_left(self, tally: Tally) -> float:
        """Returns the time left, also counting the epochs of points that are running."""
        done = tally.done + len(tally.failed) + self._begun
        if done <= self._at_start:
            return float("nan")
        pace = (time.monotonic() - self._started) / (done - self._at_start)
        return pace * max(0.0, tally.size - done)
