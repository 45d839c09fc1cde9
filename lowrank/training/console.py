"""What a person sees while a network trains: a table that grows by a line per epoch."""

from __future__ import annotations

import math
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any, TextIO

from lowrank.common.quantities import TABLE
from lowrank.common.terminal import Display, aligned, duration
from lowrank.common.texts import wrapped
from lowrank.measure.metrics import parts_of

if TYPE_CHECKING:
    from lowrank.measure.layers import Layer

COLUMNS = (
    ("epoch", 8, "", ""),
    ("lr", 7, "lr_now", ".3g"),
    ("train loss", 11, "train_loss", ".4g"),
    ("acc", 7, "train_accuracy", ".2%"),
    ("test loss", 10, "test_loss", ".4g"),
    ("acc", 7, "test_accuracy", ".2%"),
    ("rank", 7, "rank_mean", ".1f"),
    ("images/s", 9, "throughput/images_per_second", ",.0f"),
    ("left", 6, "", ""),
)
"""Head, width, metric and its form of each column; with a space between them, 80 columns."""

OF_A_PACK = (
    ("epoch", 8, "", ""),
    ("train loss", 11, "train_loss", ".4g"),
    ("acc", 7, "train_accuracy", ".2%"),
    ("test acc", 8, "test_accuracy", ".2%"),
    ("rank: min", 9, "rank_mean", ".1f"),
    ("mean", 6, "rank_mean", ".1f"),
    ("max", 6, "rank_mean", ".1f"),
    ("images/s", 9, "throughput/images_per_second", ",.0f"),
    ("left", 6, "", ""),
)
"""Likewise of a pack: means over its runs, and of the ranks the least and the largest too."""


