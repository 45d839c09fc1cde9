"""One launcher: takes packs, hands them to its warm workers, and returns how their points ended."""

from __future__ import annotations

import contextlib
import math
import select
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lowrank.common.errors import Failure
from lowrank.common.signals import Interruption
from lowrank.launch.logs import last_lines
from lowrank.launch.sweeps.elsewhere import end_of
from lowrank.launch.sweeps.points import PRUNED, Ended, Job, Point, Tally, name_of
from lowrank.launch.sweeps.pool import Worker
from lowrank.launch.sweeps.progress import Progress
from lowrank.launch.sweeps.pruning import Pruner
from lowrank.launch.sweeps.study import SweepStudy
from lowrank.runs.directory import ENDED
from lowrank.runs.find import load_run
from lowrank.runs.format import RecordError
from lowrank.runs.lock import is_locked
from lowrank.training.requests import SEPARATOR

LOOK = 0.5
"""Seconds between two looks for a signal and for points that others have left."""

LAST_LINES = 8
"""Lines of a failed run's log that are kept with its point."""

SHORT = 60.0
"""Seconds of a run below which its worker's next point is taken ahead, so that it need not wait.
A longer run would keep the point from another machine."""

STARTS = 3
"""Times that a worker may die in a row before it has trained anything."""


