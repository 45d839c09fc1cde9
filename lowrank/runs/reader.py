"""One run record, read, also while it is being written.

Reading never changes a run directory and works where it is read-only. Every value is verified
against its checksum when it is read; reading one metric or one layer touches only that.
"""

from __future__ import annotations

import math
import shutil
import sqlite3
import tempfile
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowrank.common.texts import nearest, printable
from lowrank.measure.directions import Directions, overlaps
from lowrank.runs.derived import derive, is_derived
from lowrank.runs.format import (
    RECORD_NAME,
    DamagedRecordError,
    RecordError,
    connect,
    fingerprints,
    read_head,
    read_json,
    spectrum_crc,
)
from lowrank.runs.lock import is_locked
from lowrank.runs.within import Within, read_within

Array = NDArray[np.float64]

MOST_ABSENT = 2**30
"""Bytes of NaN for epochs without a spectrum: a small hostile file can claim any number."""


class Columns(Mapping[str, Array]):
    """Arrays by name, each read from the record when it is asked for.

    Args:
        kind: What the names name, for the error message.
        names: The names, in order.
        read: Reads one by its name.
        has_more: Whether it reads one that is not among the names.
    """

    def __init__(
        self,
        kind: str,
        names: Iterable[str],
        read: Callable[[str], Array],
        has_more: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._kind = kind
        self._names = dict.fromkeys(names)
        self._read = read
        self._has_more = has_more

    def __getitem__(self, name: str) -> Array:
        if name not in self._names and not self._has_more(name):
            raise KeyError(f"no {self._kind} {name!r} in this run{nearest(name, self._names)}")
        return self._read(name)

    def get(self, name: str, default: Any = None) -> Any:
        """Returns an array, or the default where there is none of that name.

        Args:
            name: The name.
            default: What is returned instead.
        """
        # Mapping's own would look for the nearest of a thousand names each time.
        return self._read(name) if name in self._names or self._has_more(name) else default

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._kind}: {', '.join(self._names)})"


