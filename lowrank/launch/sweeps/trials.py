"""The trials of a sweep in Optuna's storage: one for each attempt at a point."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lowrank.launch.sweeps.points import LOST, PRUNED, Ended, Tally
from lowrank.launch.sweeps.presence import Presence
from lowrank.launch.sweeps.search import Proposal, Search

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial, TrialState

GRACE = 3
"""Heartbeats without a sign of life until a launcher is taken for dead."""


EPOCHS = "epochs"
"""Attribute of a trial: those that its run is to have."""


class Trials:
    """A study's trials, as one launcher makes, takes and ends them.

    Args:
        storage: Where they are kept.
        study: Whose.
        presence: Of this launcher.
        heartbeat: Seconds between signs of life.

    Attributes:
        study: As given.
    """

    def __init__(
        self, storage: RDBStorage, study: Study, presence: Presence, heartbeat: int
    ) -> None:
        self._storage = storage
        self._study_id = storage.get_study_id_from_name(study.study_name)
        self.study = study
        self._presence = presence
        storage.heartbeat_interval = heartbeat
        storage.grace_period = GRACE * heartbeat

    def all(self) -> list[FrozenTrial]:
        """Returns every trial, in the order in which they were made."""
        return self.study.get_trials(deepcopy=False)

    def add(self, proposal: Proposal, notes: dict[str, Any]) -> None:
        """Adds a trial that waits to be taken, in one transaction.

        Args:
            proposal: What is tried.
            notes: Attributes of the trial.
        """
        import optuna

        self.study.add_trial(
            optuna.create_trial(
                state=optuna.trial.TrialState.WAITING,
                params=dict(proposal.params),
                distributions=dict(proposal.distributions),
                user_attrs=notes,
            )
        )

    def take(self, number: int) -> bool:
        """Makes a waiting trial this launcher's.

        Args:
            number: Of the trial.

        Returns:
            Whether nobody else was faster.
        """
        import optuna

        trial_id = self._id(number)
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

    def report(self, number: int, values: Mapping[int, float]) -> None:
        """Keeps values of a running trial, unless others have ended it.

        Args:
            number: Of the trial.
            values: By step.
        """
        import optuna

        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            for step, value in values.items():
                self._storage.set_trial_intermediate_value(self._id(number), step, value)

    def end(self, number: int, state: TrialState, ended: Ended) -> None:
        """Ends a trial, unless others have done so meanwhile.

        Args:
            number: Of the trial.
            state: Its last.
            ended: How its run ended.
        """
        import optuna

        trial_id = self._id(number)
        values = None if ended.value is None else [ended.value]
        with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
            self._storage.set_trial_user_attr(trial_id, "ended", asdict(ended))
            self._storage.set_trial_state_values(trial_id, state=state, values=values)

    def beat(self, numbers: Iterable[int]) -> None:
        """Gives a sign of life of this launcher's trials, and ends those of dead launchers.

        Args:
            numbers: Of the trials that run here.
        """
        import optuna
        from optuna.trial import TrialState

        for number in numbers:
            self._storage.record_heartbeat(self._id(number))
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if self._presence.is_dead(trial.user_attrs.get("launcher", "")):
                with contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
                    self._storage.set_trial_state_values(
                        self._id(trial.number), state=TrialState.FAIL
                    )
        optuna.storages.fail_stale_trials(self.study)

    def _id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)


def point_of(trial: FrozenTrial) -> int:
    """Returns the number of the point that a trial is an attempt at.

    Args:
        trial: The trial.
    """
    return int(trial.user_attrs["point"])


def is_live(trial: FrozenTrial) -> bool:
    """Returns whether a trial waits, runs or is done.

    Args:
        trial: The trial.
    """
    return trial.state.name != "FAIL"


def is_pruned(trial: FrozenTrial) -> bool:
    """Returns whether a trial's run was ended early, as worse than others.

    Args:
        trial: The trial.
    """
    return bool(trial.user_attrs.get("ended", {}).get("outcome") == PRUNED)


def is_running(trials: Iterable[FrozenTrial]) -> bool:
    """Returns whether one of a point's trials runs.

    Args:
        trials: Of the point.
    """
    return any(trial.state.name == "RUNNING" for trial in trials)


def failures(trials: Iterable[FrozenTrial]) -> int:
    """Returns how often a point has failed.

    Args:
        trials: Of the point.
    """
    return sum(trial.user_attrs.get("ended", {}).get("outcome") == "failed" for trial in trials)


def by_point(trials: Iterable[FrozenTrial], search: Search) -> dict[int, list[FrozenTrial]]:
    """Returns the trials of every point, in the order in which they were made.

    Those of runs that were shorter, before the sweep grew, are not among them, unless such a run
    was pruned.

    Args:
        trials: All.
        search: What points there are.
    """
    points = defaultdict(list)
    now = search.epochs
    for trial in trials:
        epochs = trial.user_attrs.get(EPOCHS, search.first_epochs)
        is_of_now = now is None or epochs in (None, now) or is_pruned(trial)
        if is_of_now and point_of(trial) < search.size:
            points[point_of(trial)].append(trial)
    return dict(points)


def tally_of(points: Mapping[int, Sequence[FrozenTrial]], size: int, max_retries: int) -> Tally:
    """Returns how a sweep stands.

    Args:
        points: From `by_point`.
        size: Points in all.
        max_retries: How often a failed point is run again.
    """
    from optuna.trial import TrialState

    done = running = 0
    failed: dict[int, Ended] = {}
    lost: dict[int, Ended] = {}
    for number, trials in points.items():
        states = {trial.state for trial in trials}
        ends = [trial.user_attrs["ended"] for trial in trials if "ended" in trial.user_attrs]
        if states & {TrialState.COMPLETE, TrialState.PRUNED}:
            done += 1
            for end in ends:
                if end["outcome"] in LOST:
                    lost[number] = Ended(**end)
        elif TrialState.RUNNING in states:
            running += 1
        elif TrialState.WAITING not in states and failures(trials) > max_retries:
            last = [end for end in ends if end["outcome"] == "failed"][-1]
            failed[number] = Ended(**last)
    return Tally(size, done, running, failed, lost)
