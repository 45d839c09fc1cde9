"""Two run records compared bit for bit: where they differ first, and by how much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lowrank.common.texts import few, printable

if TYPE_CHECKING:
    from lowrank.runs.reader import Array, Run

RERUN = "rerun"
"""W&B tag of a rerun; last stands the original's id."""

NOT_COMPARED = ("time/", "throughput/")
"""How metrics begin that no two runs have in common."""

_MOST = 5  # epochs or names in a line


def original_of(config: Mapping[str, Any]) -> str | None:
    """Returns the id of the run that a run repeats; None where it is no rerun.

    Args:
        config: As the record has it.

    Example:
        >>> original_of({"tags": ["mine", "rerun", "a1"]})
        'a1'
    """
    tags = config.get("tags")
    if not isinstance(tags, list | tuple) or RERUN not in tags or tags[-1] == RERUN:
        return None
    return str(tags[-1])


@dataclass(frozen=True)
class Difference:
    """Two values that are not the same, bit for bit.

    Attributes:
        epoch: The first epoch at which the metric or spectrum differs.
        what: The metric, or ``spectrum of <layer>`` and the singular value that differs most.
        before: The original's value.
        now: The other's.
    """

    epoch: int
    what: str
    before: float
    now: float

    @property
    def absolute(self) -> float:
        """|now − before|; NaN where one of them is."""
        return float(_distance(np.float64(self.before), np.float64(self.now)))

    @property
    def relative(self) -> float:
        """|now − before| over the larger magnitude, in [0, 2]; NaN where one is not finite.

        Example:
            >>> Difference(3, "test_loss", 4.0, 5.0).relative
            0.2
        """
        if not np.isfinite([self.before, self.now]).all():
            return float("nan")
        if self.before == self.now:
            return 0.0
        largest = max(abs(self.before), abs(self.now))
        if np.isinf(self.absolute):  # the difference of halves does not overflow
            return abs(self.now / 2 - self.before / 2) / (largest / 2)
        return self.absolute / largest

    def __str__(self) -> str:
        values = f"{printable(self.what, 200)}: {self.before!r} was recorded, now {self.now!r}"
        if not np.isfinite([self.before, self.now]).all():
            return values
        if self.before == self.now:
            return f"{values} (only the sign of zero)"
        return f"{values} (absolute {self.absolute:.3g}, relative {self.relative:.3g})"


@dataclass(frozen=True)
class Comparison:
    """What two records have in common and where they differ.

    Attributes:
        epochs: Those compared, ascending.
        metrics: Names of the metrics compared; where only one run has one, the other has no values.
        layers: Names of the layers whose spectra were compared, in network order.
        missing: What only one of the two holds, and what differs within epochs, a sentence each.
        of_metrics: The first difference of every metric that differs, in the record's order.
        of_spectra: Likewise of every layer, in network order.
    """

    epochs: tuple[int, ...]
    metrics: tuple[str, ...]
    layers: tuple[str, ...]
    missing: tuple[str, ...] = ()
    of_metrics: Mapping[str, Difference] = field(default_factory=dict)
    of_spectra: Mapping[str, Difference] = field(default_factory=dict)

    @property
    def identical(self) -> bool:
        """Whether nothing differs and nothing is missing."""
        return not (self.missing or self.of_metrics or self.of_spectra)

    @property
    def first_epoch(self) -> int | None:
        """The first epoch with a value that differs; None without one."""
        found = [*self.of_spectra.values(), *self.of_metrics.values()]
        return min((difference.epoch for difference in found), default=None)

    def lines(self) -> list[str]:
        """Returns the result for people, a line for each part of it."""
        parts = (
            f"{_counted(len(self.epochs), 'epoch')}, {_counted(len(self.metrics), 'metric')} and "
            f"the spectra of {_counted(len(self.layers), 'layer')}"
        )
        if self.identical:
            return [f"bitwise identical: {parts}"]
        first = self.first_epoch
        if first is None:
            return [f"bitwise identical where both have values ({parts}), but:", *self.missing]
        same = sum(epoch < first for epoch in self.epochs)
        spectra = [each for each in self.of_spectra.values() if each.epoch == first]
        metrics = [each for each in self.of_metrics.values() if each.epoch == first]
        return [
            f"differs from epoch {first} on; {_counted(same, 'epoch')} before it "
            f"{'is' if same == 1 else 'are'} bitwise identical",
            *(str(each) for each in spectra[:1] + metrics[:1]),
            f"in all {len(self.of_spectra)} of {_counted(len(self.layers), 'spectrum', 'spectra')} "
            f"and {len(self.of_metrics)} of {_counted(len(self.metrics), 'metric')} differ",
            *self.missing,
        ]


