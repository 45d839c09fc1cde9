"""Runs that end early, as a sweep file's ``early_terminate`` has it, by Optuna's pruner.

W&B's bands are the rungs of Optuna's `SuccessiveHalvingPruner`: of the runs that have reached a
band, the best of each ``eta`` go on, and the first one always does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from lowrank.config.sweepfile.local import ETA, bands
from lowrank.launch.sweeps.points import Point
from lowrank.launch.sweeps.storage import patient
from lowrank.launch.sweeps.trials import Trials, point_of
from lowrank.runs.find import Run

Values = Mapping[int, float]
"""Of the metric, by the band at which they count."""


class Pruning:
    """The bands of one sweep.

    Args:
        stopping: The file's ``early_terminate``.
        metric: By which runs are compared.
        direction: ``minimize`` or ``maximize``.

    Attributes:
        bands: Epochs at which runs are compared.
    """

    def __init__(
        self, stopping: Mapping[str, Any], metric: str, direction: Literal["minimize", "maximize"]
    ) -> None:
        self.bands = bands(stopping)
        self._eta = int(stopping.get("eta", ETA))
        self._is_strict = bool(stopping.get("strict", True))
        self._metric = metric
        self._direction = direction

    def values(self, run: Run) -> dict[int, float]:
        """Returns what of a run counts at each band that it has reached.

        That is the value there, or the first one measured after it; where ``strict`` is false the
        best one up to there.

        Args:
            run: The run.
        """
        if self._metric not in run.metrics:
            return {}
        pairs = zip(run.epochs.tolist(), run.metrics[self._metric].tolist(), strict=True)
        known = [(epoch, value) for epoch, value in pairs if math.isfinite(value)]
        best = max if self._direction == "maximize" else min
        found = {}
        for band in self.bands:
            past = next((i for i, (epoch, _) in enumerate(known) if epoch >= band), None)
            if past is None:
                break
            until = [value for _, value in known[: past + 1]]
            found[band] = until[-1] if self._is_strict else best(until)
        return found

    def ends(self, own: Values, others: Sequence[Values]) -> bool:
        """Returns whether a run ends at the last band that it has reached.

        Args:
            own: Of the run.
            others: Of every other one.
        """
        import optuna

        pruner = optuna.pruners.SuccessiveHalvingPruner(
            min_resource=1, reduction_factor=self._eta, min_early_stopping_rate=0
        )
        study = optuna.create_study(direction=self._direction, pruner=pruner)
        ends = False
        for values in (*others, own):
            trial = study.ask()
            for rung, band in enumerate(self.bands):
                if band in values:
                    trial.report(values[band], self._eta**rung)
                    ends = trial.should_prune()
        return bool(own) and ends

    def said(self, own: Values) -> str:
        """Returns in words why a run ends.

        Args:
            own: From `values`.
        """
        band, value = max(own.items())
        return (
            f"{self._metric} {value:.4g} is not in the best 1/{self._eta} of those at epoch {band}"
        )


class Pruner:
    """Compares the running points of one launcher with all others.

    Args:
        pruning: The bands.
        trials: Of all launchers, which keep what a run was at each band.
    """

    def __init__(self, pruning: Pruning, trials: Trials) -> None:
        self._pruning = pruning
        self._trials = trials
        self._reached: dict[int, int] = {}

    @patient
    def look(self, point: Point, run: Run) -> str:
        """Notes what a run has reached, and compares it where that is a further band.

        Args:
            point: It is this launcher's.
            run: Of the point, as its record has it now.

        Returns:
            Why the run ends now; empty if it does not.
        """
        own = self._pruning.values(run)
        if len(own) <= self._reached.get(point.trial, 0):
            return ""
        others: dict[int, Values] = {}
        for trial in self._trials.all():
            if trial.intermediate_values and point_of(trial) != point.index:
                others[point_of(trial)] = trial.intermediate_values
        self._trials.report(point.trial, own)
        self._reached[point.trial] = len(own)
        ends = self._pruning.ends(own, list(others.values()))
        return self._pruning.said(own) if ends else ""
