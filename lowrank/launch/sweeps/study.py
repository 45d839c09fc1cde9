"""A sweep's points in Optuna's storage, shared by launchers that may be killed at any moment.

A *point* has a number, a run id and one trial per attempt. What is still to be done is never noted
anywhere: it follows from the trials, so that nothing can be lost between two notes. A point none of
whose trials waits, runs or is done is queued again, be it that nobody made it yet, that its
launcher died or was stopped, or that it failed fewer times than allowed. Two launchers may queue
the same point at once; of two trials of a point the later one is then surplus and never run.

Points are taken a pack at a time: those of it that are not done, the first of them first, which is
how two launchers that want the same pack find out. A pack of which another launcher has a part is
*torn*. What is free of it is taken only when nothing else is left and the other takes no more.

A trial is COMPLETE with its value; PRUNED if its run is done but has no value, as one that
collapsed or died: to Bayesian search that is a failed point, which has nothing to minimise, but
one that was ended early as worse than others tells it what it had reached; FAIL otherwise. How it
ended is in its attribute ``ended``, which a trial whose launcher died lacks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from lowrank.launch.sweeps.identity import READY, Identity
from lowrank.launch.sweeps.packs import OFF, Packs
from lowrank.launch.sweeps.points import LOST, Ended, Point, Tally, run_id_of
from lowrank.launch.sweeps.presence import Presence
from lowrank.launch.sweeps.search import Proposal, Search
from lowrank.launch.sweeps.storage import patient
from lowrank.launch.sweeps.trials import (
    EPOCHS,
    Trials,
    by_point,
    failures,
    is_live,
    is_pruned,
    is_running,
    point_of,
    tally_of,
)

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial

TORN = 2.0
"""Seconds in which nobody takes more of a torn pack until the rest of it is taken."""

_SIZE, _LIMIT = "pack_size ", "pack_limit "  # attributes of the study, with a kind behind


class SweepStudy:
    """A sweep's points, as one launcher takes, runs and returns them.

    Args:
        storage: Where they are kept.
        study: From `begin`.
        identity: From `begin`.
        search: What points there are.
        presence: Of this launcher.
        max_retries: How often a failed point is run again.
        packs: How points are taken together; by default each alone.

    Attributes:
        search: As given.
        packs: As given.
        max_retries: As given.
        heartbeat: Seconds between signs of life.
        prefix: Start of every run id.
    """

    def __init__(
        self,
        storage: RDBStorage,
        study: Study,
        identity: Identity,
        search: Search,
        presence: Presence,
        max_retries: int,
        packs: Packs | None = None,
    ) -> None:
        self.trials = Trials(storage, study, presence, identity.heartbeat)
        self._study = study
        self.prefix = identity.prefix
        self._seed = identity.search_seed
        self.search = search
        self.packs = packs or Packs(search, OFF)
        self.max_retries = max_retries
        self._known: dict[int, FrozenTrial] = {}  # the first trial of each point
        self._torn: dict[tuple[int, ...], float] = {}
        self.heartbeat = identity.heartbeat

    @patient
    def fill(self) -> None:
        """Queues a grid's points, unless they are queued."""
        if self.search.grid is not None and READY not in self._study.user_attrs:
            self._queue_missing(self.points())
        self._study.set_user_attr(READY, True)

    @patient
    def claim(self, is_free: Callable[[str], bool]) -> list[Point]:
        """Takes a pack for this launcher to run, or what is left to do of it.

        Args:
            is_free: Whether nobody on this disk works on the run of that id.

        Returns:
            Its points; none if there is nothing now: others run the last ones, or the sweep is
            settled.
        """
        self._read_sizes()
        while True:
            points = self.points()
            if self._queue_missing(points):
                continue
            waiting = self._waiting(points)
            torn = []
            for pack in self._packs(points, waiting):
                left = [number for number in pack if number in waiting]
                free = [number for number in left if is_free(self.run_id(number))]
                if free == left and not any(is_running(points[number]) for number in pack):
                    if taken := self._take_all(free, waiting, points):
                        return taken
                elif free:
                    torn.append(tuple(free))
            if self.search.grid is None and len(points) < self.search.size:
                self._queue(len(points), points)
                continue
            now = time.monotonic()
            self._torn = {rest: self._torn.get(rest, now) for rest in torn}
            for rest, since in self._torn.items():
                if now - since >= TORN and (taken := self._take_all(rest, waiting, points)):
                    return taken
            return []

    @patient
    def mates(self, taken: Sequence[Point]) -> list[tuple[Point, str]]:
        """Returns the points of a pack that were not taken with others of it.

        Args:
            taken: From `claim`.

        Returns:
            Each, and whether it is ``done``, trains ``elsewhere`` or ``failed`` too often.
        """
        numbers, points = {point.index for point in taken}, self.points()
        pack = next(pack for pack in self._packs(points, {}) if taken[0].index in pack)
        found = []
        for number in sorted(set(pack) - numbers):
            trial = points[number][-1]
            states = {trial.state.name for trial in points[number]}
            live = "elsewhere" if states & {"RUNNING", "WAITING"} else "failed"
            how = "done" if states & {"COMPLETE", "PRUNED"} else live
            values = self.search.point(number, trial.params)
            found.append((Point(number, self.run_id(number), values, trial.number, 0), how))
        return found

    @patient
    def decide(
        self,
        undecided: Mapping[str, tuple[list[str], int]],
        members: Mapping[str, int],
        slots: int,
    ) -> None:
        """Notes how many points train together, unless another launcher has; see `Packs.decide`.

        Args:
            undecided: From `undecided`.
            members: How many fit into memory, by kind.
            slots: Of this launcher.
        """
        for kind, size in self.packs.decide(undecided, members, slots).items():
            if _SIZE + kind not in self._study.user_attrs:
                self._study.set_user_attr(_SIZE + kind, size)
        self._read_sizes()

    @patient
    def limit_size(self, points: Sequence[Point], size: int) -> int:
        """Notes that memory does not hold as many points of a kind as were taken.

        Args:
            points: That were.
            size: How many are tried next.

        Returns:
            How many points of that kind train together now.
        """
        self._read_sizes()
        kind = self.packs.kind(points[0].index, points[0].values)
        assert kind is not None, "what can only train alone is no pack"
        limit = min(size, self.packs.limits.get(kind, size))
        self._study.set_user_attr(_LIMIT + kind, limit)
        self.packs.limits[kind] = limit
        return self.packs.most(kind)

    @patient
    def undecided(self) -> dict[str, tuple[list[str], int]]:
        """Returns the kinds whose size is to be decided, as `Packs.undecided` does."""
        self._read_sizes()
        return self.packs.undecided(self._seed)

    @patient
    def beat(self, running: Iterable[Point]) -> list[Point]:
        """Gives a sign of life, and queues again what died elsewhere.

        Args:
            running: This launcher's points.

        Returns:
            Those that others have taken meanwhile, as this launcher was silent for too long.
        """
        import optuna

        running = list(running)
        self.trials.beat(point.trial for point in running)
        trials = {trial.number: trial for trial in self.trials.all()}
        state = optuna.trial.TrialState.RUNNING
        return [point for point in running if trials[point.trial].state is not state]

    @patient
    def finish(self, point: Point, ended: Ended) -> None:
        """Returns a point.

        Args:
            point: That was claimed.
            ended: How its run ended.
        """
        from optuna.trial import TrialState

        done = ended.outcome == "finished" or ended.outcome in LOST
        state = TrialState.FAIL if not done else TrialState.PRUNED
        if done and ended.value is not None:
            state = TrialState.COMPLETE
        self.trials.end(point.trial, state, ended)

    @patient
    def credit(self, ends: Mapping[int, Ended]) -> None:
        """Counts points as done that wait, and ran elsewhere.

        Args:
            ends: How each ended, by number.
        """
        while self._queue_missing(points := self.points()):
            pass
        for number, trial in self._waiting(points).items():
            if number in ends and self.trials.take(trial.number):
                run_id, values = self.run_id(number), self.search.point(number, trial.params)
                self.finish(Point(number, run_id, values, trial.number, 0), ends[number])

    @patient
    def tally(self) -> Tally:
        """Returns how the sweep stands."""
        return tally_of(self.points(), self.search.size, self.max_retries)

    def run_id(self, number: int) -> str:
        """Returns the id of a point's run.

        Args:
            number: Of the point.
        """
        return run_id_of(self.prefix, number)

    @patient
    def points(self) -> dict[int, list[FrozenTrial]]:
        """Returns the trials of every point, in the order in which they were made."""
        trials = self.trials.all()
        for trial in trials:
            self._known.setdefault(point_of(trial), trial)
        return by_point(trials, self.search)

    def _waiting(self, points: Mapping[int, Sequence[FrozenTrial]]) -> dict[int, FrozenTrial]:
        """Returns the trial of each point that waits to be taken, and ends what is surplus."""
        from optuna.trial import TrialState

        waiting = {}
        for number, trials in points.items():
            live = [trial for trial in trials if is_live(trial)]
            for trial in live[1:]:
                if trial.state is TrialState.WAITING:
                    self.trials.end(trial.number, TrialState.FAIL, Ended("surplus"))
            if live and live[0].state is TrialState.WAITING:
                waiting[number] = live[0]
        return waiting

    def _packs(
        self, points: Mapping[int, Sequence[FrozenTrial]], waiting: Mapping[int, FrozenTrial]
    ) -> list[tuple[int, ...]]:
        """Returns the packs that have points waiting, the longest waiting first, or all."""
        if waiting and not self.packs.on:
            return [(n,) for n, _ in sorted(waiting.items(), key=lambda item: item[1].number)]
        values = {n: self.search.point(n, trials[0].params) for n, trials in points.items()}
        packs = self.packs.of(values)
        if not waiting:
            return packs
        first = {p: min([waiting[n].number for n in p if n in waiting], default=-1) for p in packs}
        return sorted((pack for pack in packs if first[pack] >= 0), key=lambda pack: first[pack])

    def _take_all(
        self,
        numbers: Sequence[int],
        waiting: Mapping[int, FrozenTrial],
        points: Mapping[int, Sequence[FrozenTrial]],
    ) -> list[Point]:
        """Takes points, unless another launcher has the first of them.

        Returns:
            Those that are this launcher's now.
        """
        taken: list[Point] = []
        for number in numbers:
            trial = waiting[number]
            if self.trials.take(trial.number):
                taken.append(
                    Point(
                        index=number,
                        run_id=self.run_id(number),
                        values=self.search.point(number, trial.params),
                        trial=trial.number,
                        attempt=1 + failures(points[number]),
                    )
                )
            elif not taken:
                break
        return taken

    def _read_sizes(self) -> None:
        """Reads what the launchers have decided of the packs."""
        if self.packs.on:
            for name, value in self._study.user_attrs.items():
                for mark, known in ((_SIZE, self.packs.sizes), (_LIMIT, self.packs.limits)):
                    if name.startswith(mark):
                        known[name.removeprefix(mark)] = int(value)

    def _queue_missing(self, points: Mapping[int, Sequence[FrozenTrial]]) -> bool:
        """Queues every point that should be and is not.

        Returns:
            Whether there was one.
        """
        known = range(self.search.size)
        if self.search.grid is None:  # a pack's points are asked for together
            block = self.packs.block
            known = known[: -(-len(points) // block) * block]
        missing = [
            number
            for number in known
            if not any(is_live(trial) for trial in points.get(number, ()))
            and failures(points.get(number, ())) <= self.max_retries
        ]
        if self.search.sweep.method == "bayes":
            missing = missing[:1]  # the next one knows of it
        for number in missing:
            self._queue(number, points)
        return bool(missing)

    def _queue(self, number: int, points: Mapping[int, Sequence[FrozenTrial]]) -> None:
        """Adds a trial of a point in one transaction."""
        import optuna
        from optuna.trial import TrialState

        if number in self._known:
            first = self._known[number]
            proposal = Proposal(first.params, first.distributions)
        else:
            known = (TrialState.COMPLETE, TrialState.RUNNING)
            trials = [trial for trials in points.values() for trial in trials]
            past = [trial for trial in trials if trial.state in known or is_pruned(trial)]
            # What is asked for at once must not be alike: to the search it runs already.
            past += [
                optuna.create_trial(
                    state=TrialState.RUNNING, params=t.params, distributions=t.distributions
                )
                for t in trials
                if t.state is TrialState.WAITING
            ]
            proposal = self.search.stored(self.search.propose(number, self._seed, past))
        notes = {"point": number, "run_id": self.run_id(number)}
        if self.search.epochs is not None:
            notes[EPOCHS] = self.search.epochs
        self.trials.add(proposal, notes)