class Console(Display):
    """Prints lines, and on a terminal also a bar with rate and time left.

    Args:
        epochs: Number of the last epoch.
        steps: Optimiser steps per epoch.
        batch_size: Examples per step, for the rate on the bar.
        examples: What they are called, in six or seven letters.
        stream: Where to print; a bar appears only if it is a terminal.
        echo: Gets every line as well.
    """

    def __init__(
        self,
        *,
        epochs: int,
        steps: int,
        batch_size: int,
        examples: str = "images",
        stream: TextIO | None = None,
        echo: Callable[[str], None] = lambda _: None,
    ) -> None:
        super().__init__(stream)
        self.epochs = epochs
        self.steps = steps
        self.batch_size = batch_size
        self.examples = examples
        self.echo = echo
        self._done = 0
        self._started = (0.0, 0)
        self._lock = threading.RLock()

    def line(self, text: str = "", *, echo: bool = True) -> None:
        """Prints one line above the bar, from any thread.

        Args:
            text: Printed as it is.
            echo: Whether ``echo`` gets it.
        """
        with self._lock:
            if echo:
                self.echo(f"{text}\n")
            super().line(text)

    def head(self, members: int = 1) -> None:
        """Prints the names of the columns.

        Args:
            members: Of the pack.
        """
        head = table_head(COLUMNS if members == 1 else OF_A_PACK, self.examples)
        self.line(head, echo=members == 1)

    def start(self, epoch: int, step: int = 0) -> None:
        """Begins to count: training stands before the given step of the epoch after ``epoch``.

        Args:
            epoch: Epochs completed.
            step: Steps taken since.
        """
        self._done = epoch * self.steps + step
        self._started = (time.monotonic(), self._done)
        self._update(epoch)

    def stepped(self) -> None:
        """Counts one optimiser step."""
        self._done += 1
        if self.is_terminal:
            with self._lock:
                self._update((self._done - 1) // self.steps)

    def epoch(self, rows: Sequence[Mapping[str, float]], members: int = 1) -> None:
        """Prints the line of one epoch.

        Args:
            rows: The epoch's row of each run by W&B's names; what is absent or NaN is shown
                as ``-``.
            members: Of the pack; of one the row is shown, of several what is common to all.
        """
        if members == 1:
            (row,) = rows
            line = epoch_line(int(row["epoch"]), self.epochs, row, self._seconds_left())
            self.line(line)
        else:
            self.line(pack_line(self.epochs, rows, self._seconds_left()), echo=False)

    def _seconds_left(self) -> float:
        moment, done = self._started
        if self._done == done:
            return math.nan
        pace = (time.monotonic() - moment) / (self._done - done)
        return pace * (self.epochs * self.steps - self._done)

    def _update(self, epoch: int) -> None:
        if not self.is_terminal:
            return
        moment, done = self._started
        elapsed = time.monotonic() - moment
        rate = (self._done - done) * self.batch_size / elapsed if elapsed > 0 else 0.0
        stands = f"epoch {min(epoch + 1, self.epochs)}/{self.epochs}"
        note = f"{stands}, {rate:,.0f} {self.examples}/s, left {duration(self._seconds_left())}"
        self.bar("steps", self._done, max(1, self.epochs * self.steps), note)


def epoch_line(
    epoch: int, epochs: int, metrics: Mapping[str, float], seconds_left: float = math.nan
) -> str:
    """Returns the line of one epoch, 80 columns wide.

    Args:
        epoch: Its number.
        epochs: Number of the last epoch.
        metrics: The epoch's row by W&B's names.
        seconds_left: Until the end of the run; NaN where unknown.

    Returns:
        The line, under the heads of ``COLUMNS``; wider where a number is.
    """
    texts = (_number(metrics.get(name), form) for _, _, name, form in COLUMNS[1:-1])
    return _row([f"{epoch}/{epochs}", *texts, duration(seconds_left)])


def pack_line(
    epochs: int, rows: Sequence[Mapping[str, float]], seconds_left: float = math.nan
) -> str:
    """Returns the line of one epoch of a pack, at most 80 columns wide.

    Args:
        epochs: Number of the last epoch.
        rows: The epoch's row of each run by W&B's names.
        seconds_left: Until the end; NaN where unknown.

    Returns:
        The line, under the heads of ``OF_A_PACK``.
    """
    of = {
        name: [row[name] for row in rows if not math.isnan(row.get(name, math.nan))]
        for _, _, name, _ in OF_A_PACK[1:-1]
    }
    how: dict[str, Callable[[list[float]], float]]
    how = {"rank: min": min, "max": max, "images/s": sum}
    texts = (
        _number(how.get(head, fmean)(of[name]) if of[name] else None, form)
        for head, _, name, form in OF_A_PACK[1:-1]
    )
    epoch = int(min(row["epoch"] for row in rows))
    return _row([f"{epoch}/{epochs}", *texts, duration(seconds_left)], OF_A_PACK)


def table_head(
    columns: Sequence[tuple[str, int, str, str]] = COLUMNS, examples: str = "images"
) -> str:
    """Returns the heads above the lines of `epoch_line`, or of `pack_line`.

    Args:
        columns: `COLUMNS` or `OF_A_PACK`.
        examples: As of `Console`.
    """
    return _row((head.replace("images", examples) for head, *_ in columns), columns)


def layer_table(
    layers: Sequence[Layer],
    first: Mapping[str, float],
    last: Mapping[str, float],
    derived: Sequence[Layer] = (),
) -> str:
    """Returns a table of every layer's rank at the start and now.

    Args:
        layers: In network order.
        first: The row of epoch 0 by W&B's names.
        last: The latest row.
        derived: What is measured beside them: of each kind the means have a line.

    Returns:
        Lines of at most 80 columns while names have at most 28 characters; a star marks layers
        that do not count in ``rank_mean``.
    """
    rank, *shown = [TABLE["rank"], *(entry for entry in TABLE.values() if entry.in_console)]
    heads = ("layer", "shape", "full", "rank at 0", "now", *(entry.head for entry in shown))
    rows: list[tuple[str, ...]] = [heads]
    rows += [
        (
            layer.name + ("" if layer.counted else "*"),
            f"{layer.shape[0]}×{layer.shape[1]}",
            str(min(layer.shape)),
            *(_number(row.get(f"rank/{layer.name}"), rank.form) for row in (first, last)),
            *(_number(last.get(f"{each.name}/{layer.name}"), each.form) for each in shown),
        )
        for layer in layers
    ]
    for name, counted in (
        ("rank_mean", [layer for layer in layers if layer.counted]),
        *(
            (f"rank_mean/{part}", [layer for layer in layers if layer.part == part])
            for part in parts_of(layers)
        ),
        ("rank_mean_all", layers),
    ):
        full = sum(min(layer.shape) for layer in counted) / len(counted) if counted else math.nan
        means = [_number(row.get(name), ".1f") for row in (first, last)]
        means += [
            _number(last.get(each.mean), each.form) if each.mean and name == rank.mean else ""
            for each in shown
        ]
        rows.append((name, "", _number(full, ".1f"), *means))
    for kind in dict.fromkeys(layer.kind for layer in derived):
        of_kind = [layer for layer in derived if layer.kind == kind]
        full = fmean(min(layer.shape) for layer in of_kind)
        means = [_number(_mean(row, "rank", of_kind), ".1f") for row in (first, last)]
        means += [_number(_mean(last, each.name, of_kind), each.form) for each in shown]
        rows.append((f"mean of {len(of_kind)} {kind}", "", f"{full:.1f}", *means))
    first_width = max(len(row[0].rstrip("*")) for row in rows) + 1
    lines = aligned(rows, widths=(first_width, 11, 6, 10, 6, *(8 for _ in shown)), gap=1)
    if any(not layer.counted for layer in layers):
        lines.append("* not counted in rank_mean: the classifier and 1×1 shortcuts")
    return "\n".join(lines)


def _mean(row: Mapping[str, float], quantity: str, layers: Sequence[Layer]) -> float:
    return fmean(row.get(f"{quantity}/{layer.name}", math.nan) for layer in layers)


def member_table(
    members: Mapping[str, tuple[Mapping[str, Any], Mapping[str, float]]], width: int | None = None
) -> str:
    r"""Returns a table of a pack's runs.

    Args:
        members: By run id: the settings in which they differ, and the latest row.
        width: Columns that it may take; by default the terminal's, or 80.

    Returns:
        A line per run; where that is too wide the settings stand below it.

    Example:
        >>> row = {"test_accuracy": 0.97, "rank_mean": 61.25}
        >>> members = {"a": ({"lr": 0.1}, row), "b": ({"lr": 0.2}, row)}
        >>> print(member_table(members))
        run   lr  train acc  test acc  rank_mean
        a    0.1          -    97.00%       61.2
        b    0.2          -    97.00%       61.2
        >>> print(member_table(dict([*members.items()][:1]), width=36))
        run  train acc  test acc  rank_mean
        a            -    97.00%       61.2
          lr=0.1
    """
    settings = next(iter(members.values()))[0]
    shown = (
        ("train acc", "train_accuracy", ".2%"),
        ("test acc", "test_accuracy", ".2%"),
        ("rank_mean", "rank_mean", ".1f"),
    )
    heads = tuple(head for head, *_ in shown)
    values = [
        [f"{value:g}" if isinstance(value, float) else str(value) for value in own.values()]
        for own, _ in members.values()
    ]
    found = [
        [_number(row.get(name), form) for _, name, form in shown] for _, row in members.values()
    ]
    rows: list[tuple[str, ...]] = [("run", *settings, *heads)]
    rows += [
        (run_id, *own, *numbers)
        for run_id, own, numbers in zip(members, values, found, strict=True)
    ]
    width = width or shutil.get_terminal_size().columns
    lines = aligned(rows)
    if max(map(len, lines)) <= width:
        return "\n".join(lines)
    head, *lines = aligned([(row[0], *row[-len(shown) :]) for row in rows])
    for place, own in enumerate(values):
        told = " ".join(f"{name}={value}" for name, value in zip(settings, own, strict=True))
        below = wrapped(told, width, "  ")
        lines[place] = "\n".join([lines[place], *below])
    return "\n".join([head, *lines])


def _row(texts: Iterable[str], columns: Sequence[tuple[str, int, str, str]] = COLUMNS) -> str:
    return aligned([tuple(texts)], left=(), widths=[width for _, width, *_ in columns], gap=1)[0]


def _number(value: float | None, form: str) -> str:
    return "-" if value is None or math.isnan(value) else format(value, form)