class Launcher:
    """Runs a sweep's points until none is left.

    Args:
        study: The points.
        workers: One per slot, started.
        output_dir: Where runs are written.
        arguments: Flags of every run besides its point's and its run id.
        progress: What a person sees.
        interruption: Tells when to stop.
        pruner: Says which runs end early; None if none do.
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
        pruner: Pruner | None = None,
    ) -> None:
        self._study = study
        self._pruner = pruner
        self._pruned: dict[str, str] = {}
        self._next_look = 0.0
        self._workers = workers
        self._output_dir = output_dir
        self._arguments = list(arguments)
        self._progress = progress
        self._interruption = interruption
        self._jobs: dict[Worker, Job] = {}
        self._ahead: dict[Worker, Sequence[Point]] = {}
        self._undecided: dict[str, tuple[list[str], int]] | None = None
        self._asked: Worker | None = None
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
                self._prune()
                self._progress.show({w.slot.name: j.points for w, j in self._jobs.items()})
            else:
                self._stop()
        finally:
            for worker in self._jobs:  # only if something went wrong
                worker.kill()
            for point in self._taken():
                self._study.finish(point, Ended("stopped"))
        return self._study.tally()

    def _hand_out(self) -> bool:
        """Gives each idle worker a pack.

        Returns:
            Whether there was one for any.
        """
        given = False
        for worker in sorted(self._workers, key=self._jobs.__contains__):  # the idle ones first
            if time.monotonic() < self._next_claim:
                break
            if not self._decided(worker):
                continue
            if worker.ready and worker not in self._jobs:
                points = self._ahead.pop(worker, None) or self._claim()
                if not points and self._ahead:  # the last pack, which a busy one would have next
                    _, points = self._ahead.popitem()
                if points:
                    given = True
                    self._start(worker, points)
            elif worker not in self._ahead and self._takes_ahead(worker):
                points = self._claim()
                if points:
                    self._ahead[worker] = points
        return given

    def _decided(self, worker: Worker) -> bool:
        """Returns whether the size of every pack is known; if not, the worker is asked for it."""
        if self._undecided is None:
            self._undecided = self._study.undecided()
        if self._undecided and self._asked is None and worker.ready:
            self._asked = worker
            sharing = sum(worker.slot.visible == other.slot.visible for other in self._workers)
            kinds = {kind: words for kind, (words, _) in self._undecided.items()}
            worker.estimate(kinds, sharing)
        return not self._undecided

    def _decide(self, members: Mapping[str, int]) -> None:
        """Spreads what fits into memory evenly over the slots, and notes it."""
        self._study.decide(self._undecided or {}, members, len(self._workers))
        self._undecided, self._asked = {}, None
        self._progress.line(f"{self._study.packs.described()}, as memory allows")

    def _claim(self) -> Sequence[Point]:
        """Takes the next points of one pack whose runs are not done, as far as records here say.

        Returns:
            The points, if there are any.
        """
        while points := self._study.claim(self._is_free):
            ends = [(point, self._recorded(point)) for point in points]
            self._finish([(point, ended) for point, ended in ends if ended is not None], 0.0)
            if left := [point for point, ended in ends if ended is None]:
                return left
        self._next_claim = time.monotonic() + LOOK  # others run the last ones
        return []

    def _ghosts(self, points: Sequence[Point]) -> list[Point]:
        """Returns those of a pack that are done here: in it they keep the bits of the others.

        Says whose absence may change what a point's run computes.
        """
        if not self._study.packs.on:
            return []
        ghosts, absent = [], Counter[str]()
        for mate, how in self._study.mates(points):
            if how == "done" and self._recorded(mate) is not None:
                ghosts.append(mate)
            else:
                absent[how] += 1
        if absent:
            told = {"done": "done", "elsewhere": "in training elsewhere", "failed": "failed"}
            counted = " and ".join(f"{n} {told[how]}" for how, n in sorted(absent.items()))
            verb = "point trains" if len(points) == 1 else "points train"
            self._progress.line(
                f"{len(points)} {verb} from {points[0].run_id} without the rest of the pack, "
                f"{counted}: bits may differ"
            )
        return ghosts

    def _takes_ahead(self, worker: Worker) -> bool:
        """Returns whether a worker's next pack is taken while it runs: not if it should learn.

        To take the points of a pack takes time, so that its first one is taken while it starts.
        """
        if not worker.ready and worker not in self._jobs:
            return self._study.packs.on
        search = self._study.search.sweep.method != "bayes"
        return search and self._last_seconds[worker] < SHORT

    def _start(self, worker: Worker, points: Sequence[Point]) -> None:
        log = self._output_dir / "logs" / f"{name_of(points)}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        offset = log.stat().st_size if log.exists() else 0
        members = sorted((*points, *self._ghosts(points)), key=lambda point: point.index)
        self._jobs[worker] = Job(points, len(members), log, offset, time.monotonic())
        search = self._study.search
        argv: list[str] = []
        for point in members:
            argv += [SEPARATOR] if argv else []
            argv += [*search.command(point.values), *self._arguments, f"--run_id={point.run_id}"]
        worker.send(argv, log)

    def _is_free(self, run_id: str) -> bool:
        """Returns whether nobody works on a run: a dead launcher's worker may still be ending."""
        return not is_locked(self._output_dir / run_id)

    def _recorded(self, point: Point) -> Ended | None:
        """Returns how a point's run ended if its record here says that it is done."""
        epochs = self._study.search.epochs
        try:
            run = load_run(self._output_dir / point.run_id)
        except RecordError:
            return None
        is_long = epochs is None or int(run.config["epochs"]) >= epochs  # a sweep may have grown
        is_done = run.state in ENDED and is_long
        return end_of(run, self._study.search.metric) if is_done else None

    def _prune(self) -> None:
        """Ends runs early, none of which is a member of a pack."""
        if self._pruner is None or time.monotonic() < self._next_look:
            return
        for worker, job in self._jobs.items():
            (point,) = job.points
            with contextlib.suppress(RecordError):  # not begun
                run = load_run(self._output_dir / point.run_id)
                why = self._pruner.look(point, run)
                if why and run.epochs[-1] < run.config["epochs"]:
                    self._pruned[point.run_id] = why
                    worker.stop_run()
        self._next_look = time.monotonic() + LOOK

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
        if "members" in message:
            self._decide(message["members"])
            return
        job = self._jobs.pop(worker, None)
        stopping = not self._interruption.proceed()
        died = "died" in message
        if died and worker is self._asked:
            self._asked = None
        goes_on = not (died or message.get("spent") or stopping)
        if goes_on and worker in self._ahead:
            self._start(worker, self._ahead.pop(worker))
        if job is not None:
            seconds = self._last_seconds[worker] = time.monotonic() - job.started
            self._return(job, message, seconds)
        self._deaths[worker] = self._deaths[worker] + 1 if died and job is None else 0
        if self._deaths[worker] >= STARTS:
            raise Failure(
                f"the worker of {worker.slot.name} dies while it starts "
                f"(exit code {message['died']}); what it said is in {worker.log}"
            )
        if not goes_on and not stopping:
            worker.kill()
            worker.start()

    def _return(self, job: Job, message: Mapping[str, Any], seconds: float) -> None:
        """Returns the points of a pack, those that are not done to be tried as smaller packs."""
        ends = [self._done(job, point, message) for point in job.points]
        left = [point for point, ended in zip(job.points, ends, strict=True) if ended is None]
        smaller = self._interruption.proceed() and self._is_too_large(job, left, message)
        told = [
            (point, ended or self._judge(job, point, left, message))
            for point, ended in zip(job.points, ends, strict=True)
            if ended is not None or not smaller
        ]
        self._finish(told, seconds)
        if smaller:
            size = self._study.limit_size(job.points, job.size // 2)
            for point in left:
                self._study.finish(point, Ended("stopped"))
            what = "memory ran out" if message.get("memory") else "the worker died again"
            self._progress.line(
                f"{what} in a pack of {job.size} from {job.points[0].run_id}: "
                f"{len(left)} points are trained again in packs of {size}, which is no failure"
            )

    def _done(self, job: Job, point: Point, message: Mapping[str, Any]) -> Ended | None:
        """Returns how a point ended that is done: of a pack whatever became of the others."""
        if message.get("code") == 0 or job.size > 1 or point.run_id in self._pruned:
            return self._recorded(point)
        return None

    def _is_too_large(self, job: Job, left: Sequence[Point], message: Mapping[str, Any]) -> bool:
        """Returns whether a pack is to be halved.

        That is so if memory ran out in it, or if its worker died in it once more: of memory, which
        the system said by a kill, or of a member, which halving finds out.
        """
        again = max((point.attempt for point in left), default=0) > min(1, self._study.max_retries)
        died = "died" in message and again
        return job.size > 1 and bool(left) and (bool(message.get("memory")) or died)

    def _judge(
        self, job: Job, point: Point, left: Sequence[Point], message: Mapping[str, Any]
    ) -> Ended:
        """Returns how a point ended that is not done."""
        if (why := self._pruned.pop(point.run_id, "")) and message.get("code") == 143:
            epoch = load_run(self._output_dir / point.run_id).epochs[-1]
            return Ended(PRUNED, why=f"pruned at epoch {epoch:g}: {why}")
        if message.get("code") in (130, 143) or not self._interruption.proceed():
            return Ended("stopped")
        if "died" in message:
            why = f"the worker died with exit code {message['died']}"
            if message["died"] == 137:
                why += ": killed, perhaps as memory ran out"
        else:
            # Where others went on, the last lines are theirs.
            about = point.run_id if len(left) < job.size else ""
            lines = last_lines(job.log, job.offset, LAST_LINES, about)
            why = "\n".join(lines) or message.get("error") or f"exit code {message['code']}"
        return Ended("failed", why=why, log=str(job.log))

    def _finish(self, ends: Sequence[tuple[Point, Ended]], seconds: float) -> None:
        """Returns points, and tells of them."""
        for point, ended in ends:
            if self._pruner is not None and ended.outcome == "finished":
                self._pruner.look(point, load_run(self._output_dir / point.run_id))
            self._study.finish(point, ended)
        if not ends:
            return
        tally = self._study.tally()
        alike: dict[object, list[tuple[Point, Ended]]] = {}
        for point, ended in ends:
            failed = ended.outcome == "failed"  # of a pack often as one, which is told of once
            key = (ended.log, ended.why, point.attempt) if failed else point.run_id
            alike.setdefault(key, []).append((point, ended))
        for told in alike.values():
            self._progress.ended([point for point, _ in told], told[0][1], seconds, tally)

    def _beat_if_due(self) -> None:
        if time.monotonic() >= self._next_beat:
            self._beat()

    def _beat(self) -> None:
        """Gives a sign of life; ends runs that others have taken for dead and begun again."""
        self._next_beat = time.monotonic() + self._study.heartbeat
        lost = self._study.beat(self._taken())
        kept = {w: [p for p in points if p not in lost] for w, points in self._ahead.items()}
        self._ahead = {worker: points for worker, points in kept.items() if points}
        for worker, job in list(self._jobs.items()):
            if any(point in lost for point in job.points):
                del self._jobs[worker]
                worker.kill()
                for point in job.points:
                    if point not in lost:
                        self._study.finish(point, Ended("stopped"))
                worker.start()

    def _taken(self) -> list[Point]:
        """Returns all points that are this launcher's."""
        packs = (*(job.points for job in self._jobs.values()), *self._ahead.values())
        return [point for points in packs for point in points]

    def _stop(self) -> None:
        """Lets running points write their checkpoints; they are queued again by the next start."""
        self._progress.line(f"{self._interruption.name}: waiting for checkpoints")
        for worker in self._workers:
            worker.interrupt()
        while self._jobs:
            self._listen()
            self._beat_if_due()
