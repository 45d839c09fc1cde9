"""The file format of the run record: tables, checksums, and opening a file with due mistrust.

SQLite itself notices truncation and damaged structure but not a flipped bit inside a number.
Therefore every text and every spectrum has a CRC-32 and every metric a running checksum, all of
them verified where they are read.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import struct
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lowrank.common.errors import Failure, InputError
from lowrank.common.files import open_file
from lowrank.measure.layers import Layer

RECORD_NAME = "record.sqlite"
STATES = ("running", "finished", "stopped", "collapsed", "failed", "killed")

APPLICATION_ID = 0x4C6F5261  # "LoRa": tells a run record from any other SQLite file
SCHEMA_VERSION = 2  # of a record with one of the `FURTHER` tables, else 1

# `scalars` is ordered by metric, so that one metric of a long run is a few pages. Its value column
# has no type, because SQLite would store -0.0 as 0 in a REAL column. `spectra` is ordered by
# epoch, so that an epoch is written to few pages.
SCHEMA = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL, crc INTEGER NOT NULL) "
    "WITHOUT ROWID",
    "CREATE TABLE sessions (number INTEGER PRIMARY KEY, value TEXT NOT NULL, crc INTEGER NOT NULL)",
    "CREATE TABLE epochs (epoch INTEGER PRIMARY KEY, measured INTEGER NOT NULL)",
    "CREATE TABLE metrics (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, "
    "checksum INTEGER NOT NULL)",
    "CREATE TABLE scalars (metric INTEGER NOT NULL, epoch INTEGER NOT NULL, value, "
    "PRIMARY KEY (metric, epoch)) WITHOUT ROWID",
    "CREATE TABLE spectra (epoch INTEGER NOT NULL, layer INTEGER NOT NULL, crc INTEGER NOT NULL, "
    '"values" BLOB NOT NULL, PRIMARY KEY (epoch, layer)) WITHOUT ROWID',
)

FURTHER = {
    "directions": "CREATE TABLE directions (epoch INTEGER NOT NULL, layer INTEGER NOT NULL, "
    'crc INTEGER NOT NULL, "values" BLOB NOT NULL, PRIMARY KEY (epoch, layer)) WITHOUT ROWID',
    "within": "CREATE TABLE within (epoch INTEGER NOT NULL, step INTEGER NOT NULL, steps INTEGER "
    'NOT NULL, crc INTEGER NOT NULL, "values" BLOB NOT NULL, PRIMARY KEY (epoch, step)) '
    "WITHOUT ROWID",
}
"""Tables that a record has only from when there is something for them."""

_JOURNAL_MAGIC = bytes.fromhex("d9d505f920a163d7")  # it ends a journal that names another file
_OF_WAL = ("-wal", "-shm")

LARGEST_SIZE = 2**31 - 1
LARGEST_EPOCH = 2**53  # it is logged as a float

BUSY_SECONDS = 60.0  # a reader holds the record for milliseconds; a stuck shared disk for longer


class RecordError(InputError):
    """A run record cannot be read: missing, damaged, of another program or of a newer version."""


class DamagedRecordError(RecordError):
    """The content of a run record is not what was written."""

    def __init__(self, path: Path, what: object) -> None:
        super().__init__(
            f"{path}: the run record is damaged ({what}): restore it from a copy (a tracked run's "
            "is the W&B artifact run-record-<run_id>) or start again under a new run_id"
        )


class RecordWriteError(Failure):
    """A run record cannot be written, for example on a full disk; what it held is unharmed."""

    def __init__(self, path: Path, error: Exception) -> None:
        code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
        if not path.parent.is_dir():
            hint = "its directory does not exist; make it and"
        elif code == sqlite3.SQLITE_BUSY:
            hint = f"another program has kept it locked for {BUSY_SECONDS:.0f} s; close it and"
        elif code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            hint = "the file is damaged; restore it from a copy and"
        else:
            free = shutil.disk_usage(path.parent).free
            hint = f"{free / 2**20:,.0f} MiB are free there; make room or give write access and"
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        super().__init__(
            f"{path}: cannot be written ({reason}); {hint} start the same command again: every "
            "epoch recorded so far is kept"
        )


def fingerprints(epochs: ArrayLike, values: ArrayLike) -> NDArray[np.uint64]:
    """Returns one number per logged value that depends on every bit of it and on its epoch.

    A metric's checksum is the CRC-32 of its name plus the sum of these, modulo 2^64. Each term is
    an odd number times the value's bits, hence a single flipped bit always changes the sum.

    Args:
        epochs: Non-negative integers (n,), or one for all values.
        values: Floats (n,).

    Returns:
        Fingerprints (n,).
    """
    numbers = np.asarray(values, dtype=np.float64)
    bits = np.where(np.isnan(numbers), np.nan, numbers).view(np.uint64)  # NULL has no NaN payload
    weights = 2 * np.atleast_1d(np.asarray(epochs)).astype(np.uint64) + 1
    # The constant keeps the value 0.0 from hiding its epoch.
    return cast("NDArray[np.uint64]", (bits ^ np.uint64(0x9E3779B97F4A7C15)) * weights)


def text_crc(key: object, text: str) -> int:
    """Returns the CRC-32 that is stored beside a text of the tables `meta` and `sessions`."""
    return zlib.crc32(f"{key}\0{text}".encode())


def spectrum_crc(epoch: int, layer: int, values: bytes) -> int:
    """Returns the CRC-32 that is stored beside a spectrum; it covers where the spectrum belongs."""
    return zlib.crc32(values, zlib.crc32(struct.pack("<qq", epoch, layer)))


def connect(path: Path, *, write: bool = False) -> sqlite3.Connection:
    """Opens an existing run record, having made sure that it is one.

    Args:
        path: The record file.
        write: Whether to open it for writing.

    Returns:
        A connection in autocommit mode; a reader's is in a transaction already.

    Raises:
        RecordError: If the file is missing, of another program or of a newer version.
        DamagedRecordError: If its content is wrong.
        RecordWriteError: If it is to be written to and may not.
        sqlite3.Error: If a reader meets the journal of a killed writer, which only a writer may
            roll back (`sqlite_errorcode` is ``SQLITE_READONLY_ROLLBACK``).
    """
    if not path.is_file():
        raise RecordError(f"{path}: there is no run record here")
    _check_surroundings(path)
    try:
        database = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode={'rw' if write else 'ro'}",
            uri=True,
            isolation_level=None,
            timeout=BUSY_SECONDS,
            check_same_thread=False,  # a watcher logs from any thread, one at a time
        )
    except sqlite3.Error as error:
        raise RecordError(f"{path}: cannot be opened ({error})") from error
    try:
        _check(database, path, write)
    except UnicodeDecodeError as error:
        database.close()
        raise DamagedRecordError(path, error) from error
    except sqlite3.Error as error:
        database.close()
        code = getattr(error, "sqlite_errorcode", None)
        if code == sqlite3.SQLITE_READONLY_ROLLBACK:
            if write:
                raise RecordWriteError(path, error) from error
            raise
        if code == sqlite3.SQLITE_NOTADB:
            raise RecordError(f"{path}: is not a run record (no SQLite database)") from error
        if isinstance(error, sqlite3.OperationalError):
            raise RecordError(f"{path}: cannot be read ({error})") from error
        raise DamagedRecordError(path, error) from error
    except BaseException:
        database.close()
        raise
    return database


def _check_surroundings(path: Path) -> None:
    """Refuses what SQLite would act upon before any of the record can be checked.

    It deletes the file that a journal names as that of a transaction over several databases, and
    obeys the log of a database in WAL mode. The record itself is not opened here: to close it
    would release the locks that SQLite holds on it in this process.

    Raises:
        RecordError: If the journal cannot be read, or there is such a log, which no record has.
        DamagedRecordError: If there is such a journal.
    """
    end = b""
    try:
        with suppress(FileNotFoundError), open_file(f"{path}-journal") as journal:
            journal.seek(max(0, journal.seek(0, os.SEEK_END) - len(_JOURNAL_MAGIC)))
            end = journal.read()
    except OSError as error:
        raise RecordError(f"{path}: its journal cannot be read ({error.strerror})") from error
    if end == _JOURNAL_MAGIC:
        raise DamagedRecordError(path, "its journal names another file")
    if any(os.path.lexists(f"{path}{suffix}") for suffix in _OF_WAL):
        raise RecordError(f"{path}: is not a run record (a database in WAL mode)")


def _check(database: sqlite3.Connection, path: Path, write: bool) -> None:
    """Makes sure that the database is a whole run record of this version.

    Raises:
        RecordError: If it is of another program or of a newer version.
        DamagedRecordError: If its tables are not those of a run record.
    """
    # SQLite's own advice for files of strangers.
    database.execute("PRAGMA trusted_schema=OFF")
    database.execute("PRAGMA cell_size_check=ON")
    if not write:
        database.execute("BEGIN")
        # No value is longer than its file, whatever a hostile one claims.
        database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, max(path.stat().st_size, 1 << 20))
    if database.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise RecordError(f"{path}: is not a run record (empty or of another program)")
    if database.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
        for suffix in _OF_WAL:  # made just now, by that look
            Path(f"{path}{suffix}").unlink(missing_ok=True)
        raise RecordError(f"{path}: is not a run record (a database in WAL mode)")
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        raise RecordError(
            f"{path}: was written by a newer lowrank (record version {version}, this one reads "
            f"{SCHEMA_VERSION}): upgrade lowrank to read it"
        )
    found = database.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL").fetchall()
    statements = {sql for (sql,) in found}
    if not {*SCHEMA} <= statements <= {*SCHEMA, *FURTHER.values()}:
        raise DamagedRecordError(path, "its tables are not those of a run record")
    if path.stat().st_size % database.execute("PRAGMA page_size").fetchone()[0]:
        raise DamagedRecordError(path, "its end is missing")  # SQLite notices only whole pages
    if write:
        database.execute("PRAGMA journal_mode=DELETE")
        database.execute("PRAGMA synchronous=FULL")
        report = database.execute("PRAGMA quick_check(1)").fetchone()[0]
        if report != "ok":
            raise DamagedRecordError(path, " ".join(report.split()))


@dataclass(frozen=True)
class Head:
    """The small part of a record, verified.

    Attributes:
        run_id: The run's id.
        config: The configuration.
        layers: What is measured: the weight matrices in network order, then what is derived.
        state: One of `STATES`.
        created: When the run began, ISO 8601 in UTC.
        updated: When something was last recorded.
        epochs: Every epoch with 1 if it has spectra, else 0.
        metrics: Every metric's id and name.
        further: Which of the `FURTHER` tables it has.
        within: What is kept of the table of that name; None where there is none.
    """

    run_id: str
    config: dict[str, Any]
    layers: tuple[Layer, ...]
    state: str
    created: str
    updated: str
    epochs: list[tuple[int, int]]
    metrics: list[tuple[int, str]]
    further: tuple[str, ...]
    within: dict[str, Any] | None = None


def read_head(path: Path, database: sqlite3.Connection) -> Head:
    """Reads and verifies the small part of a record.

    Args:
        path: The record file, for the message.
        database: A connection to it.

    Returns:
        The part.

    Raises:
        DamagedRecordError: If any of it is not what was written.
    """
    meta = {
        key: read_json(path, key, text, crc)
        for key, text, crc in database.execute("SELECT key, value, crc FROM meta").fetchall()
    }
    index = read_index(database)
    try:
        if meta.pop("index") != index_crc(index):
            raise DamagedRecordError(path, "epochs or metrics are not what was written")
        layers = tuple(
            Layer(
                name=str(entry["name"]),
                path=str(entry["path"]),
                shape=(int(entry["shape"][0]), int(entry["shape"][1])),
                positions=None if entry["positions"] is None else int(entry["positions"]),
                counted=bool(entry["counted"]),
                groups=int(entry.get("groups", 1)),  # earlier versions did not record these
                part=str(entry.get("part", "")),
                kind=str(entry.get("kind", "weight")),
            )
            for entry in meta.pop("layers")
        )
        head = Head(
            layers=layers, epochs=index[0], metrics=index[1], further=tuple(index[3:]), **meta
        )
    except (TypeError, ValueError, LookupError, ArithmeticError) as error:
        raise DamagedRecordError(path, "an entry is missing or not what was written") from error
    if not isinstance(head.config, dict) or head.state not in STATES:
        raise DamagedRecordError(path, "config or state is not what was written")
    texts = [head.run_id, head.created, head.updated, *(name for _, name in head.metrics)]
    if not all(isinstance(text, str) for text in texts):
        raise DamagedRecordError(path, "an id, a time or a name is no text")
    if len({layer.name for layer in layers}) < len(layers):
        raise DamagedRecordError(path, "two layers have one name")
    if not all(1 <= size <= LARGEST_SIZE for layer in layers for size in layer.shape):
        raise DamagedRecordError(path, "a layer has a size that no matrix has")
    if not all(0 <= epoch <= LARGEST_EPOCH for epoch, _ in head.epochs):
        raise DamagedRecordError(path, "it holds an epoch that no run has")
    return head


Index = tuple[Any, ...]


def read_index(database: sqlite3.Connection) -> Index:
    """Returns the small tables: what must be in a record, so that nothing is lost unnoticed.

    Args:
        database: A connection to it.

    Returns:
        The rows of `epochs`, id and name of every metric, the number of sessions, and the names of
        the `FURTHER` tables.
    """
    tables = {name for (name,) in database.execute("SELECT name FROM sqlite_schema").fetchall()}
    return (
        database.execute("SELECT epoch, measured FROM epochs ORDER BY epoch").fetchall(),
        database.execute("SELECT id, name FROM metrics ORDER BY id").fetchall(),
        database.execute("SELECT count(*) FROM sessions").fetchone()[0],
        *(name for name in FURTHER if name in tables),
    )


def index_crc(index: Index) -> int:
    """Returns the CRC-32 of an index; the record keeps it, so that no row is lost unnoticed."""
    return zlib.crc32(repr(index).encode())


def read_json(path: Path, key: object, text: Any, crc: Any) -> Any:
    """Returns what a text of the tables `meta` and `sessions` holds, verified.

    Args:
        path: The record file, for the message.
        key: Its key.
        text: The text.
        crc: The CRC-32 stored beside it.

    Returns:
        The value, from JSON.

    Raises:
        DamagedRecordError: If it is damaged.
    """
    try:
        if isinstance(text, str) and text_crc(key, text) == crc:
            return json.loads(text)
    except (ValueError, RecursionError):
        pass
    raise DamagedRecordError(path, f"{key} is not what was written")