def compare(original: Run, other: Run, last_epoch: int | None = None) -> Comparison:
    """Compares every epoch of a run with that of another, bit for bit.

    Not compared are times and throughput. No value equals no value; 0.0 is not -0.0.

    Args:
        original: Its epochs are expected in the other run; further ones of the other are no
            difference.
        other: The run that should be the same.
        last_epoch: Epochs of the original after this one are not expected.

    Returns:
        What was found.
    """
    expected = [e for e in original.epochs.tolist() if last_epoch is None or e <= last_epoch]
    epochs = np.intersect1d(np.array(expected, dtype=np.int64), other.epochs)
    rows = [np.searchsorted(run.epochs, epochs) for run in (original, other)]
    absent = sorted(set(expected) - set(epochs.tolist()))
    missing = (
        [f"the rerun has no epoch {few([str(each) for each in absent], _MOST)}"] if absent else []
    )
    nothing = np.full(len(epochs), np.nan)

    def pair(columns: Sequence[Mapping[str, Array]], name: str) -> list[Array]:
        both = zip(columns, rows, strict=True)
        return [of[name][at] if name in of else nothing for of, at in both]

    metrics = (original.metrics, other.metrics)
    names = [n for n in dict.fromkeys((*metrics[0], *metrics[1])) if not n.startswith(NOT_COMPARED)]
    of_metrics = {name: _first(epochs, name, *pair(metrics, name)) for name in names}
    layers, theirs = (
        {layer.name: layer for layer in (*run.layers, *run.derived)} for run in (original, other)
    )
    missing += [f"only the original has layer {printable(n)}" for n in layers if n not in theirs]
    missing += [f"only the rerun has layer {printable(n)}" for n in theirs if n not in layers]
    spectra = (original.spectra, other.spectra)
    of_spectra = {}
    for name in (name for name in layers if name in theirs):
        before, now = pair(spectra, name)
        if layers[name] != theirs[name] or before.shape != now.shape:
            missing.append(f"layer {printable(name)} is another weight matrix in the rerun")
        else:
            of_spectra[name] = _first(epochs, f"spectrum of {name}", before, now)
    if not _same_within(original, other, int(epochs[-1]) if epochs.size else -1):
        missing.append("what was measured within epochs differs")
    return Comparison(
        epochs=tuple(epochs.tolist()),
        metrics=tuple(names),
        layers=tuple(of_spectra),
        missing=tuple(missing),
        of_metrics={name: found for name, found in of_metrics.items() if found},
        of_spectra={name: found for name, found in of_spectra.items() if found},
    )


def _same_within(one: Run, other: Run, last_epoch: int) -> bool:
    """Returns whether what was measured within epochs is the same, bit for bit."""
    before = [run.within.epochs < last_epoch for run in (one, other)]
    found, theirs = (
        {name: values[kept] for name, values in run.within.metrics.items()} | {"": times[kept]}
        for run, kept in zip((one, other), before, strict=True)
        for times in [run.within.epochs]
    )
    return found.keys() == theirs.keys() and all(
        values.shape == theirs[name].shape and bool(_same(values, theirs[name]).all())
        for name, values in found.items()
    )


def _first(epochs: NDArray[np.int64], what: str, before: Array, now: Array) -> Difference | None:
    """Finds where arrays (E,) or (E, k) differ first, and there the largest difference.

    Returns:
        The difference, or None.
    """
    differs = ~_same(before, now)
    places = np.flatnonzero(differs.any(axis=tuple(range(1, differs.ndim))))
    if not places.size:
        return None
    place = places[0]
    if before.ndim == 1:
        return Difference(int(epochs[place]), what, float(before[place]), float(now[place]))
    distances = _distance(before[place], now[place])
    distances = np.where(np.isnan(distances), np.inf, distances)
    index = int(np.where(differs[place], distances, -1.0).argmax())
    number = f"{what}, singular value {index + 1} of {before.shape[-1]}"
    values = float(before[place, index]), float(now[place, index])
    return Difference(int(epochs[place]), number, *values)


def _same(one: Array, other: Array) -> NDArray[np.bool_]:
    bits = [np.ascontiguousarray(each, dtype=np.float64).view(np.uint64) for each in (one, other)]
    same: NDArray[np.bool_] = (bits[0] == bits[1]) | (np.isnan(one) & np.isnan(other))
    return same


def _distance(one: Any, other: Any) -> Any:
    with np.errstate(over="ignore", invalid="ignore"):
        return np.abs(other - one)


def _counted(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
