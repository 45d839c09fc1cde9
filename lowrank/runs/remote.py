"""Records kept in W&B: of one run, of a sweep, of a project.

W&B's client keeps what it has downloaded, by content, in a cache of its own (``WANDB_CACHE_DIR``):
a record that has not changed is downloaded once.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path

from lowrank.common.client import prepare_client
from lowrank.common.errors import first_line
from lowrank.common.terminal import counting, so_far
from lowrank.runs.format import RECORD_NAME, RecordError
from lowrank.runs.reader import Run


def fetch_all(entity: str, project: str, sweep: str = "") -> tuple[list[Run], list[RecordError]]:
    """Fetches the records of a project's runs, showing progress.

    Args:
        entity: Whose it is.
        project: The project.
        sweep: The id of one sweep; empty for all runs.

    Returns:
        The runs, and for every record that cannot be read the reason; runs that have none, as those
        of other programs, are told together.

    Raises:
        NoRecordError: If W&B has no such project or sweep, does not answer, or no API key is
            configured.
        InputError: If the W&B client does not take its variables.
    """
    prepare_client()
    import wandb

    name = "/".join(filter(None, (entity, project, sweep)))
    try:
        api = wandb.Api()
        found = (
            api.sweep(name).runs  # type: ignore[no-untyped-call]
            if sweep
            else api.runs(name, order="+created_at")
        )
        ids = [run.id for run in found]
    except Exception as error:  # as in `fetch`
        raise NoRecordError(_no_answer(name, "runs", error)) from error
    if not ids:
        raise NoRecordError(_no_answer(name, "runs", "it has none"))
    runs, errors, without = list[Run](), list[RecordError](), list[NoRecordError]()
    with counting("fetching records", so_far("fetched", "records")) as progress:
        for done, run_id in enumerate(ids, 1):
            try:
                runs.append(fetch(entity, project, run_id))
            except NoRecordError as error:
                without.append(error)
            except RecordError as error:
                errors.append(error)
            progress(done, len(ids))
    if without:
        told = f"{len(without)} of {len(ids)} runs have no run record in W&B"
        errors.append(
            RecordError(f"{name}: {told} (the last: {first_line(without[-1].__cause__)})")
        )
    return runs, errors


class NoRecordError(RecordError):
    """W&B gives no record for a run."""


def _no_answer(name: str, what: str, error: Exception | str) -> str:
    return (
        f"{name}: there is no such file here, and W&B gives no {what} for it "
        f"({first_line(error)}): check the path, `wandb login` and the connection"
    )


def fetch(entity: str, project: str, run_id: str) -> Run:
    """Fetches a run's record from W&B into a temporary directory.

    Args:
        entity: Whose it is.
        project: Of the run.
        run_id: The run's id.

    Returns:
        The run.

    Raises:
        NoRecordError: If W&B has none, does not answer, or no API key is configured.
        RecordError: If it is no record.
        InputError: If the W&B client does not take its variables.
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
        raise NoRecordError(_no_answer(name, "run record", error)) from error
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
