"""One launcher: takes points, hands them to its warm workers, and returns how they ended."""

from __future__ import annotations

import math
import select
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowrank.common.errors import Failure
from lowrank.common.signals import Interruption
from lowrank.launch.logs import last_lines
from lowrank.launch.sweeps.pool import Worker
from lowrank.launch.sweeps.progress import Progress
from lowrank.launch.sweeps.study import Ended, Point, SweepStudy, Tally
from lowrank.runs.directory import ENDED
from lowrank.runs.find import Run, load_run
from lowrank.runs.format import RecordError
from lowrank.runs.lock import is_locked
from lowrank.runs.lost import lost

LOOK = 0.5
"""Seconds between two looks for a signal and for points that others have left."""

LAST_LINES = 8
"""Lines of a failed run's log that are kept with its point."""

SHORT = 60.0
"""Seconds of a run below which its worker's next point is taken ahead, so that it need not wait.
A longer run would keep the point from another machine."""

STARTS = 3
"""Times that a worker may die in a row before it has trained anything."""


@dataclass
class _Job:
    """A point that a worker trains.

    Attributes:
        point: The point.
        log: What the run prints.
        offset: Where in the log this attempt begins.
        started: On the monotonic clock.
    """

    point: Point
    log: Path
    offset: int
    started: float