class Run:
    """A run as its record held it when this object was made; later epochs are not in it.

    Args:
        path: The record file.

    Attributes:
        path: The record file.
        id: The run's id.
        config: The configuration (of the last session, where it was resumed with more epochs).
        state: running, finished, stopped, collapsed, failed or killed. A record that says running
            while no process holds its run directory is that of a killed run.
        created: When the run began, ISO 8601 in UTC.
        updated: When something was last recorded.
        layers: The weight matrices measured, in network order.
        derived: What was measured beside them, such as products of attention.
        epochs: The epochs recorded, ascending (E,).
        measured: Those of them that have spectra.

    Raises:
        RecordError: If the file is missing, of another program or of another version.
        DamagedRecordError: If its content is not what was written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file = self.path
        with self._reading() as database:
            head = read_head(self.path, database)
        self.id = head.run_id
        self.config = head.config
        if "replicas" in head.config:
            self._retire()
        self.state = head.state
        self.created = head.created
        self.updated = head.updated
        self.layers = tuple(layer for layer in head.layers if layer.kind == "weight")
        self.derived = tuple(layer for layer in head.layers if layer.kind != "weight")
        self._every = head.layers
        table = np.array(head.epochs, dtype=np.int64).reshape(-1, 2)
        self.epochs = table[:, 0].copy()
        self.measured = table[table[:, 1] != 0, 0]
        self._metrics = {name: number for number, name in head.metrics}
        self._further = head.further
        self._kept: dict[str, Array] = {}
        self._numbers = {layer.name: number for number, layer in enumerate(self._every)}
        if self.state == "running" and not is_locked(self.path.parent):
            # It may have ended between the two looks.
            with self._reading() as database:
                state = read_head(self.path, database).state
            self.state = "killed" if state == "running" else state

    @property
    def metrics(self) -> Mapping[str, Array]:
        """Name as in W&B -> float64 (E,), NaN where not logged.

        A quantity of singular values that was not recorded, such as ``nuclear_rank/<layer>`` or
        ``nuclear_rank_mean``, is derived from the spectra when it is asked for; the names listed
        are those recorded.
        """
        return Columns("metric", self._metrics, self._read_metric, self._is_derived)

    @property
    def spectra(self) -> Mapping[str, Array]:
        """Layer name -> singular values, float64 (E, k), NaN rows where not measured."""
        return Columns("layer", self._numbers, self._read_spectra)

    @cached_property
    def sessions(self) -> list[dict[str, Any]]:
        """For every process that worked on the run: ``started`` and its ``environment``.

        Raises:
            DamagedRecordError: If one is not what was written.
        """
        with self._reading() as database:
            rows = database.execute(
                "SELECT number, value, crc FROM sessions ORDER BY number"
            ).fetchall()
            found = [read_json(self.path, *row) for row in rows]
        if not all(
            isinstance(each, dict) and isinstance(each.get("environment"), dict) for each in found
        ):
            raise DamagedRecordError(self.path, "a session is not what was written")
        return found

    @property
    def environment(self) -> dict[str, Any]:
        """Commit, versions, device and so on of the last process that worked on the run."""
        return dict(self.sessions[-1]["environment"]) if self.sessions else {}

    def __repr__(self) -> str:
        return f"Run({self.id!r}, {self.state}, {len(self.epochs)} epochs)"

    def preload(self, names: Iterable[str]) -> None:
        """Reads several metrics in one look at the record and keeps them.

        Opening a record takes longer than reading a metric of it: who needs many metrics of many
        runs says so beforehand.

        Args:
            names: Metrics; those that the run does not have are passed over.
        """
        wanted = [name for name in names if name in self._metrics and name not in self._kept]
        if wanted:
            with self._reading() as database:
                self._kept |= {name: self._metric(database, name) for name in wanted}

    def spectra_at(self, epochs: Iterable[int]) -> dict[str, Array]:
        """Reads the spectra of every layer at some epochs, and no others.

        Args:
            epochs: Measured epochs.

        Returns:
            Layer name -> singular values as in `spectra`, one row for each of `epochs`.

        Raises:
            KeyError: If one of them was not measured.
            DamagedRecordError: If a spectrum is not what was written.
        """
        found: dict[str, list[Array]] = {layer.name: [] for layer in self._every}
        with self._reading() as database:
            for epoch in map(int, epochs):
                if epoch not in self.measured:
                    raise KeyError(f"epoch {epoch} of this run was not measured")
                rows = database.execute(
                    'SELECT layer, crc, "values" FROM spectra WHERE epoch = ? ORDER BY layer',
                    (epoch,),
                ).fetchall()
                if [number for number, *_ in rows] != list(range(len(self._every))):
                    raise DamagedRecordError(self.path, f"spectra of epoch {epoch} are missing")
                for (number, crc, values), layer in zip(rows, self._every, strict=True):
                    if not _is_spectrum(epoch, number, values, crc):
                        what = f"spectrum of {layer.name}, epoch {epoch}"
                        raise DamagedRecordError(self.path, what)
                    array = np.frombuffer(values, dtype="<f8").reshape(min(layer.shape))
                    found[layer.name].append(array)
        return {name: np.array(values) for name, values in found.items()}

    @cached_property
    def within(self) -> Within:
        """What was measured within epochs, every ``measure_every_steps`` steps; may be empty."""
        if "within" not in self._further:
            return read_within(self.path, None, None, -1)
        with self._reading() as database:
            head = read_head(self.path, database)  # of the same moment as the rows
            last = int(self.epochs[-1]) if self.epochs.size else -1
            return read_within(self.path, database, head.within, last)

    @cached_property
    def times(self) -> Array:
        """Epochs at which something was recorded, those within epochs as fractions, ascending."""
        return np.sort(np.concatenate([self.epochs.astype(np.float64), self.within.epochs]))

    def over_time(self, name: str) -> Array:
        """Returns a metric at the ends of epochs and within them.

        Args:
            name: Of a metric.

        Returns:
            Values at `times`, NaN where there is none.

        Raises:
            KeyError: If there is no such metric.
        """
        order = np.argsort(np.concatenate([self.epochs, self.within.epochs]), kind="stable")
        absent = np.full(len(self.within.epochs), np.nan)
        between = self.within.metrics.get(name, absent)
        return np.concatenate([self.metrics[name], between])[order]

    @property
    def has_directions(self) -> bool:
        """Whether leading singular vectors were kept."""
        return "directions" in self._further

    def directions(self, layer: str) -> Directions:
        """Reads the leading singular vectors of a layer, kept where a run had ``directions``.

        Args:
            layer: Its name.

        Returns:
            Left (E, rows, r) and right (E, columns, r), float32, NaN where not measured.

        Raises:
            KeyError: If there is no such layer, or no vectors were kept.
            DamagedRecordError: If they are not what was written.
        """
        known = self.has_directions and any(each.name == layer for each in self.layers)
        if not known:
            raise KeyError(f"no directions of layer {layer!r} in this run")
        rows, columns = self._every[self._numbers[layer]].shape
        found = self._read_blobs("directions", layer, "<f4", rows + columns)
        return Directions(found[:, :rows], found[:, rows:])

    def overlaps(self, layer: str, side: str) -> Array:
        """Computes how far the leading directions of any two epochs agree.

        Args:
            layer: Its name.
            side: ``left`` or ``right``.

        Returns:
            `lowrank.measure.directions.overlap` of each epoch with each (E, E), NaN where one was
            not measured or the matrix was zero or not finite.

        Raises:
            ValueError: If there is no such side.
        """
        if side not in Directions._fields:
            raise ValueError(f"Invalid side: {side!r}. Allowed: {', '.join(Directions._fields)}.")
        return overlaps(getattr(self.directions(layer), side))

    def _retire(self) -> None:
        """Takes a configuration of an earlier version, but none of several networks.

        Raises:
            RecordError: It is one.
        """
        from lowrank.config import settings  # here: it loads pydantic

        if not settings.is_of_train_py(self.config):
            return
        self.config = settings.without_retired(self.config)
        if "replicas" in self.config:
            commit = printable(str(self.environment.get("commit") or "that trained it"), 40)
            raise RecordError(
                f"{self.path}: was trained as {printable(str(self.config['replicas']), 40)} "
                f"replicas by an earlier lowrank; the version {commit} reads it"
            )

    def _is_derived(self, name: str) -> bool:
        return is_derived(name, self._every)

    def _read_metric(self, name: str) -> Array:
        if name in self._kept:
            return self._kept[name].copy()
        if name not in self._metrics:
            values = derive(
                name,
                self._every,
                self._read_spectra,
                lambda layer: self.metrics.get(f"rank/{layer}"),
            )
            return values if values.size else np.full(len(self.epochs), np.nan)
        with self._reading() as database:
            return self._metric(database, name)

    def _metric(self, database: sqlite3.Connection, name: str) -> Array:
        """Returns a metric (E,), verified.

        Raises:
            DamagedRecordError: If it is not what was written.
        """
        (checksum,) = database.execute(
            "SELECT checksum FROM metrics WHERE id = ?", (self._metrics[name],)
        ).fetchone()
        rows = database.execute(
            "SELECT epoch, value FROM scalars WHERE metric = ? ORDER BY epoch",
            (self._metrics[name],),
        ).fetchall()
        epochs = np.array([epoch for epoch, _ in rows], dtype=np.int64)
        values = np.array([value for _, value in rows], dtype=np.float64)  # NULL becomes NaN
        found = zlib.crc32(name.encode()) + int(fingerprints(epochs, values).sum())
        if (found - checksum) % 2**64:
            raise DamagedRecordError(self.path, f"{name} is not what was written")
        return self._align(epochs, values)

    def _read_spectra(self, name: str) -> Array:
        k = min(self._every[self._numbers[name]].shape)
        return np.asarray(self._read_blobs("spectra", name, "<f8", k)[..., 0])

    def _read_blobs(self, table: str, name: str, of_type: str, length: int) -> NDArray[Any]:
        """Returns a layer's arrays of all epochs (E, length, …), verified.

        Raises:
            DamagedRecordError: If one is not what was written.
        """
        number = self._numbers[name]
        with self._reading() as database:
            rows = database.execute(
                f'SELECT epoch, crc, "values" FROM epochs CROSS JOIN {table} USING (epoch) '
                "WHERE layer = ? ORDER BY epoch",
                (number,),
            ).fetchall()
            for epoch, crc, values in rows:
                if not _is_spectrum(epoch, number, values, crc):
                    one = "spectrum" if table == "spectra" else table
                    raise DamagedRecordError(self.path, f"{one} of {name}, epoch {epoch}")
            epochs = np.array([epoch for epoch, *_ in rows], dtype=np.int64)
            if not np.isin(self.measured, epochs).all():
                raise DamagedRecordError(self.path, f"{table} of {name} are missing")
            found = np.frombuffer(b"".join(values for *_, values in rows), dtype=of_type)
            width = found.size // (len(rows) * length) if rows else 1
            return self._align(epochs, found.reshape(len(rows), length, width))

    def _align(self, epochs: NDArray[np.int64], values: NDArray[Any]) -> NDArray[Any]:
        """Spreads values (n, …) over this run's epochs.

        Returns:
            An array (E, …), NaN where there is no value.

        Raises:
            DamagedRecordError: If a value belongs to an epoch that was not recorded, or more is
                absent than memory should be taken for.
        """
        row = values.itemsize * math.prod(values.shape[1:])
        absent = row * (len(self.epochs) - len(values))
        if absent > MOST_ABSENT:
            what = f"{absent / 2**30:,.0f} GiB of spectra that are not in it"
            raise DamagedRecordError(self.path, f"it claims {what}")
        aligned = np.full((len(self.epochs), *values.shape[1:]), np.nan, values.dtype)
        # A run that goes on may have more epochs by now than this snapshot.
        places = np.searchsorted(self.epochs, epochs)
        known = places < len(self.epochs)
        if not np.array_equal(self.epochs[places[known]], epochs[known]):
            raise DamagedRecordError(self.path, "epochs are missing")
        aligned[places[known]] = values[known]
        return aligned

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """Opens the record for one consistent look at it.

        Yields:
            A connection in a transaction.

        Raises:
            RecordError: If the disk fails or a writer does not let go of the file.
            DamagedRecordError: If it holds something that nobody wrote.
        """
        database = self._connect()
        try:
            yield database
        except sqlite3.OperationalError as error:
            raise RecordError(f"{self.path}: cannot be read ({error})") from error
        except (sqlite3.Error, ValueError, TypeError, ArithmeticError) as error:
            raise DamagedRecordError(self.path, error) from error
        finally:
            database.close()

    def _connect(self) -> sqlite3.Connection:
        try:
            return connect(self._file)
        except sqlite3.Error:
            # A writer was killed in the middle of an epoch. Undoing that is the next writer's
            # task (and impossible in a read-only directory), so it is done on a copy here.
            self._file = _temporary_directory(self) / RECORD_NAME
            _copy(self.path, self._file)
            connect(self._file, write=True).close()
            return connect(self._file)


def _is_spectrum(epoch: int, layer: int, values: object, crc: object) -> bool:
    return isinstance(values, bytes) and bool(values) and spectrum_crc(epoch, layer, values) == crc


def _temporary_directory(owner: object) -> Path:
    """Makes a directory that is removed with its owner.

    Returns:
        Its path.
    """
    path = tempfile.mkdtemp(prefix="lowrank-")
    weakref.finalize(owner, shutil.rmtree, path, ignore_errors=True)
    return Path(path)


def _copy(source: Path, target: Path) -> None:
    """Copies a record with the journal of its killed writer.

    The journal goes first: undoing is harmless if a new writer has undone it meanwhile.

    Raises:
        RecordError: If that cannot be done.
    """
    try:
        with suppress(FileNotFoundError):
            shutil.copyfile(f"{source}-journal", f"{target}-journal")
        shutil.copyfile(source, target)
    except OSError as error:
        raise RecordError(f"{source}: cannot be copied ({error.strerror})") from error
