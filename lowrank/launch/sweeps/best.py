"""What a sweep has found: its best points, and which parameters decide."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lowrank.common.terminal import aligned
from lowrank.launch.sweeps.points import run_id_of
from lowrank.launch.sweeps.search import Search
from lowrank.runs.find import load_run
from lowrank.runs.format import RecordError

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

BEST = 5
"""Points that are shown."""

ENOUGH = 10
"""Points with a value from which on something can be said of parameters."""

_ACCURACY = "test_accuracy"


def best_lines(
    search: Search,
    points: Mapping[int, Sequence[FrozenTrial]],
    output_dir: Path,
    prefix: str,
) -> list[str]:
    """Returns the table of the best points, and the importance of each parameter.

    Args:
        search: The sweep's points.
        points: The trials of every point.
        output_dir: Where their runs are, for accuracies.
        prefix: Start of every run id.

    Returns:
        Lines; none where the file names no metric or no point has a value.
    """
    done = {
        number: trial
        for number, trials in points.items()
        for trial in trials
        if trial.state.name == "COMPLETE" and trial.value is not None
    }
    if search.sweep.metric is None or not done:
        return []
    sign = -1 if search.direction == "maximize" else 1
    order = sorted(done, key=lambda number: (sign * (done[number].value or 0.0), number))
    swept = [name for name in search.sweep.parameters if name in search.varied]
    metric = search.metric
    more = [] if metric == _ACCURACY else [_ACCURACY]
    rows = [["run", metric, *more, *swept]]
    for number in order[:BEST]:
        run_id, values = run_id_of(prefix, number), search.point(number, done[number].params)
        accuracy = [_accuracy(output_dir / run_id) for _ in more]
        texts = [shown(values.get(name)) for name in swept]
        rows.append([run_id, f"{done[number].value:.4g}", *accuracy, *texts])
    count = len(rows) - 1
    head = f"best of {len(done)} points:" if count > 1 else "the only point with a value:"
    return [head, *(f"  {line}" for line in aligned(rows)), *_importance(search, done)]


def _importance(search: Search, done: Mapping[int, FrozenTrial]) -> list[str]:
    """Returns the line on what decides."""
    values = {trial.value for trial in done.values()}
    if len(done) < ENOUGH or len(values) < ENOUGH // 2 or len(search.varied) < 2:
        return []
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    study = optuna.create_study(direction=search.direction)
    trials = [done[number] for number in sorted(done)]
    study.add_trials(search.seen(trials))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    shares = ", ".join(f"{name} {share:.0%}" for name, share in found.items())
    return [f"importance of parameters (PED-ANOVA, {len(done)} points): {shares}"]


def _accuracy(directory: Path) -> str:
    try:
        values = load_run(directory).metrics.get(_ACCURACY)
    except RecordError:  # on another machine
        return "-"
    return "-" if values is None or not len(values) else f"{values[-1]:.4g}"


def shown(value: object) -> str:
    """Returns a parameter's value in few digits.

    Args:
        value: Of any type.

    Example:
        >>> shown(0.123456), shown([60, 100])
        ('0.1235', '[60, 100]')
    """
    return f"{value:.4g}" if isinstance(value, float) else str(value)
