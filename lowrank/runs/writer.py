"""The run record, written: one SQLite file with every logged scalar and every spectrum of a run.

A record can be lost to nothing but its disk: each epoch is one transaction with a rollback
journal and synchronous=FULL, so that a process killed at any moment loses at most the epoch in
progress. WAL is never used, because its shared memory does not work across machines on one disk.
"""

from __future__ import annotations

import json
import math
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lowrank.common.files import replacing
from lowrank.common.texts import nearest
from lowrank.measure.directions import Directions
from lowrank.measure.layers import Layer
from lowrank.runs.format import (
    APPLICATION_ID,
    FURTHER,
    SCHEMA,
    SCHEMA_VERSION,
    STATES,
    DamagedRecordError,
    RecordError,
    RecordWriteError,
    connect,
    fingerprints,
    index_crc,
    read_head,
    read_index,
    spectrum_crc,
    text_crc,
)
from lowrank.runs.within import Look, write_within


class Record:
    """A run record opened for writing. The caller holds the run directory's `lock`.

    Use `Record.create` or `Record.open`, preferably as a context manager.

    Attributes:
        path: The record file.
        layers: What is measured, in network order.
        last_epoch: The last epoch recorded, or None.
    """

    def __init__(self, path: Path, database: sqlite3.Connection) -> None:
        self.path = path
        self._database = database
        head = read_head(path, database)
        self.layers = head.layers
        self.last_epoch = head.epochs[-1][0] if head.epochs else None
        self._tables = head.further
        self._within = head.within
        self._metrics: dict[str, tuple[int, int]] = {
            name: (number, checksum)
            for number, name, checksum in database.execute("SELECT id, name, checksum FROM metrics")
        }

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        run_id: str,
        config: Mapping[str, Any],
        environment: Mapping[str, Any],
        layers: Sequence[Layer],
    ) -> Self:
        """Makes a new record in state running, with its first session.

        It is written under another name and renamed when complete, so that a record that exists is
        a whole one.

        Args:
            path: The record file; its directory exists.
            run_id: The run's id.
            config: The complete configuration, as JSON types.
            environment: What `lowrank.runs.environment.describe_environment` gives.
            layers: What is measured, in network order.

        Returns:
            The record, open.

        Raises:
            RecordError: If there already is one.
            RecordWriteError: If it cannot be written.
        """
        path = Path(path)
        if path.exists():
            raise RecordError(f"{path}: there already is a run record here")
        now = _now()
        meta = {
            "run_id": run_id,
            "config": dict(config),
            "layers": [asdict(layer) for layer in layers],
            "state": "running",
            "created": now,
            "updated": now,
        }
        try:
            with (
                replacing(path, alone=True) as new,
                closing(sqlite3.connect(new, isolation_level=None)) as database,
            ):
                # Whole or thrown away, it needs no journal, which a kill would leave beside it.
                database.execute("PRAGMA journal_mode=MEMORY")
                database.execute(f"PRAGMA application_id={APPLICATION_ID}")
                database.execute("PRAGMA user_version=1")  # until there is a further table
                database.execute("BEGIN")
                for statement in SCHEMA:
                    database.execute(statement)
                _write_meta(database, meta)
                _add_session(database, environment, now)
                _write_index(database)
                database.execute("COMMIT")
        except (OSError, sqlite3.Error) as error:
            raise RecordWriteError(path, error) from error
        return cls.open(path)

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Opens an existing record to continue it.

        Args:
            path: The record file.

        Returns:
            The record, open.

        Raises:
            RecordError: If the file is missing, of another program or of a newer version.
            DamagedRecordError: If its content is wrong.
        """
        path = Path(path)
        database = connect(path, write=True)
        try:
            return cls(path, database)
        except (sqlite3.Error, UnicodeDecodeError) as error:
            database.close()
            raise DamagedRecordError(path, error) from error
        except BaseException:
            database.close()
            raise

    def begin_session(self, config: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
        """Notes that another process continues the run; its state is running again.

        Args:
            config: The configuration from now on, for example with more epochs.
            environment: That of this process; those of earlier sessions are kept.
        """
        with self._transaction():
            now = _now()
            meta = {"config": dict(config), "state": "running", "updated": now}
            _write_meta(self._database, meta)
            _add_session(self._database, environment, now)
            _write_index(self._database)

    def append(
        self,
        epoch: int,
        metrics: Mapping[str, float],
        spectra: Mapping[str, ArrayLike] | None = None,
        directions: Mapping[str, Directions] | None = None,
        within: Sequence[Look] = (),
    ) -> None:
        """Records one epoch in one transaction; an epoch already recorded is replaced.

        Args:
            epoch: 0 is initialisation, e is after e epochs.
            metrics: Everything logged, by its name in W&B. Infinities and -0.0 are kept, NaN means
                no value.
            spectra: The singular values of every layer, (k,) with k = min(rows, columns); nothing
                if this epoch was not measured.
            directions: Leading singular vectors of every weight matrix, where they are kept.
            within: What was measured between the end of the epoch before and this one's.

        Raises:
            ValueError: If the epoch is negative, a layer unknown or missing, or a shape wrong.
            RecordWriteError: If the disk is full or fails; then this epoch is not in the record
                and every earlier one is.
        """
        if epoch < 0:
            raise ValueError(f"Invalid epoch: {epoch}. The first is 0.")
        values = {name: float(value) for name, value in metrics.items()}
        blobs = self._encode(spectra) if spectra else []
        vectors = self._encode_directions(directions) if directions else []
        with self._transaction():
            known = self._without(epoch)
            for name in values:
                if name not in known:
                    checksum = zlib.crc32(name.encode())
                    cursor = self._database.execute(
                        "INSERT INTO metrics (name, checksum) VALUES (?, ?)", (name, checksum)
                    )
                    known[name] = (cast("int", cursor.lastrowid), checksum)
            self._database.executemany(
                "INSERT INTO scalars VALUES (?, ?, ?)",
                [
                    (known[name][0], epoch, None if math.isnan(value) else value)
                    for name, value in values.items()
                ],
            )
            _add_checksums(known, values, fingerprints(epoch, list(values.values())))
            self._database.executemany(
                "UPDATE metrics SET checksum = ? WHERE id = ?",
                [(checksum, number) for number, checksum in known.values()],
            )
            self._database.executemany(
                "INSERT INTO spectra VALUES (?, ?, ?, ?)",
                [
                    (epoch, layer, spectrum_crc(epoch, layer, blob), blob)
                    for layer, blob in enumerate(blobs)
                ],
            )
            if vectors:
                self._further("directions")
                self._database.executemany(
                    "INSERT INTO directions VALUES (?, ?, ?, ?)",
                    [
                        (epoch, layer, spectrum_crc(epoch, layer, blob), blob)
                        for layer, blob in enumerate(vectors)
                    ],
                )
            kept = self._within
            if within or kept:
                self._further("within")
                kept = write_within(self._database, epoch, within, kept["names"] if kept else ())
                _write_meta(self._database, {"within": kept})
            self._database.execute("INSERT INTO epochs VALUES (?, ?)", (epoch, bool(blobs)))
            _write_meta(self._database, {"updated": _now()})
            _write_index(self._database)
        self._metrics = known
        self._within = kept
        self._tables = read_index(self._database)[3:]
        self.last_epoch = epoch if self.last_epoch is None else max(self.last_epoch, epoch)

    def set_state(self, state: str) -> None:
        """Records how the run stands.

        Args:
            state: One of `STATES`.

        Raises:
            ValueError: If there is no such state.
        """
        if state not in STATES:
            raise ValueError(f"Invalid state: {state!r}. Allowed: {', '.join(STATES)}.")
        with self._transaction():
            _write_meta(self._database, {"state": state, "updated": _now()})

    def close(self) -> None:
        """Closes the file. Everything recorded already is on the disk."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing of what the block writes, also if it is interrupted.

        Raises:
            RecordWriteError: If the disk is full or fails, or the file is locked.
        """
        try:
            self._database.execute("BEGIN IMMEDIATE")
            yield
            self._database.execute("COMMIT")
        except BaseException as error:
            with suppress(sqlite3.Error):  # the journal then waits for the next to open the record
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise RecordWriteError(self.path, error) from error
            raise

    def _without(self, epoch: int) -> dict[str, tuple[int, int]]:
        """Deletes what is recorded of an epoch.

        Returns:
            Id and checksum of every metric afterwards.
        """
        known = dict(self._metrics)
        if not self._database.execute("DELETE FROM epochs WHERE epoch = ?", (epoch,)).rowcount:
            return known
        rows = self._database.execute(
            "SELECT name, value FROM metrics JOIN scalars ON metric = id WHERE epoch = ?", (epoch,)
        ).fetchall()
        old = [math.nan if value is None else value for _, value in rows]
        _add_checksums(known, [name for name, _ in rows], -fingerprints(epoch, old))
        self._database.execute(
            "DELETE FROM scalars WHERE metric IN (SELECT id FROM metrics) AND epoch = ?", (epoch,)
        )
        for table in ("spectra", *self._tables):
            self._database.execute(f"DELETE FROM {table} WHERE epoch = ?", (epoch,))
        return known

    def _further(self, table: str) -> None:
        """Makes a further table where the record lacks it."""
        if table not in self._tables:
            self._database.execute(FURTHER[table])
            self._database.execute(f"PRAGMA user_version={SCHEMA_VERSION}")

    def _encode(self, spectra: Mapping[str, ArrayLike]) -> list[bytes]:
        """Returns the layers' spectra in network order as little-endian float64.

        Raises:
            ValueError: If a layer is unknown or missing, or a shape wrong.
        """
        names = [layer.name for layer in self.layers]
        for name in spectra:
            if name not in names:
                raise ValueError(f"unknown layer {name!r}{nearest(name, names)}")
        blobs = []
        for layer in self.layers:
            if layer.name not in spectra:
                raise ValueError(f"no spectrum of layer {layer.name!r}")
            values = np.asarray(spectra[layer.name], dtype="<f8")
            k = min(layer.shape)
            if values.shape != (k,):
                raise ValueError(
                    f"spectrum of layer {layer.name!r} has shape {values.shape}, expected ({k},)"
                )
            blobs.append(values.tobytes())
        return blobs

    def _encode_directions(self, directions: Mapping[str, Directions]) -> list[bytes]:
        """Returns the layers' vectors in network order: left, then right, little-endian float32.

        Raises:
            ValueError: If they are of other layers, or a shape is wrong.
        """
        layers = [layer for layer in self.layers if layer.kind == "weight"]  # the first of all
        if [layer.name for layer in layers] != list(directions):
            raise ValueError(f"directions of {', '.join(directions)}: other layers than measured")
        for layer in layers:
            shapes = [side.shape for side in directions[layer.name]]
            if shapes != [(size, shapes[0][-1]) for size in layer.shape]:
                raise ValueError(f"directions of layer {layer.name!r} have shapes {shapes}")
        return [
            b"".join(np.asarray(side, dtype="<f4").tobytes() for side in sides)
            for sides in directions.values()
        ]


def _write_meta(database: sqlite3.Connection, meta: Mapping[str, Any]) -> None:
    texts = {key: json.dumps(value) for key, value in meta.items()}
    database.executemany(
        "INSERT OR REPLACE INTO meta VALUES (?, ?, ?)",
        [(key, text, text_crc(key, text)) for key, text in texts.items()],
    )


def _write_index(database: sqlite3.Connection) -> None:
    _write_meta(database, {"index": index_crc(read_index(database))})


def _add_session(database: sqlite3.Connection, environment: Mapping[str, Any], now: str) -> None:
    number = database.execute("SELECT count(*) FROM sessions").fetchone()[0]
    text = json.dumps({"started": now, "environment": dict(environment)})
    database.execute(
        "INSERT INTO sessions VALUES (?, ?, ?)", (number, text, text_crc(number, text))
    )


def _add_checksums(
    known: dict[str, tuple[int, int]], names: Iterable[str], terms: NDArray[np.uint64]
) -> None:
    """Adds one term to the checksum of each name, as signed 64-bit numbers, which SQLite has."""
    for name, term in zip(names, terms.tolist(), strict=True):
        number, checksum = known[name]
        total = (checksum + term) % 2**64
        known[name] = (number, total - 2**64 if total >= 2**63 else total)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
