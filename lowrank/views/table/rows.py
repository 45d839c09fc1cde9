"""One run as a row of a table: ranks and accuracies over its measured epochs, and how it ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowrank.common.errors import InputError, refuse
from lowrank.common.quantities import TABLE
from lowrank.common.terminal import counting, so_far
from lowrank.common.texts import printable
from lowrank.measure.metrics import at
from lowrank.measure.ranks import RANK_NORMS, rank
from lowrank.runs.find import Run, find_elsewhere, find_runs
from lowrank.runs.format import RECORD_NAME, RecordError
from lowrank.runs.metrics import metric_of

Floats = NDArray[np.float64]

EPSILON = 1e-3
"""The paper's threshold, where no run says another one."""

ACCURACIES = ("train_accuracy", "test_accuracy")

QUIET_SECONDS = 10.0
"""Without a terminal, a line of progress appears so often."""


@dataclass(frozen=True)
class Definition:
    """Which value is meant: #{i : σ_i/‖W‖ > ε}, averaged over the counted layers, or a metric.

    Attributes:
        epsilon: The threshold ε.
        rank_norm: ‖W‖: ``frobenius`` or ``spectral``.
        metric: The name of a metric that is meant instead; empty for the rank.
    """

    epsilon: float = EPSILON
    rank_norm: str = "frobenius"
    metric: str = ""

    @property
    def name(self) -> str:
        """What is meant, in words."""
        quantity, _, part = (self.metric or "rank_mean").partition("/")
        averaged = next((entry for entry in TABLE.values() if entry.mean == quantity), None)
        if averaged is not None:
            return f"average {averaged.words}" + (f" of the {printable(part)}" if part else "")
        if part and quantity in TABLE:
            return f"{TABLE[quantity].words} of {printable(part)}"
        return printable(self.metric.replace("_", " "))

    @property
    def label(self) -> str:
        """The words at an axis."""
        return self.name if self.metric else f"{self.name} ({self})"

    @property
    def column(self) -> str:
        """The head of its column in CSV."""
        return self.metric or "rank_mean"

    def __str__(self) -> str:
        if self.metric:
            return f"metric {printable(self.metric)}"
        norm = "" if self.rank_norm == "frobenius" else f", {self.rank_norm} norm"
        return f"ε = {self.epsilon:g}{norm}"


@dataclass(frozen=True)
class RunRow:
    """What a table says of one run.

    Collapse never looks like low rank: from the epoch on at which the network has collapsed or died
    for good, its rank is NaN.

    Attributes:
        id: The run's id.
        path: Its record file.
        state: As the record has it.
        created: When it began, ISO 8601 in UTC.
        config: Its configuration; empty where its record holds none.
        epochs: The measured epochs, shape (E,), ascending.
        ranks: Average rank over the counted layers, shape (E,); NaN where there is none.
        end: How it ended: finished, collapsed, dead, or the state of a run that is not finished
            (running, stopped, failed, killed).
        train_accuracy: Shape (E,), 0..1; NaN where not recorded.
        test_accuracy: As `train_accuracy`, of the test set.
        full_rank: The largest value that `ranks` could have.
        times: When it was measured within epochs, as fractions, shape (T,), ascending.
        between: What `ranks` holds, at these times, where that was recorded.
    """

    id: str
    path: Path
    state: str
    created: str
    config: dict[str, Any]
    epochs: Floats
    ranks: Floats
    end: str
    train_accuracy: Floats
    test_accuracy: Floats
    full_rank: float
    times: Floats = field(default_factory=lambda: np.empty(0))
    between: Floats = field(default_factory=lambda: np.empty(0))

    @property
    def collapse_epoch(self) -> float:
        """The first epoch from which on it has no rank; NaN if it has one."""
        ended = _for_good(np.isnan(self.ranks))
        return float(self.epochs[ended.argmax()]) if ended.any() else np.nan


def find(paths: Sequence[str]) -> tuple[list[Run], list[str]]:
    """Finds the runs below some paths.

    Args:
        paths: Run directories, directories of runs, record files, or W&B's paths of runs, sweeps
            and projects.

    Returns:
        The runs, each record once, and a line for every record that cannot be read.

    Raises:
        InputError: With a line for every path where there is no run.
    """
    runs: dict[Path, Run] = {}
    lines, unread = [], []
    for path in paths:
        place = Path(path)
        try:
            if place.is_dir():
                found, errors = find_runs(place)
                unread += [f"left out: {line}" for error in errors for line in error.lines]
                if not found and not errors:
                    lines.append(
                        f"{path}: there is no run here; allowed: a run directory, a directory of "
                        f"runs, or a {RECORD_NAME}"
                    )
            else:
                found, errors = find_elsewhere(path)
                unread += [f"left out: {line}" for error in errors for line in error.lines]
        except RecordError as error:
            lines += error.lines
            continue
        runs |= {run.path.resolve(): run for run in found}
    refuse(lines)
    usable: list[Run] = []
    for run in runs.values():
        if reason := _odd(run):
            unread.append(f"left out: {run.path}: {reason}")
        else:
            usable.append(run)
    if not usable:
        raise InputError([*unread, "none of the records can be read"])
    return usable, unread


def _odd(run: Run) -> str:
    """Checks the part of a configuration that tells ranks apart.

    Whoever writes a record with `lowrank.watch` chooses what its configuration holds.

    Returns:
        What is wrong with it; empty if nothing.
    """
    epsilons = run.config.get("epsilons", [])
    if not isinstance(epsilons, list) or not all(
        isinstance(each, float) and 0 <= each < 1 for each in epsilons
    ):
        return f"epsilons must be numbers between 0 and 1, got {printable(str(epsilons))}"
    if run.config.get("rank_norm", "frobenius") not in RANK_NORMS:
        norm = printable(str(run.config["rank_norm"]))
        return f"rank_norm must be {' or '.join(RANK_NORMS)}, got {norm}"
    return ""


