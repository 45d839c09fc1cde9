"""The directory of one run: who may use it, whether it begins, goes on or has ended."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lowrank.common.errors import InputError, refuse
from lowrank.common.files import UNFINISHED, expanded, write_atomically
from lowrank.common.secrets import variable_of
from lowrank.common.texts import printable
from lowrank.config import Config, differences, load, of_stored, replace
from lowrank.config.families import FAMILIES
from lowrank.measure.layers import Layer
from lowrank.runs.environment import available_cores
from lowrank.runs.find import load_run
from lowrank.runs.format import RECORD_NAME, RecordError, RecordWriteError
from lowrank.runs.lock import LOCK_NAME, lock
from lowrank.runs.writer import Record

CONFIG_NAME, CHECKPOINT_NAME = "config.yaml", "checkpoint.pt"

OF_A_BEGINNING = {
    *(LOCK_NAME, "wandb", CONFIG_NAME),
    *(f"{name}{UNFINISHED}" for name in (CONFIG_NAME, RECORD_NAME)),
}
"""What a directory holds of a run of which nothing is recorded yet."""

ENDED = ("finished", "collapsed")
"""States of a run that has nothing left to do."""


@dataclass(frozen=True)
class RunDirectory:
    """One run's directory, while this process alone works in it.

    Attributes:
        path: ``<output_dir>/<run_id>``.
        run_id: The run's name, also on W&B.
        config: The configuration in force, complete with seed and threads: for a resumed run the
            stored one with those changes that are allowed.
        resumed: Whether the directory held a run before.
        ended: Whether that run has nothing left to do.
    """

    path: Path
    run_id: str
    config: Config
    resumed: bool
    ended: bool
    _begun: list[Path] = field(default_factory=list, repr=False)

    @property
    def record(self) -> Path:
        """The run record."""
        return self.path / RECORD_NAME

    @property
    def checkpoint(self) -> Path:
        """The latest checkpoint."""
        return self.path / CHECKPOINT_NAME


@contextmanager
def open_run_directory(requested: Config, members: int = 1) -> Iterator[RunDirectory]:
    """Opens the directory of a new run, or that of a run to go on with, and holds it.

    A new directory is removed again if something goes wrong before a record is begun, unless
    another process has begun it anew or put something into it meanwhile.

    Args:
        requested: What the command line asks for. ``run_id`` names the directory; without one
            an id is drawn.
        members: Runs that train as one pack.

    Yields:
        The directory. That of an earlier run is as it was, until its record is opened.

    Raises:
        InputError: If a value holds a secret of the environment, another process holds the run,
            the directory is none of a run, its run has another configuration, or ``resume``
            forbids what was found.
    """
    refuse(
        f"{name}: holds the secret of {variable}, which would be recorded; give another value"
        for name, value in requested
        if (variable := variable_of(str(value)))
    )
    run_id = requested.run_id or new_run_id()
    path = expanded(requested.output_dir) / run_id
    existed = path.exists()
    if existed and requested.resume == "never":
        raise InputError(f"resume=never, but the run directory {path} exists")
    if not existed and requested.resume == "must":
        raise InputError(f"resume=must, but there is no run directory {path}")
    held = lock(path)
    identity = (path / LOCK_NAME).stat()
    directory = None
    try:
        directory = _settle(path, replace(requested, run_id=run_id), members)
        yield directory
    except BaseException:
        if not existed and not (directory and directory._begun):
            _remove(path, identity)
        raise
    finally:
        held.release()


@contextmanager
def open_record(
    directory: RunDirectory, layers: Sequence[Layer], environment: Mapping[str, Any]
) -> Iterator[Record]:
    """Opens the record of a run, or begins one, with a new session in it.

    An exception that leaves the context turns the state into ``failed``, and Ctrl-C into
    ``stopped``.

    Args:
        directory: Of the run.
        layers: What is measured, in network order.
        environment: Of this process.

    Yields:
        The record.

    Raises:
        InputError: If the record is of another network.
    """
    config = directory.config.recorded()
    if directory.record.exists():
        record = Record.open(directory.record)
        if list(record.layers) != list(layers):
            record.close()
            raise InputError(
                f"{directory.record} is of another network: it holds other weight matrices than "
                f"model={directory.config.model} has on these images; choose another run_id"
            )
        record.begin_session(config, environment)
        write_atomically(directory.path / CONFIG_NAME, directory.config.to_yaml())
    else:
        record = Record.create(
            directory.record,
            run_id=directory.run_id,
            config=config,
            environment=environment,
            layers=layers,
        )
        directory._begun.append(directory.record)
    with record:
        try:
            yield record
        except BaseException as error:
            with suppress(RecordError, RecordWriteError):  # the disk may be what failed
                record.set_state("stopped" if isinstance(error, KeyboardInterrupt) else "failed")
            raise


def _remove(path: Path, identity: os.stat_result) -> None:
    """Removes a directory that this process made, if it holds nothing but what was made with it."""
    with suppress(OSError):
        # The lock is open here, so that no other file can have its number.
        ours = os.path.samestat(identity, (path / LOCK_NAME).stat())
        if ours and {entry.name for entry in path.iterdir()} <= OF_A_BEGINNING:
            shutil.rmtree(path, ignore_errors=True)


def _settle(path: Path, requested: Config, members: int) -> RunDirectory:
    """Decides which configuration is in force, and writes that of a new run down.

    Returns:
        The directory.

    Raises:
        InputError: If it holds something else, or a run with another configuration.
    """
    run_id = str(requested.run_id)
    stored_path = path / CONFIG_NAME
    record = path / RECORD_NAME
    if not stored_path.exists() and not record.exists():
        strangers = sorted({entry.name for entry in path.iterdir()} - OF_A_BEGINNING)
        if strangers:
            raise InputError(
                f"{path} is not a run directory, it holds {', '.join(strangers[:3])} but no "
                f"{CONFIG_NAME}: choose another run_id or output_dir"
            )
        config = complete(requested, members)
        write_atomically(stored_path, config.to_yaml())
        return RunDirectory(path, run_id, config, resumed=False, ended=False)
    run = load_run(record) if record.exists() else None
    if stored_path.exists():
        stored = load(stored_path)
    else:  # the record holds it as well
        assert run is not None
        stored = of_stored(run.config)
    if run is not None:
        check_origin(record, run.config, stored, newer=True)
    refuse(
        f"run {run_id} was started with {name}={before}, not {now}; a changed run needs "
        "another run_id"
        for name, (before, now) in differences(stored, requested).items()
    )
    every, last = stored.measure_every, stored.epochs
    reached = run is not None and last in run.epochs
    if reached and requested.epochs > last and last % every:
        raise InputError(
            f"run {run_id} was measured at its last epoch, {last}, where a run of "
            f"{requested.epochs} epochs with measure_every={every} is not, and what is measured "
            "later refers to it; a longer run needs another run_id; one whose epochs are a "
            "multiple of measure_every can go on"
        )
    config = replace(requested, seed=stored.seed, threads=stored.threads)
    ended = run is not None and run.state in ENDED and config.epochs <= stored.epochs
    return RunDirectory(path, run_id, config, resumed=True, ended=ended)


def check_origin(file: Path, config: Any, stored: Config, *, newer: bool = False) -> None:
    """Makes sure that a file belongs to the run in whose directory it lies.

    Args:
        file: Its name in errors.
        config: The configuration that it was written with.
        stored: The run's.
        newer: Whether the file may have been written after the configuration was stored.

    Raises:
        InputError: If they are of different runs.
    """
    advice = "restore the run's own file from a copy, or remove it, or choose another run_id"
    if not isinstance(config, dict):
        raise InputError(f"{file}: holds no configuration, so its run is not known: {advice}")
    own = of_stored({str(name): value for name, value in config.items()}, str(file))
    differing = differences(own, stored)
    if differing and newer:
        differing = {name: of[::-1] for name, of in differences(stored, own).items()}
    if differing:
        told = ", ".join(f"{name}={theirs}" for name, (theirs, _) in list(differing.items())[:3])
        raise InputError(f"{file} is of another run, with {told}: {advice}")


def check_text(record: Path, dataset: str, text: Mapping[str, str] | None) -> None:
    """Makes sure that a run goes on with the text that it learned from.

    Args:
        record: The run's, which may not exist yet.
        dataset: The name of the data set.
        text: Of the data set: ``where`` it came from, and its ``sha256``; None for images.

    Raises:
        InputError: If it is another.
    """
    if text is None or not record.exists():
        return
    learned = load_run(record).environment.get("text")
    if isinstance(learned, Mapping) and learned.get("sha256") != text["sha256"]:
        raise InputError(
            f"dataset={dataset}: {printable(text['where'], 200)} is another text than the run "
            f"learned from, {printable(str(learned.get('where')), 200)} with SHA-256 "
            f"{printable(str(learned.get('sha256'))[:12])}…; bring that back, or train another run"
        )


def complete(requested: Config, members: int = 1) -> Config:
    """Returns the configuration with a drawn seed and the number of threads filled in.

    Args:
        requested: Where ``seed`` is None one is drawn; where ``threads`` is None it is one for
            a network so narrow that more only slow it down, and else the number of cores this
            process may use. Narrow members of a pack take up to one each.
        members: Runs that train as one pack.

    Returns:
        A configuration that describes the run completely.
    """
    seed = secrets.randbelow(2**31) if requested.seed is None else requested.seed
    is_narrow = requested.width <= FAMILIES[requested.model].one_thread
    useful = members if is_narrow else available_cores()
    threads = requested.threads or min(useful, available_cores())
    return replace(requested, seed=seed, threads=threads)


def new_run_id() -> str:
    """Returns a new id of eight lower-case letters and digits, as W&B's are."""
    alphabet = "abcdefghijklmnopqrstuvwxyz0123456789"
    return "".join(secrets.choice(alphabet) for _ in range(8))
