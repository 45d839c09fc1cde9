"""What a person sees while agents work: a line per event, and a table of the slots."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from lowrank.common.errors import InputError
from lowrank.common.files import expanded
from lowrank.common.terminal import Display, aligned, duration
from lowrank.common.texts import few, shortened
from lowrank.config import Config
from lowrank.config.arguments import parse
from lowrank.runs.find import load_run
from lowrank.runs.lost import Lost, lost

COLUMNS = (
    ("slot", -11),
    ("state", -11),
    ("run", -10),
    ("epoch", 10),
    ("rank_mean", 11),
    ("done", 5),
    ("failed", 6),
    ("left", 6),
)
"""Head and width of each column, negative where it is set left; with spaces, 77 columns."""


PIPED_EVERY = 600.0
"""Seconds between two tables where the output is no terminal, as in the log of a cluster's job."""

_MOST_NAMES = 20


@dataclass
class Point:
    """A training in progress.

    Attributes:
        run_id: Of its run.
        config: What it trains; None if its command is not train.py's.
        log_offset: Where its output begins in the slot's log.
        started: When, of `time.monotonic`.
        first_epoch: The epoch from which it went on; None before its record is seen.
        epoch: The last recorded.
        rank_mean: Of that epoch; None if it has none.
        lost: How it was lost, if it was.
    """

    run_id: str
    config: Config | None
    log_offset: int
    started: float
    first_epoch: int | None = None
    epoch: int | None = None
    rank_mean: float | None = None
    lost: Lost | None = None

    def look(self) -> None:
        """Reads from the run's record how far it is."""
        if self.config is None:
            return
        with contextlib.suppress(InputError, KeyError, OSError):
            run = load_run(expanded(self.config.output_dir) / self.run_id)
            if len(run.epochs):
                self.epoch = int(run.epochs[-1])
                self.lost = lost(run)
                rank = float(run.metrics["rank_mean"][-1])
                self.rank_mean = None if math.isnan(rank) else rank
                if self.first_epoch is None:
                    self.first_epoch = self.epoch

    @property
    def is_trained(self) -> bool:
        """Whether only the upload is left."""
        return self.config is not None and self.epoch == self.config.epochs

    @property
    def seconds_left(self) -> float:
        """Until its last epoch, at the pace so far; NaN where unknown."""
        if self.config is None or not self.epoch or self.first_epoch is None:
            return float("nan")
        done = self.epoch - self.first_epoch
        elapsed = time.monotonic() - self.started
        return elapsed / done * (self.config.epochs - self.epoch) if done else float("nan")


def config_of(report: Mapping[str, Any], environ: Mapping[str, str]) -> Config | None:
    """Returns what an agent's command trains, from its flags as train.py reads them.

    Args:
        report: Of the agent: ``command`` in words, and ``parameters``, a path.
        environ: Variables of the command.

    Returns:
        The configuration; None where train.py refuses it, or it is another program's.
    """
    words = list(report["command"])
    program = next((i for i, word in enumerate(words) if word.endswith(".py")), 0)
    variables = {name: value for name, value in environ.items() if not name.startswith("WANDB_")}
    try:
        return parse(
            words[program + 1 :], {**variables, "WANDB_SWEEP_PARAM_PATH": report["parameters"]}
        )
    except (InputError, SystemExit):
        return None


@dataclass
class Row:
    """A slot as the table shows it.

    Attributes:
        slot: Its name.
        state: In a word.
        done: Points that ended well.
        failed: Points that did not.
        points: The training in progress, if there is one: of a pack all its runs.
    """

    slot: str
    state: str
    done: int
    failed: int
    points: Sequence[Point]

    def of_training(self) -> list[str]:
        """Returns run, epoch, ``rank_mean`` and time left; of a pack what holds of all its runs."""
        if not self.points:
            return ["-", "-", "-", "-"]
        first = self.points[0]
        run = first.run_id if len(self.points) == 1 else f"{len(self.points)} runs"
        epochs = "?" if first.config is None else first.config.epochs
        # The record of a member that a rule has ended stands still.
        epoch = max((p.epoch for p in self.points if p.epoch is not None), default=None)
        ranks = [p.rank_mean for p in self.points if p.rank_mean is not None]
        ends = [min(ranks), max(ranks)] if len(ranks) > 1 else ranks
        rank = "-".join(f"{each:.1f}" for each in ends) or "-"
        left = [p.seconds_left for p in self.points if math.isfinite(p.seconds_left)]
        stands = "-" if epoch is None else f"{epoch}/{epochs}"
        return [run, stands, rank, duration(min(left, default=math.nan))]


class Status(Display):
    """Prints events, and on a terminal keeps a table below them; elsewhere now and then one.

    Args:
        stream: Where to print; by default standard output.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__(stream)
        self._printed = time.monotonic()

    def show(self, rows: Sequence[Row]) -> None:
        """Brings the table up to date.

        Args:
            rows: One for each slot.
        """
        if self.is_terminal:
            self.text(table(rows))
        elif time.monotonic() >= self._printed + PIPED_EVERY:
            self._printed = time.monotonic()
            self.line(table(rows))


def table(rows: Sequence[Row]) -> str:
    """Returns the slots as lines of at most 80 columns.

    Args:
        rows: One for each slot.

    Returns:
        A head, a line for each slot and a line of sums.

    Example:
        >>> print(table([Row("gpu0", "waiting", 2, 0, [])]))
        slot        state       run             epoch   rank_mean  done failed   left
        gpu0        waiting     -                   -           -     2      0      -
    """
    found = [[head for head, _ in COLUMNS]]
    for row in rows:
        *texts, left = row.of_training()
        trained = row.points and all(point.is_trained for point in row.points)
        state = "uploading" if trained else row.state
        found.append([row.slot, state, *texts, str(row.done), str(row.failed), left])
    if len(rows) > 1:
        sums = [str(sum(row.done for row in rows)), str(sum(row.failed for row in rows))]
        found.append(["in all", "", "", "", "", *sums, ""])
    sizes = [abs(width) for _, width in COLUMNS]
    short = [[shortened(*cell) for cell in zip(texts, sizes, strict=True)] for texts in found]
    left_set = [place for place, (_, width) in enumerate(COLUMNS) if width < 0]
    return "\n".join(aligned(short, left=left_set, widths=sizes, gap=1))


def named(names: Sequence[str]) -> str:
    """Returns names as a list of bearable length.

    Args:
        names: Of runs.
    """
    return few(names, _MOST_NAMES)
