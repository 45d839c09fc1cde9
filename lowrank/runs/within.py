"""What a run measured between the ends of its epochs."""

from __future__ import annotations

import math
import sqlite3
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lowrank.runs.format import DamagedRecordError

Array = NDArray[np.float64]


class Look(NamedTuple):
    """One measurement within an epoch.

    Attributes:
        step: Steps of the epoch taken, from 1.
        steps: Steps that the epoch has.
        metrics: By the names that they have at the end of an epoch, NaN where there is no value.
    """

    step: int
    steps: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Within:
    """All measurements within epochs, ascending.

    Attributes:
        epochs: When: e - 1 + step/steps within epoch e, shape (T,).
        steps: The step within its epoch, shape (T,).
        metrics: Name -> (T,), NaN where there is no value.
    """

    epochs: Array
    steps: NDArray[np.int64]
    metrics: Mapping[str, Array]


def write_within(
    database: sqlite3.Connection, epoch: int, looks: Sequence[Look], known: Sequence[str]
) -> dict[str, Any]:
    """Writes the measurements within one epoch; the caller has deleted earlier ones.

    Args:
        database: In a transaction, with the table.
        epoch: Under way when they were taken.
        looks: What was found.
        known: Names of the metrics in the rows before, in their order.

    Returns:
        What the record keeps of the table: ``names`` of the metrics and the number of ``rows``.
    """
    names = list(dict.fromkeys([*known, *(name for look in looks for name in look.metrics)]))
    for look in looks:
        values = np.array([look.metrics.get(name, math.nan) for name in names], dtype="<f8")
        blob = values.tobytes()
        place = (epoch, look.step, look.steps)
        database.execute(
            "INSERT INTO within VALUES (?, ?, ?, ?, ?)", (*place, _crc(place, blob), blob)
        )
    (rows,) = database.execute("SELECT count(*) FROM within").fetchone()
    return {"names": names, "rows": rows}


def read_within(
    path: Path, database: sqlite3.Connection | None, kept: Mapping[str, Any] | None, last_epoch: int
) -> Within:
    """Reads all measurements within epochs.

    Args:
        path: The record file, for the message.
        database: A connection to it; None where there is no such table.
        kept: What `write_within` returned last.
        last_epoch: Those after this epoch are left out.

    Returns:
        The measurements.

    Raises:
        DamagedRecordError: If they are not what was written.
    """
    if kept is None or database is None:
        return Within(np.empty(0), np.empty(0, np.int64), {})
    names = [str(name) for name in kept["names"]]
    rows = database.execute(
        'SELECT epoch, step, steps, crc, "values" FROM within ORDER BY epoch, step'
    ).fetchall()
    values = np.full((len(rows), len(names)), np.nan)
    if len(rows) != kept["rows"]:
        raise DamagedRecordError(path, "measurements within epochs are missing")
    for place, (epoch, step, steps, crc, blob) in enumerate(rows):
        if not isinstance(blob, bytes) or _crc((epoch, step, steps), blob) != crc:
            raise DamagedRecordError(path, f"measurement within epoch {epoch}, step {step}")
        found = np.frombuffer(blob, dtype="<f8")
        values[place, : len(found)] = found
    places = np.array([row[:3] for row in rows], dtype=np.int64).reshape(-1, 3)
    shown = places[:, 0] <= last_epoch
    epoch, step, steps = places[shown].T
    columns = values[shown].T
    return Within(epoch - 1 + step / steps, step, dict(zip(names, columns, strict=True)))


def _crc(place: tuple[int, int, int], blob: bytes) -> int:
    return zlib.crc32(blob, zlib.crc32(struct.pack("<qqq", *place)))
