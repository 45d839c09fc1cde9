"""Keeps one agent running in each slot until the sweep is exhausted, and ends them all together.

Agents ask before they take a point (`lowrank.launch.agents.agent`), so counting, staggering and
stopping a bad slot are decided here, in one place and one thread.
"""

from __future__ import annotations

import json
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from lowrank.common.signals import REQUEUE, Interruption
from lowrank.common.terminal import duration
from lowrank.launch.agents import sums
from lowrank.launch.agents.packs import Failed, PackProcess, told
from lowrank.launch.agents.plan import Plan
from lowrank.launch.agents.points import Points
from lowrank.launch.agents.status import Point, Row, Status, config_of, named
from lowrank.launch.agents.worker import Worker, how_ended, pause
from lowrank.launch.logs import cause, last_lines
from lowrank.launch.slots import Slot

LAST_LINES = 20
"""Lines of its log that are shown of a slot that is stopped."""


GATHER = 10.0
"""Seconds after the latest start of a member in which its pack may still get one more."""

_LOOK = 0.25  # seconds between two looks at processes
_REFRESH = 2.0  # seconds between two looks at run records
_STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)  # it has saved, and goes on


class Launcher:
    """Runs agents.

    Args:
        plan: What to do.
        status: Shows it.
    """

    def __init__(self, plan: Plan, status: Status) -> None:
        self.plan = plan
        self.status = status
        self.tickets = plan.count
        self.ending = False
        self.requeue = False
        self._next_look = 0.0
        self.points = Points(plan.logs)
        self._left = list(self.points.open().values())
        self._started: set[str] = set()
        self._sockets = tempfile.TemporaryDirectory(prefix="lowrank-", ignore_cleanup_errors=True)
        self.packs: list[PackProcess] = []
        self.workers: list[Worker] = []
        now = time.monotonic()
        for i, slot in enumerate(plan.slots):
            pack = self._pack(slot) if plan.pack > 1 else None
            members = [replace(slot, name=f"{slot.name}-{member}") for member in range(plan.pack)]
            self.workers += [
                Worker(each, self._log(each), now + i * plan.stagger, pack)
                for each in (members if pack else [slot])
            ]

    def _log(self, slot: Slot) -> Path:
        return self.plan.logs / f"{self.points.name}-{slot.name}.log"

    def _pack(self, slot: Slot) -> PackProcess:
        pack = PackProcess(
            slot,
            self.plan.program,
            self.plan.pack,
            log=self._log(slot),
            environment=self.plan.environment_of(slot),
            grace=self.plan.grace,
            address=Path(self._sockets.name, slot.name),
        )
        self.packs.append(pack)
        return pack

    def run(self) -> int:
        """Works until nothing is left to do or a signal comes.

        Returns:
            0 if the sweep is exhausted or the count reached, 1 if a point failed or a slot was
            stopped, 75 after SIGUSR1, 130 and 143 by signal.
        """
        self._introduce()
        with Interruption() as interruption, interruption.deferred(), self._hearing_usr1():
            try:
                while not self._is_over():
                    self._turn()
                    if not self.ending and (self.requeue or not interruption.proceed()):
                        self._end(interruption.signal or signal.SIGTERM)
            finally:
                for worker in self.workers:
                    if worker.agent is not None:
                        worker.agent.kill()
                for pack in self.packs:
                    pack.kill()
                self._sockets.cleanup()
                self.status.show(self._rows())
                self.points.release()
        left = [note["run_id"] for note in self._left]
        for line in sums.summary(self.workers, left, self.plan.logs):
            self.status.line(line)
        if self.requeue:
            return REQUEUE
        return interruption.exit_code or int(any(w.stopped or w.failed for w in self.workers))

    def _is_over(self) -> bool:
        workers_are = all(worker.is_over for worker in self.workers)
        return workers_are and all(pack.is_over for pack in self.packs)

    def _introduce(self) -> None:
        """Says what earlier launchers have left."""
        if self._left:
            self.status.line(f"going on with {named([note['run_id'] for note in self._left])}")
        failed = [f"{run_id} ({how})" for run_id, how in self.points.failed().items()]
        if failed:
            self.status.line(f"failed here before, and not handed out again: {named(failed)}")

    @contextmanager
    def _hearing_usr1(self) -> Iterator[None]:
        def note(*_: object) -> None:
            self.requeue = True

        before = signal.signal(signal.SIGUSR1, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGUSR1, before)

    def _turn(self) -> None:
        """Does what is due, and waits a moment for more."""
        now = time.monotonic()
        for worker in self.workers:
            if worker.start_at is not None and worker.start_at <= now:
                self._start(worker)
        channels: dict[Any, Worker] = {w.channel: w for w in self.workers if w.channel is not None}
        heard = wait(list(channels), _LOOK)
        for pack in self.packs:  # before what was heard: if it has died, that is why members ended
            if not pack.is_over and all(worker.is_over for worker in self._members(pack)):
                pack.end(signal.SIGTERM)
            code = pack.poll()
            if code is not None:
                self._pack_ended(pack, code)
        for channel in heard:
            self._hear(channels[channel])
        for worker in self.workers:
            code = None if worker.agent is None else worker.agent.poll()
            if code is not None:
                self._agent_ended(worker, code)
        self._tell_failures()
        self._answer_all()
        if now >= self._next_look:
            self._next_look = now + _REFRESH
            for worker in self.workers:
                if worker.point is not None:
                    worker.point.look()
            self.status.show(self._rows())

    def _start(self, worker: Worker) -> None:
        arguments = [str(self.points.directory), worker.slot.name, self.plan.sweep]
        arguments += [",".join(self.plan.swept)]
        arguments += [] if worker.pack is None else [str(worker.pack.address)]
        worker.start(arguments, self.plan.environment_of(worker.slot), self.plan.grace)

    def _hear(self, worker: Worker) -> None:
        """Takes in what an agent has reported."""
        for report in worker.reports():
            event = report["event"]
            if event == "ready":
                worker.asks = worker.channel is not None
                worker.state = "stopped" if worker.stopped else "waiting"
            elif event == "started":
                self._point_started(worker, report)
            elif event == "ended":
                self._point_ended(worker, report["code"], stopped=report["stopped"])
            else:
                worker.dismissed = True

    def _answer_all(self) -> None:
        """Answers the agents that ask for leave to take a point."""
        for worker in self.workers:
            if not worker.asks:
                continue
            out_of_tickets = self.tickets is not None and self.tickets <= 0
            exhausted = self.plan.is_over and not self._left
            if self.ending or worker.stopped or exhausted:
                self._dismiss(worker)
            elif not self._may_join(worker):
                continue
            elif not out_of_tickets:
                if self.tickets is not None:
                    self.tickets -= 1
                worker.granted = True
                worker.handed = self._left.pop(0) if self._left else None
                noted = worker.handed and json.dumps({**worker.handed, "over": self.plan.is_over})
                worker.answer(noted or "go")
            elif not any(other.granted for other in self.workers):
                # Until then another's leave may come back unused.
                self._dismiss(worker)

    def _members(self, pack: PackProcess) -> list[Worker]:
        return [worker for worker in self.workers if worker.pack is pack]

    def _may_join(self, worker: Worker) -> bool:
        """Returns whether a point that is taken now is trained soon: in a pack that is gathered.

        W&B hands out a point again whose run has not begun within the hour. So all members of a
        pack take theirs when the last pack has ended, one after another.
        """
        if worker.pack is None:
            return True
        members = self._members(worker.pack)
        if any(member.granted for member in members):
            return False
        started = [member.point.started for member in members if member.point is not None]
        if started:
            return time.monotonic() < max(started) + GATHER
        return all(
            member.asks
            for member in members
            if not (member.is_over or member.dismissed or member.state == "failed")
        )

    def _pack_ended(self, pack: PackProcess, code: int) -> None:
        """Starts the process of a pack again, unless it has ended for good."""
        members = [member for member in self._members(pack) if not member.is_over]
        if self.ending or not members:
            pack.end(signal.SIGTERM)
            return
        for member in members:
            if member.point is not None:
                member.pack_died = how_ended(code)
        pack.failures += 1
        how = how_ended(code)
        if code in (-signal.SIGKILL, 128 + signal.SIGKILL):
            how += ", perhaps as memory ran out, of which a smaller --pack needs less"
        self._say(pack, f"the process of the pack failed: {how}; {pack.log}")
        if pack.failures < self.plan.max_failures:
            pack.start_again(pause(pack.failures))
            return
        pack.end(signal.SIGTERM)
        for member in members:
            member.stopped = member.is_told = True
        self._say_stopped(pack, pack.failures, pack.log_offset)

    def _dismiss(self, worker: Worker) -> None:
        worker.dismissed = True
        worker.answer("end")

    def _point_started(self, worker: Worker, report: Mapping[str, Any]) -> None:
        worker.granted, worker.handed, worker.pack_died = False, None, ""
        self._started.add(report["run_id"])
        worker.last_offset = worker.log.stat().st_size
        worker.point = Point(
            report["run_id"],
            config_of(report, self.plan.environment_of(worker.slot)),
            worker.last_offset,
            time.monotonic(),
        )
        worker.state = "training"
        self._say(worker, f"run {report['run_id']} started")

    def _point_ended(self, worker: Worker, code: int, *, stopped: bool, who: str = "") -> None:
        point, worker.point = worker.point, None
        if point is None:
            return
        how = worker.pack_died or how_ended(code)
        who = "the process of its pack, " if worker.pack_died else who
        point.look()
        took = duration(time.monotonic() - point.started)
        rank = "" if point.rank_mean is None else f", rank_mean {point.rank_mean:.1f}"
        if code == 0 or (stopped and not self.ending):
            worker.done += 1
            worker.failures_in_a_row = 0
            if worker.pack is not None:
                worker.pack.failures = 0
            self.points.done(point.run_id)
            how = "finished" if code == 0 else "stopped early by W&B"
            self._say(worker, f"run {point.run_id} {how} after {took}{rank}")
            if point.lost is not None:
                worker.lost.append(point.lost.how)
                self._say(worker, f"run {point.run_id} has no rank: {point.lost.text}")
        elif self.ending:
            worker.interrupted.append(point.run_id)
            self._say(worker, f"run {point.run_id} interrupted at epoch {point.epoch or 0}{rank}")
        else:
            worker.failed += 1
            if not who and code not in _STOPPED:
                self.points.fail(point.run_id, how_ended(code))
            else:
                worker.interrupted.append(point.run_id)
            if why := cause(last_lines(worker.log, point.log_offset, LAST_LINES)):
                how += f" ({why})"
            if worker.pack is None:
                self._say(
                    worker, f"run {point.run_id} failed after {took}: {who}{how}; {worker.log}"
                )
            else:
                worker.pack.untold.append(Failed(point.run_id, f"{who}{how}", point.started))
            self._count_failure(worker)

    def _agent_ended(self, worker: Worker, code: int) -> None:
        self._hear(worker)
        worker.hang_up()
        worker.agent = None
        if worker.granted:
            self.tickets = None if self.tickets is None else self.tickets + 1
            self._left += self._untouched(worker)
        worker.granted, worker.handed = False, None
        if worker.point is not None:
            self._point_ended(worker, code or 1, stopped=False, who="its agent, ")
        elif code != 0 and not self.ending and not worker.dismissed:
            worker.agent_failures += 1
            self._say(worker, f"the agent failed: {how_ended(code)}; {worker.log}")
            self._count_failure(worker)
        if self.ending or worker.stopped:
            worker.state = "stopped" if worker.stopped else "ended"
        elif worker.dismissed or code == 0:
            worker.state = "done"
        else:
            worker.state = "failed"
            worker.start_at = time.monotonic() + pause(worker.failures_in_a_row)

    def _untouched(self, worker: Worker) -> list[dict[str, Any]]:
        """Returns the points that an agent took or was handed before it died, and did not start."""
        if worker.handed is not None:
            return [worker.handed]
        return [
            note
            for run_id, note in self.points.open().items()
            if note.get("slot") == worker.slot.name and run_id not in self._started
            if note not in self._left
        ]

    def _count_failure(self, worker: Worker) -> None:
        worker.failures_in_a_row += 1
        if worker.failures_in_a_row < self.plan.max_failures:
            return
        worker.stopped = True
        worker.state = "stopped"
        if worker.pack is None:
            self._say_stopped(worker, worker.failures_in_a_row, worker.last_offset)

    def _tell_failures(self) -> None:
        """Tells of the failed runs of each pack when none goes on, or the others still do."""
        for pack in self.packs:
            members, latest = self._members(pack), time.monotonic() - GATHER
            go_on = any(member.point is not None for member in members)
            if go_on and all(failed.ended > latest for failed in pack.untold):
                continue
            for line in told(pack.untold):
                self._say(pack, f"{line}; {pack.log}")
            pack.untold.clear()
            stopped = [member for member in members if member.stopped and not member.is_told]
            for member in stopped:
                member.is_told = True
            if len(stopped) == len(members):
                self._say_stopped(pack, stopped[0].failures_in_a_row, pack.log_offset)
                continue
            for member in stopped:
                self._say_stopped(member, member.failures_in_a_row, member.last_offset)

    def _say_stopped(self, what: Worker | PackProcess, failures: int, offset: int) -> None:
        count = len(self.packs if isinstance(what, PackProcess) else self.workers)
        others = "; the others go on" if count > 1 else ""
        self._say(
            what, f"stopped after {failures} failures in a row{others}. The last lines of its log:"
        )
        for line in last_lines(what.log, offset, LAST_LINES):
            self.status.line(f"    {line}")

    def _end(self, number: signal.Signals) -> None:
        """Passes a signal on: trainings checkpoint, and agents end."""
        self.ending = True
        name = "SIGUSR1" if self.requeue else number.name
        self.status.line(f"{name}: trainings checkpoint and end; a second signal kills them")
        for pack in self.packs:  # before the agents' children pass it on, one by one
            pack.end(number)
        for worker in self.workers:
            worker.start_at = None
            if worker.agent is not None:
                worker.agent.send_signal(number)

    def _say(self, what: Worker | PackProcess, text: str) -> None:
        self.status.line(f"{time.strftime('%H:%M:%S')} {what.slot.name}: {text}")

    def _rows(self) -> list[Row]:
        return sums.rows([self._members(p) for p in self.packs] or [[w] for w in self.workers])
