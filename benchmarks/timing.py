"""Repetitions, their median and spread, and the row of the table that a program returns."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Turn = Callable[[], object]
"""One repetition; it returns when its work is done."""

Kind = Literal["speedup", "share", "absolute"]


@dataclass(frozen=True)
class Spread:
    """One thing, measured several times.

    Attributes:
        median: Of all repetitions.
        deviation: Median absolute deviation from it; a single slow repetition does not move it.
        count: How many repetitions.
    """

    median: float
    deviation: float
    count: int

    def text(self) -> str:
        """Returns median ± deviation in three digits, the median alone of a single repetition.

        Returns:
            The text.

        Example:
            >>> spread([1.0, 1.1, 1.5]).text(), spread([12345.6]).text()
            ('1.1 ± 0.1', '12,346')
        """
        if self.count == 1:
            return number(self.median)
        return f"{number(self.median)} ± {number(self.deviation)}"


def spread(values: Sequence[float]) -> Spread:
    """Returns median and median absolute deviation.

    Args:
        values: One or more repetitions.

    Returns:
        Both, with their number.

    Example:
        >>> spread([3.0, 1.0, 2.0, 100.0])
        Spread(median=2.5, deviation=1.0, count=4)
    """
    median = statistics.median(values)
    return Spread(median, statistics.median(abs(value - median) for value in values), len(values))


def number(value: float) -> str:
    """Returns three significant digits, or all before the point.

    Args:
        value: Any number.

    Returns:
        The text.

    Example:
        >>> number(0.012345), number(1.2), number(98.76), number(12345.6)
        ('0.0123', '1.2', '98.8', '12,346')
    """
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def interleaved(
    turns: Mapping[str, Turn], repetitions: int, *, warmups: int = 1
) -> dict[str, list[float]]:
    """Times several things in turn, A B A B …, so that the state of the machine is common to all.

    The clock is that of `torch.utils.benchmark`, which waits for a GPU. Its `Timer` takes one thing
    after the other, and warms each up twice for every repetition.

    Args:
        turns: What is timed, by name.
        repetitions: Of each.
        warmups: Repetitions of each before the first that counts.

    Returns:
        Seconds of each repetition, by name.

    Example:
        >>> times = interleaved({"ours": lambda: None, "theirs": lambda: None}, 3)
        >>> {name: len(of_one) for name, of_one in times.items()}
        {'ours': 3, 'theirs': 3}
    """
    from torch.utils import benchmark

    found: dict[str, list[float]] = {name: [] for name in turns}
    for repetition in range(warmups + repetitions):
        for name, turn in turns.items():
            started = benchmark.timer()
            turn()
            taken = benchmark.timer() - started
            if repetition >= warmups:
                found[name].append(taken)
    return found


@dataclass(frozen=True)
class Row:
    """A line of the table: one thing of ours beside its baseline.

    Attributes:
        what: Of ours.
        baseline: What it is compared with; empty if with nothing.
        unit: Of both numbers, such as ``s`` or ``images/s``; a rate ends in ``/s``.
        ours: What was measured of ours.
        theirs: What was measured of the baseline.
        kind: What the ratio says. ``speedup``: how many times faster ours is, at least the target.
            ``share``: ours over the baseline, at most the target. ``absolute``: there is no
            baseline, and ours itself is at most the target.
        target: None where nothing is demanded.
    """

    what: str
    baseline: str
    unit: str
    ours: Spread
    theirs: Spread | None
    kind: Kind
    target: float | None

    @property
    def ratio(self) -> float | None:
        """Ratio of the medians, as ``kind`` says; None without a baseline."""
        if self.theirs is None:
            return None
        ours_over_theirs = self.ours.median / self.theirs.median
        is_time_saved = self.kind == "speedup" and not self.unit.endswith("/s")
        return 1 / ours_over_theirs if is_time_saved else ours_over_theirs

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None if there is none."""
        if self.target is None:
            return None
        value = self.ours.median if self.ratio is None else self.ratio
        return value >= self.target if self.kind == "speedup" else value <= self.target

    @property
    def demand(self) -> str:
        """The target in words, such as ``≥ 5×``; empty if there is none."""
        if self.target is None:
            return ""
        if self.kind == "speedup":
            return f"≥ {self.target:g}×"
        return f"≤ {self.target:g}" + (f" {self.unit}" if self.kind == "absolute" else "")

    def shown_ratio(self) -> str:
        """Returns the ratio as text, empty without a baseline; a miss never reads as the target."""
        if self.ratio is None:
            return ""
        text = number(self.ratio)
        if self.met is False and self.target is not None and text == number(self.target):
            text = f"{self.ratio:.6g}"
        return text + ("×" if self.kind == "speedup" else "")

    def verdict(self) -> str:
        """Returns ``met``, ``missed``, or nothing where nothing is demanded."""
        return "" if self.met is None else "met" if self.met else "missed"

    def to_json(self) -> dict[str, Any]:
        """Returns JSON types that `from_json` reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Row:
        """Makes the row that `to_json` wrote.

        Args:
            value: JSON types.

        Returns:
            The row.
        """
        theirs = value["theirs"]
        return cls(**{
            **value,
            "ours": Spread(**value["ours"]),
            "theirs": None if theirs is None else Spread(**theirs),
        })  # fmt: skip


def faster(
    what: str,
    baseline: str,
    times: Mapping[str, Sequence[float]],
    target: float | None,
    *,
    work: float | None = None,
    unit: str = "s",
) -> Row:
    """Makes the row of something that should be faster than its baseline.

    Args:
        what: Of ours.
        baseline: What it is compared with.
        times: Seconds of each repetition under ``ours`` and ``theirs``.
        target: At least so many times faster.
        work: Units done in a repetition: then rates are compared, else seconds.
        unit: Of the rate, such as ``images/s``.

    Returns:
        The row.
    """

    def of(name: str) -> Spread:
        return spread([taken if work is None else work / taken for taken in times[name]])

    return Row(what, baseline, unit, of("ours"), of("theirs"), "speedup", target)