class Launcher:
    """Runs a sweep's points until none is left.

    Args:
        study: The points.
        workers: One per slot, started.
        output_dir: Where runs are written.
        arguments: Flags of every run besides its point's and its run id.
        progress: What a person sees.
        interruption: Tells when to stop.
    """

    def __init__(
        self,
        study: SweepStudy,
        workers: Sequence[Worker],
        *,
        output_dir: Path,
        arguments: Sequence[str],
        progress: Progress,
        interruption: Interruption,
    ) -> None:
        self._study = study
        self._workers = workers
        self._output_dir = output_dir
        self._arguments = list(arguments)
        self._progress = progress
        self._interruption = interruption
        self._jobs: dict[Worker, _Job] = {}
        self._ahead: dict[Worker, Point] = {}
        self._last_seconds = dict.fromkeys(workers, math.inf)
        self._deaths = dict.fromkeys(workers, 0)
        self._next_beat = 0.0
        self._next_claim = 0.0

    def run(self) -> Tally:
        """Runs what is missing.

        Returns:
            How the sweep stands in the end: settled, unless a signal came.

        Raises:
            Failure: If workers die before they have trained anything, or the storage is away.
        """
        try:
            self._beat()
            self._progress.start(self._study.tally())
            while self._interruption.proceed():
                if not self._hand_out() and not self._jobs and self._study.tally().settled:
                    break
                self._listen()
                self._beat_if_due()
                self._progress.show({w.slot.name: j.point for w, j in self._jobs.items()})
            else:
                self._stop()
        finally:
            for worker in self._jobs:  # only if something went wrong
                worker.kill()
            for point in (*(job.point for job in self._jobs.values()), *self._ahead.values()):
                self._study.finish(point, Ended("stopped"))
        return self._study.tally()

    def _hand_out(self) -> bool:
        """Gives each idle worker a point.

        Returns:
            Whether there was one for any.
        """
        given = False
        for worker in self._workers:
            if not worker.ready or time.monotonic() < self._next_claim:
                continue
            if worker not in self._jobs:
                point = self._ahead.pop(worker, None) or self._claim()
                if point is not None:
                    given = True
                    self._start(worker, point)
            elif worker not in self._ahead and self._takes_ahead(worker):
                point = self._claim()
                if point is not None:
                    self._ahead[worker] = point
        return given

    def _claim(self) -> Point | None:
        """Takes the next point whose run is not done, as far as its record here says.

        Returns:
            The point, if there is one.
        """
        while (point := self._study.claim(self._is_free)) is not None:
            ended = self._recorded(point)
            if ended is None:
                return point
            self._finish(point, ended, 0.0)
        self._next_claim = time.monotonic() + LOOK  # others run the last ones
        return None

    def _takes_ahead(self, worker: Worker) -> bool:
        """Returns whether a worker's next point is taken while it runs: not if it should learn."""
        search = self._study.search.sweep.method != "bayes"
        return search and self._last_seconds[worker] < SHORT

    def _start(self, worker: Worker, point: Point) -> None:
        log = self._output_dir / "logs" / f"{point.run_id}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        offset = log.stat().st_size if log.exists() else 0
        self._jobs[worker] = _Job(point, log, offset, time.monotonic())
        search = self._study.search
        words = search.sweep.command(point.values, search.overrides)
        worker.send([*words, *self._arguments, f"--run_id={point.run_id}"], log)

    def _is_free(self, run_id: str) -> bool:
        """Returns whether nobody works on a run: a dead launcher's worker may still be ending."""
        return not is_locked(self._output_dir / run_id)

    def _recorded(self, point: Point) -> Ended | None:
        """Returns how a point's run ended if its record here says that it is done."""
        try:
            run = load_run(self._output_dir / point.run_id)
            return self._end_of(run) if run.state in ENDED else None
        except RecordError:
            return None

    def _end_of(self, run: Run) -> Ended:
        gone = lost(run)
        if gone is not None:
            return Ended(gone.how, why=gone.text)
        metric = self._study.search.metric
        value = float(run.metrics[metric][-1]) if metric in run.metrics else math.nan
        return Ended(run.state, value if math.isfinite(value) else None)

    def _listen(self) -> None:
        """Waits for news of the workers, and attends to them."""
        ready, _, _ = select.select(self._workers, [], [], LOOK)
        for worker in ready:
            for message in worker.replies():
                self._attend(worker, message)

    def _attend(self, worker: Worker, message: Mapping[str, Any]) -> None:
        """Ends a worker's point as its reply says, and replaces the worker if need be.

        Raises:
            Failure: If it dies again and again before it has trained anything.
        """
        job = self._jobs.pop(worker, None)
        stopping = not self._interruption.proceed()
        died = "died" in message
        goes_on = not (died or message.get("spent") or stopping)
        if goes_on and worker in self._ahead:
            self._start(worker, self._ahead.pop(worker))
        if job is not None:
            seconds = self._last_seconds[worker] = time.monotonic() - job.started
            self._finish(job.point, self._judge(job, message), seconds)
        self._deaths[worker] = self._deaths[worker] + 1 if died and job is None else 0
        if self._deaths[worker] >= STARTS:
            raise Failure(
                f"the worker of {worker.slot.name} dies while it starts "
                f"(exit code {message['died']}); what it said is in {worker.log}"
            )
        if not goes_on and not stopping:
            worker.kill()
            worker.start()

    def _judge(self, job: _Job, message: Mapping[str, Any]) -> Ended:
        if message.get("code") == 0:
            ended = self._recorded(job.point)
            if ended is not None:
                return ended
        if message.get("code") in (130, 143) or not self._interruption.proceed():
            return Ended("stopped")
        if "died" in message:
            why = f"the worker died with exit code {message['died']}"
            if message["died"] == 137:
                why += ": killed, perhaps as memory ran out"
        else:
            lines = last_lines(job.log, job.offset, LAST_LINES)
            why = "\n".join(lines) or message.get("error") or f"exit code {message['code']}"
        return Ended("failed", why=why, log=str(job.log))

    def _finish(self, point: Point, ended: Ended, seconds: float) -> None:
        self._study.finish(point, ended)
        self._progress.ended(point, ended, seconds, self._study.tally())

    def _beat_if_due(self) -> None:
        if time.monotonic() >= self._next_beat:
            self._beat()

    def _beat(self) -> None:
        """Gives a sign of life; ends runs that others have taken for dead and begun again."""
        self._next_beat = time.monotonic() + self._study.heartbeat
        lost = self._study.beat([*(j.point for j in self._jobs.values()), *self._ahead.values()])
        self._ahead = {w: point for w, point in self._ahead.items() if point not in lost}
        for worker, job in list(self._jobs.items()):
            if job.point in lost:
                del self._jobs[worker]
                worker.kill()
                worker.start()

    def _stop(self) -> None:
        """Lets running points write their checkpoints; they are queued again by the next start."""
        self._progress.line(f"{self._interruption.name}: waiting for checkpoints")
        for worker in self._workers:
            worker.interrupt()
        while self._jobs:
            self._listen()
            self._beat_if_due()
