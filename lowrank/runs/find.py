"""Run records, found: by run directory, file or W&B run path, one or all of a directory."""

from __future__ import annotations

import re
import shutil
import tempfile
import warnings
import weakref
from pathlib import Path

from lowrank.common.client import prepare_client
from lowrank.common.texts import ID
from lowrank.common.wandb_paths import parts_of
from lowrank.runs.format import RECORD_NAME, RecordError
from lowrank.runs.reader import Run

__all__ = ["Run", "find_runs", "load_run", "load_sweep"]


def load_run(path: str | Path) -> Run:
    """Reads one run, without its metrics and spectra until they are asked for.

    Args:
        path: A run directory, a record file, or a W&B run path ``entity/project/run_id`` or the
            address of its page, whose record is then downloaded (it needs `wandb` and an API key).

    Returns:
        The run.

    Raises:
        RecordError: If there is no such run, or its record cannot be read.
        InputError: If the W&B client does not take its variables.
    """
    place = Path(path)
    if place.is_dir():
        return Run(place / RECORD_NAME)
    names = parts_of(str(path), "run") or ()
    if place.exists() or len(names) != 3 or not re.fullmatch(ID, names[2]):
        return Run(place)
    return _download(*names)


def find_runs(directory: str | Path) -> tuple[list[Run], list[RecordError]]:
    """Reads all runs in a directory, sorted by the names of their directories.

    Args:
        directory: Holds run directories; may be a run directory itself.

    Returns:
        The runs, and for every record that cannot be read the reason.

    Raises:
        RecordError: If there is no such directory.
    """
    top = Path(directory)
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


def _download(entity: str, project: str, run_id: str) -> Run:
    """Fetches a run's record from W&B into a temporary directory.

    Returns:
        The run.

    Raises:
        RecordError: If W&B has none, does not answer, or no API key is configured.
    """
    prepare_client()
    name = f"{entity}/{project}/{run_id}"
    directory = tempfile.mkdtemp(prefix="lowrank-")
    try:
        try:
            _fetch_artifact(name, f"{entity}/{project}/run-record-{run_id}:latest", directory)
        except Exception:
            # `wandb sync` brings the record of an offline run as one of its files.
            if not _fetch_file(name, directory):
                raise
        run = Run(Path(directory, RECORD_NAME))
    except RecordError:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    except Exception as error:  # wandb, requests, sockets: all mean that there is no record
        shutil.rmtree(directory, ignore_errors=True)
        reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise RecordError(
            f"{name}: there is no such file here, and W&B gives no run record for it "
            f"({reason[0]}): check the path, `wandb login` and the connection"
        ) from error
    weakref.finalize(run, shutil.rmtree, directory, ignore_errors=True)
    return run


def _fetch_artifact(name: str, artifact: str, directory: str) -> None:
    """Downloads the record from an artifact.

    Raises:
        RecordError: If it is no file.
    """
    import wandb

    # Only this entry and only here, whatever paths the server's manifest names.
    entry = wandb.Api().artifact(artifact, type="run-record").get_entry(RECORD_NAME)
    if entry.ref is not None:
        raise RecordError(f"{name}: its record is a reference to another place, not a file")
    entry.download(root=directory)


def _fetch_file(name: str, directory: str) -> bool:
    """Downloads the record from the files of a run.

    Returns:
        Whether there is one.
    """
    import wandb

    try:
        files = wandb.Api().run(name).files([RECORD_NAME])
        (file,) = (file for file in files if file.name == RECORD_NAME)  # and no other path
        file.download(root=directory)
    except Exception:  # the artifact's absence is what is told
        return False
    return True
