"""Run records, found: by run directory, file or W&B run path, one or all of a directory."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

from lowrank.common.files import expanded
from lowrank.common.texts import ID
from lowrank.common.wandb_paths import parts_of
from lowrank.runs.format import RECORD_NAME, RecordError
from lowrank.runs.reader import Run
from lowrank.runs.remote import NoRecordError, fetch, fetch_all

__all__ = ["Run", "find_elsewhere", "find_runs", "load_run", "load_sweep"]


def load_run(path: str | Path) -> Run:
    """Reads one run, without its metrics and spectra until they are asked for.

    Args:
        path: A run directory, a record file, or a W&B run path ``entity/project/run_id`` or the
            address of its page, whose record is then downloaded (it needs `wandb` and an API key).

    Returns:
        The run.

    Raises:
        RecordError: If there is no such run, or its record cannot be read.
        InputError: If the W&B client does not take its variables, or there is no such home.
    """
    place = expanded(path)
    if place.is_dir():
        return Run(place / RECORD_NAME)
    names = parts_of(str(path), "run") or ()
    if place.exists() or len(names) != 3 or not re.fullmatch(ID, names[2]):
        return Run(place)
    return fetch(*names)


def find_elsewhere(path: str) -> tuple[list[Run], list[RecordError]]:
    """Reads the runs that something else than a directory stands for.

    Args:
        path: A record file, or a path or address of W&B: of a run, of a sweep, of a project.

    Returns:
        The runs, and for every record that cannot be read the reason.

    Raises:
        RecordError: If there is no such record here.
        NoRecordError: If W&B knows none.
        InputError: If the W&B client does not take its variables, or there is no such home.
    """
    if Path(path).exists():
        return [load_run(path)], []
    project, sweep = parts_of(path, "project"), parts_of(path, "sweep") or ()
    if project or (len(sweep) == 3 and ("://" in path or path.count("/") == 3)):
        return fetch_all(*(project or sweep))
    try:
        return [load_run(path)], []
    except NoRecordError as no_run:
        if len(sweep) != 3:
            raise
        try:
            return fetch_all(*sweep)
        except NoRecordError:
            raise no_run from None


def find_runs(directory: str | Path) -> tuple[list[Run], list[RecordError]]:
    """Reads all runs in a directory, sorted by the names of their directories.

    Args:
        directory: Holds run directories; may be a run directory itself.

    Returns:
        The runs, and for every record that cannot be read the reason.

    Raises:
        RecordError: If there is no such directory.
        InputError: If there is no such home.
    """
    top = expanded(directory)
    if not top.is_dir():
        raise RecordError(f"{top}: there is no such directory")
    runs, errors = [], []
    for path in sorted([*top.glob(RECORD_NAME), *top.glob(f"*/{RECORD_NAME}")]):
        try:
            runs.append(Run(path))
        except RecordError as error:
            errors.append(error)
    return runs, errors


def load_sweep(directory: str | Path) -> list[Run]:
    """Reads all runs in a directory, sorted by the names of their directories.

    Warns of records that cannot be read; `find_runs` returns these too.

    Args:
        directory: Holds run directories, such as ``runs``.

    Returns:
        The runs.
    """
    runs, errors = find_runs(directory)
    for error in errors:
        warnings.warn(f"left out: {error}", stacklevel=2)
    return runs