def common_definition(
    runs: Sequence[Run], epsilon: float | None = None, rank_norm: str | None = None
) -> Definition:
    """Returns the rank to compare runs by: the most frequent primary one, where none is asked for.

    Args:
        runs: Whose configurations say which rank is their primary one.
        epsilon: The threshold asked for.
        rank_norm: The norm asked for.

    Returns:
        The definition; the paper's where no run says another one.
    """
    epsilons = Counter(own[0].epsilon for run in runs if (own := definitions(run)))
    norms = Counter(run.config["rank_norm"] for run in runs if "rank_norm" in run.config)
    if epsilon is None:
        epsilon = epsilons.most_common(1)[0][0] if epsilons else EPSILON
    if rank_norm is None:
        rank_norm = norms.most_common(1)[0][0] if norms else "frobenius"
    return Definition(epsilon, rank_norm)


def read_rows(runs: Sequence[Run], definition: Definition) -> tuple[list[RunRow], list[str]]:
    """Reads what a table needs of every run, showing progress where that takes long.

    Args:
        runs: As `find` gives them.
        definition: The rank to read or to compute.

    Returns:
        The rows, and a line for every record whose content cannot be read.
    """
    rows, unread = [], []
    with counting("reading runs", so_far("read", "runs"), QUIET_SECONDS) as progress:
        for done, run in enumerate(runs, 1):
            try:
                rows.append(read_row(run, definition))
            except RecordError as error:
                unread += [f"left out: {line}" for line in error.lines]
            progress(done, len(runs))
    return rows, unread


def read_row(run: Run, definition: Definition) -> RunRow:
    """Reads what a table needs of one run.

    A rank that was recorded is taken from the record; any other is counted in the recorded
    spectra, in float64.

    Args:
        run: The run.
        definition: The rank to read or to compute.

    Returns:
        The row.
    """

    def metric(name: str) -> Floats:
        return np.asarray(metric_of(run, name)[measured], dtype=np.float64)

    recorded = "rank_mean" if definition.metric else recorded_as(run, definition)
    run.preload(["collapsed", "dead", recorded, definition.metric, *ACCURACIES])
    measured = np.isfinite(metric_of(run, "collapsed"))
    has_ranks = recorded in run.metrics
    ranks = metric(recorded) if has_ranks else _counted_ranks(run, definition, measured)
    dead = metric("dead") > 0
    counted = [min(layer.shape) for layer in run.layers if layer.counted]
    gone = dead | (metric("collapsed") > 0)
    if counted:
        gone |= np.isnan(ranks)
    end = run.state if run.state != "collapsed" else "finished"
    if gone.size and gone[-1]:
        end = "dead" if dead[-1] and not np.isnan(ranks[-1]) else "collapsed"
    ended = _for_good(gone)
    within = run.within
    between = within.metrics.get(definition.metric or recorded)
    times = within.epochs if between is not None else np.empty(0)
    if between is not None and ended.any():
        between = np.where(times > run.epochs[measured][ended.argmax()] - 1, np.nan, between)
    return RunRow(
        id=run.id,
        path=run.path,
        state=run.state,
        created=run.created,
        config=run.config,
        epochs=np.asarray(run.epochs, dtype=np.float64)[measured],
        ranks=np.where(ended, np.nan, metric(definition.metric) if definition.metric else ranks),
        end=end,
        train_accuracy=metric("train_accuracy"),
        test_accuracy=metric("test_accuracy"),
        full_rank=float(np.mean(counted)) if counted and not definition.metric else np.nan,
        times=times,
        between=np.empty(0) if between is None else between,
    )


def definitions(run: Run) -> list[Definition]:
    """Returns the ranks that a run recorded, the primary one first.

    Args:
        run: The run.

    Returns:
        The definitions; none for a record of another training loop.
    """
    epsilons = run.config.get("epsilons")
    norm = run.config.get("rank_norm", "frobenius")
    return [Definition(each, norm) for each in epsilons] if isinstance(epsilons, list) else []


def recorded_as(run: Run, definition: Definition) -> str:
    """Returns the metric that holds an average rank.

    Args:
        run: The run.
        definition: The rank.

    Returns:
        Its name; empty if none holds it for certain.
    """
    own = definitions(run)
    if definition not in own:
        return ""
    return "rank_mean" if definition == own[0] else at("rank_mean", definition.epsilon)


def _for_good(gone: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Returns where what is gone stays so up to the last epoch."""
    return np.asarray(np.logical_and.accumulate(gone[::-1])[::-1])


def _counted_ranks(run: Run, definition: Definition, measured: NDArray[np.bool_]) -> Floats:
    """Returns the average rank over the counted layers, shape (E,), from the spectra.

    It is NaN where a counted matrix has collapsed, as recorded.
    """
    spectra = (run.spectra[layer.name][measured] for layer in run.layers if layer.counted)
    kind = (definition.epsilon, definition.rank_norm)
    of_layers = [np.asarray(rank(values, *kind)) for values in spectra]
    if not of_layers:
        return np.full(measured.sum(), np.nan)
    recorded = metric_of(run, "rank_mean")[measured]
    return np.where(np.isnan(recorded), np.nan, np.mean(of_layers, axis=0))
