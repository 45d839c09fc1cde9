"""What the W&B client leaves in a run's directory, and how it is read: version 0.31.

Each start of a run writes a transaction log, a *segment*: ``<run_dir>/wandb/run-<time>-<run_id>``
or, offline, ``offline-run-<time>-<run_id>``. They show a run while it goes on; what of it reaches
W&B's server in the end is taken from the record (`lowrank.tracking.upload`), as not every server
joins the segments of one run, and a kill may leave one without its end.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lowrank.common.errors import Failure

_HEAD = 7  # bytes before the first record of a log


class TrackingError(Failure):
    """W&B cannot be reached or refuses the run, or its files cannot be read."""


def find(run_dir: Path, run_id: str) -> list[Path]:
    """Returns W&B's transaction logs of a run, in the order in which they were begun.

    Args:
        run_dir: The run's directory.
        run_id: The run's id.

    Returns:
        The ``.wandb`` files of all starts, offline and online.
    """
    logs = (run_dir / "wandb").glob(f"*run-*/run-{run_id}.wandb")

    def begun(path: Path) -> tuple[str, int, str]:
        name = path.parent.name.removeprefix("offline-")
        # run-YYYYMMDD_HHMMSS-ID, then -1, -2 … for more starts within the second.
        return name[4:19], len(name), name

    return sorted((path for path in logs if not path.parent.is_symlink()), key=begun)


def kept_files(run_dir: Path, run_id: str) -> list[Path]:
    """Returns what the last start of a run left of its machine: system, packages.

    Args:
        run_dir: The run's directory.
        run_id: The run's id.
    """
    logs = find(run_dir, run_id)
    files = logs[-1].parent / "files" if logs else run_dir
    paths = [files / name for name in ("wandb-metadata.json", "requirements.txt")]
    return [path for path in paths if path.is_file()]


def last_step(segment: Path) -> int | None:
    """Returns the last step of a transaction log, also of one that was cut off by a kill.

    Args:
        segment: The ``.wandb`` file.

    Returns:
        The step of the last complete row; None if there is none, or none that wandb can read: a
        power cut may leave zeros where the log's head had not reached the disk.

    Raises:
        TrackingError: If wandb's reader fails.
    """
    from wandb.util import get_core_path

    with contextlib.suppress(OSError), segment.open("rb") as log:
        if not any(log.read(_HEAD)):
            return None
    # `wandb leet inspect` without the 0.5 s that starting Python and importing wandb cost.
    command = [get_core_path(), "leet", "inspect", "--no-observability", "--summary", "--json"]
    result = subprocess.run(
        [*command, "--run-file", str(segment), str(segment.parent.parent)],
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        step: int | None = json.loads(result.stdout)["step"]
    except (ValueError, KeyError) as error:
        reason = (result.stderr.strip() or "no output").splitlines()[-1]
        raise TrackingError(f"{segment}: wandb cannot read it: {reason}") from error
    return step


def mark_synced(directory: Path, run_id: str) -> None:
    """Notes, as `wandb sync` does, that the server has all of a segment.

    The server adds what it is sent to the rows that it has: uploaded again, the rows of an online
    segment would be there twice.

    Args:
        directory: Of the segment.
        run_id: The run's id.
    """
    (directory / f"run-{run_id}.wandb.synced").touch()


def unfinished(run_dir: Path) -> Path:
    """Returns the file that exists from the start of a tracked run until W&B has its end.

    Args:
        run_dir: The run's directory.
    """
    return run_dir / "wandb" / "unfinished"


def uploaded(run_dir: Path) -> Path:
    """Returns the file that says when the record was last written that W&B's server has.

    Args:
        run_dir: The run's directory.
    """
    return run_dir / "wandb" / "uploaded"


def failed_uploads(directory: Path) -> list[str]:
    """Returns why W&B's server does not have all of an online segment.

    The client says so nowhere else: after a refusal it stops uploading and ends as if all was well.

    Args:
        directory: Of the segment.

    Returns:
        Reasons, one line each; none if nothing failed for good.
    """
    try:
        log = (directory / "logs" / "debug-internal.log").read_text("utf-8", errors="replace")
    except OSError:
        return []
    reasons = []
    for line in log.splitlines():
        for failure in ("filestream: fatal error: ", "sender: failed to log artifact: "):
            if failure in line:
                with contextlib.suppress(ValueError):
                    message = json.loads(line)["msg"].removeprefix(failure)
                    reasons.append(message.removeprefix("filestream: ").splitlines()[0])
    return reasons


def sweep_parameters(variables: Mapping[str, str]) -> dict[str, Any]:
    """Returns what an agent has written down of a run's point.

    It is text where YAML reads ``1e-4`` as text, which W&B could neither sort nor plot; the
    values in force are those of the configuration.

    Args:
        variables: Hold ``WANDB_SWEEP_PARAM_PATH``, the file that the agent wrote.

    Returns:
        The parameters by name; none where there is no agent.

    Raises:
        TrackingError: If the agent's file cannot be read.
    """
    import yaml

    path = variables.get("WANDB_SWEEP_PARAM_PATH")
    if not path:
        return {}
    try:
        parameters = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        raise TrackingError(f"WANDB_SWEEP_PARAM_PATH={path} cannot be read: {error}") from error
    return {
        name: what["value"]
        for name, what in parameters.items()
        if name not in ("wandb_version", "_wandb")
    }


_staging = threading.Lock()


@contextlib.contextmanager
def staging_in(directory: Path) -> Iterator[None]:
    """Lets wandb copy an artifact's files into the run's segment instead of the user's home.

    Args:
        directory: Of the segment.

    Yields:
        While it does.
    """
    with _staging:  # the variable is the process's, which may end several runs at once
        before = os.environ.get("WANDB_DATA_DIR")
        os.environ["WANDB_DATA_DIR"] = str(directory)
        try:
            yield
        finally:
            if before is None:
                del os.environ["WANDB_DATA_DIR"]
            else:
                os.environ["WANDB_DATA_DIR"] = before
