"""A sweep's points in Optuna's storage, shared by launchers that may be killed at any moment.

A *point* has a number, a run id and one trial per attempt. What is still to be done is never noted
anywhere: it follows from the trials, so that nothing can be lost between two notes. A point none of
whose trials waits, runs or is done is queued again, be it that nobody made it yet, that its
launcher died or was stopped, or that it failed fewer times than allowed. Two launchers may queue
the same point at once; of two trials of a point the later one is then surplus and never run.

A trial is COMPLETE with its value; PRUNED if its run is done but has no value, as one that
collapsed or died: to Bayesian search that is a failed point, which has nothing to minimise; FAIL
otherwise. How it ended is in its
attribute ``ended``, which a trial whose launcher died lacks.
"""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from lowrank.launch.sweeps.identity import READY, Identity
from lowrank.launch.sweeps.presence import Presence
from lowrank.launch.sweeps.search import Proposal, Search
from lowrank.launch.sweeps.storage import patient

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial, TrialState

LOST = ("collapsed", "dead")
"""Outcomes of a run that is done and has no value."""

GRACE = 3
"""Heartbeats without a sign of life until a launcher is taken for dead."""


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


@dataclass(frozen=True)
class Ended:
    """How an attempt ended.

    Attributes:
        outcome: ``finished``, ``collapsed``, ``dead``, ``failed`` or ``stopped``.
        value: Of the sweep's metric; None where there is none.
        why: Last lines of a failure, or how the run was lost.
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
        done: Of these finished, collapsed or dead.
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


class SweepStudy:
    """A sweep's points, as one launcher takes, runs and returns them.

    Args:
        storage: Where they are kept.
        study: From `begin`.
        identity: From `begin`.
        search: What points there are.
        presence: Of this launcher.
        max_retries: How often a failed point is run again.
    """

    def __init__(
        self,
        storage: RDBStorage,
        study: Study,
        identity: Identity,
        search: Search,
        presence: Presence,
        max_retries: int,
    ) -> None:
        self._storage = storage
        self._study = study
        self._study_id = storage.get_study_id_from_name(study.study_name)
        self._prefix = identity.prefix
        self._seed = identity.search_seed
        self.search = search
        self._presence = presence
        self._max_retries = max_retries
        self.heartbeat = identity.heartbeat
        storage.heartbeat_interval = identity.heartbeat
        storage.grace_period = GRACE * identity.heartbeat

    @patient
    def fill(self) -> None:
        """Queues a grid's points, unless they are queued."""
        if self.search.grid is not None and READY not in self._study.user_attrs:
            self._queue_missing(self._points())
        self._study.set_user_attr(READY, True)

    @patient
    def claim(self, is_free: Callable[[str], bool]) -> Point | None:
        """Takes a point for this launcher to run.

        Args:
            is_free: Whether nobody on this disk works on the run of that id.

        Returns:
            The point; None if there is none now: others run the last ones, or the sweep is settled.
        """
        import optuna

        while True:
            points = self._points()
            if self._queue_missing(points):
                continue
            waiting = [
                trial
                for trials in points.values()
                for trial in trials
                if trial.state is optuna.trial.TrialState.WAITING
            ]
            for trial in sorted(waiting, key=lambda trial: trial.number):
                number, run_id = _number(trial), trial.user_attrs["run_id"]
                if any(_is_live(other) for other in _before(trial, points[number])):
                    self._end(trial.number, optuna.trial.TrialState.FAIL, Ended("surplus"))
                elif is_free(run_id) and self._take(trial.number):
                    return Point(
                        index=number,
                        run_id=run_id,
                        values=self.search.point(trial.params),
                        trial=trial.number,
                        attempt=1 + _failures(points[number]),
                    )
            if self.search.grid is not None or len(points) >= self.search.size:
                return None
            self._queue(len(points), points)

    @patient
    def beat(self, running: Iterable[Point]) -> list[Point]:
        """Gives a sign of life, and queues again what died elsewhere.

        Args:
            running: This launcher's points.

        Returns:
            Those that others have taken meanwhile, as this launcher was silent for too long.
        """
        import optuna

        for point in running:
            self._storage.record_heartbeat(self._trial_id(point.trial))
        self._fail_dead()
        trials = {trial.number: trial for trial in self._study.get_trials(deepcopy=False)}
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
        self._end(point.trial, state, ended)

    @patient
    def tally(self) -> Tally:
        """Returns how the sweep stands."""
        from optuna.trial import TrialState

        done = running = 0
        failed: dict[int, Ended] = {}
        lost: dict[int, Ended] = {}
        for number, trials in self._points().items():
            states = {trial.state for trial in trials}
            ends = [trial.user_attrs["ended"] for trial in trials if "ended" in trial.user_attrs]
            if states & {TrialState.COMPLETE, TrialState.PRUNED}:
                done += 1
                for end in ends:
                    if end["outcome"] in LOST:
                        lost[number] = Ended(**end)
            elif TrialState.RUNNING in states:
                running += 1
            elif TrialState.WAITING not in states and _failures(trials) > self._max_retries:
                last = [end for end in ends if end["outcome"] == "failed"][-1]
                failed[number] = Ended(**last)
        return Tally(self.search.size, done, running, failed, lost)

    def run_id(self, number: int) -> str:
        """Returns the id of a point's run.

        Args:
            number: Of the point.
        """
        return f"{self._prefix}-{number:04d}"

    def _points(self) -> dict[int, list[FrozenTrial]]:
        """Returns the trials of every point, in the order in which they were made."""
        points = defaultdict(list)
        for trial in self._study.get_trials(deepcopy=False):
            if _number(trial) < self.search.size:
                points[_number(trial)].append(trial)
        return dict(points)

    def _queue_missing(self, points: Mapping[int, Sequence[FrozenTrial]]) -> bool:
        """Queues every point that should be and is not.

        Returns:
            Whether there was one.
        """
        known = range(self.search.size) if self.search.grid is not None else sorted(points)
        missing = [
            number
            for number in known
            if not any(_is_live(trial) for trial in points.get(number, ()))
            and _failures(points.get(number, ())) <= self._max_retries
        ]
        for number in missing:
            self._queue(number, points)
        return bool(missing)

    def _queue(self, number: int, points: Mapping[int, Sequence[FrozenTrial]]) -> None:
        """Adds a trial of a point in one transaction."""
        import optuna
        from optuna.trial import TrialState

        if points.get(number):
            first = points[number][0]
            proposal = Proposal(first.params, first.distributions)
        else:
            known = (TrialState.COMPLETE, TrialState.RUNNING)
            past = [t for trials in points.values() for t in trials if t.state in known]
            proposal = self.search.propose(number, self._seed, past)
        self._study.add_trial(
            optuna.create_trial(
                state=TrialState.WAITING,
                params=dict(proposal.params),
                distributions=dict(proposal.distributions),
                user_attrs={"point": number, "run_id": self.run_id(number)},
            )
        )

    def _take(self, number: int) -> bool:
        """Makes a waiting trial this launcher's.

        Returns:
            Whether nobody else was faster.
        """
        import optuna

        trial_id = self._trial_id(number)
        try:
            # Before the trial runs: a launcher that dies in between leaves no trial for ever.
            self._storage.record_heartbeat(trial_id)
            self._storage.set_trial_user_attr(trial_id, "launcher", self._presence.id)
            taken = self._storage.set_trial_state_values(
                trial_id, state=optuna.trial.TrialState.RUNNING
            )
            if taken:  # the loser of a race may have put its name there
                self._storage.set_trial_user_attr(trial_id, "launcher", self._presence.id)
        except optuna.exceptions.UpdateFinishedTrialError:
            return False
        return taken

    def _end(self, number: int, state: TrialState, ended: Ended) -> None:
        """Ends a trial, unless others have done so meanwhile."""
        import optuna

        trial_id = self._trial_id(number)
        values = None if ended.value is None else [ended.value]
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            self._storage.set_trial_user_attr(trial_id, "ended", asdict(ended))
            self._storage.set_trial_state_values(trial_id, state=state, values=values)

    def _fail_dead(self) -> None:
        """Ends the running trials of dead launchers: `_queue_missing` queues their points."""
        import optuna
        from optuna.trial import TrialState

        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if self._presence.is_dead(trial.user_attrs.get("launcher", "")):
                with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
                    self._storage.set_trial_state_values(
                        self._trial_id(trial.number), state=TrialState.FAIL
                    )
        optuna.storages.fail_stale_trials(self._study)

    def _trial_id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)


def _number(trial: FrozenTrial) -> int:
    return int(trial.user_attrs["point"])


def _is_live(trial: FrozenTrial) -> bool:
    """Returns whether a trial waits, runs or is done."""
    return trial.state.name != "FAIL"


def _failures(trials: Iterable[FrozenTrial]) -> int:
    return sum(trial.user_attrs.get("ended", {}).get("outcome") == "failed" for trial in trials)


def _before(trial: FrozenTrial, others: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    return [other for other in others if other.number < trial.number]
