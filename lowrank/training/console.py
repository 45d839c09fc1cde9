"""What a person sees while a network trains: a table that grows by a line per epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TextIO

from lowrank.common.terminal import Display, aligned, duration
from lowrank.measure.quantities import TABLE

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


class Console(Display):
    """Prints lines, and on a terminal also a bar with rate and time left.

    Args:
        epochs: Number of the last epoch.
        steps: Optimiser steps per epoch.
        batch_size: Examples per step, for the rate on the bar.
        stream: Where to print; a bar appears only if it is a terminal.
        echo: Gets every line as well.
    """

    def __init__(
        self,
        *,
        epochs: int,
        steps: int,
        batch_size: int,
        stream: TextIO | None = None,
        echo: Callable[[str], None] = lambda _: None,
    ) -> None:
        super().__init__(stream)
        self.epochs = epochs
        self.steps = steps
        self.batch_size = batch_size
        self.echo = echo
        self._done = 0
        self._started = (0.0, 0)

    def line(self, text: str = "") -> None:
        """Prints one line above the bar.

        Args:
            text: Printed as it is.
        """
        self.echo(f"{text}\n")
        super().line(text)

    def head(self) -> None:
        """Prints the names of the columns."""
        self.line(_row(head for head, *_ in COLUMNS))

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
        self._update((self._done - 1) // self.steps)

    def epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Prints the line of one epoch.

        Args:
            epoch: Its number.
            metrics: The epoch's row by W&B's names; what is absent or NaN is shown as ``-``.
        """
        self.line(epoch_line(epoch, self.epochs, metrics, self._seconds_left()))

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
        note = f"{stands}, {rate:,.0f} images/s, left {duration(self._seconds_left())}"
        self.bar("steps", self._done, max(1, self.epochs * self.steps), note)


def epoch_line(epoch: int, epochs: int, metrics: Mapping[str, float], seconds_left: float) -> str:
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


def layer_table(
    layers: Sequence[Layer], first: Mapping[str, float], last: Mapping[str, float]
) -> str:
    """Returns a table of every layer's rank at the start and now.

    Args:
        layers: In network order.
        first: The row of epoch 0 by W&B's names.
        last: The latest row.

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
        ("rank_mean_all", layers),
    ):
        full = sum(min(layer.shape) for layer in counted) / len(counted) if counted else math.nan
        means = [_number(row.get(name), ".1f") for row in (first, last)]
        means += [
            _number(last.get(each.mean), each.form) if each.mean and name == rank.mean else ""
            for each in shown
        ]
        rows.append((name, "", _number(full, ".1f"), *means))
    first_width = max(len(row[0].rstrip("*")) for row in rows) + 1
    lines = aligned(rows, widths=(first_width, 11, 6, 10, 6, *(8 for _ in shown)), gap=1)
    if any(not layer.counted for layer in layers):
        lines.append("* not counted in rank_mean: the classifier and 1×1 shortcuts")
    return "\n".join(lines)


def _row(texts: Iterable[str]) -> str:
    return aligned([tuple(texts)], left=(), widths=[width for _, width, *_ in COLUMNS], gap=1)[0]


def _number(value: float | None, form: str) -> str:
    return "-" if value is None or math.isnan(value) else format(value, form)
