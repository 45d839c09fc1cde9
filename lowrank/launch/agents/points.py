"""Points that agents of this machine have taken of a sweep, noted until they are done.

W&B hands out a point of a grid once: what was taken and is not done, as its training was
interrupted, its agent died before it began or the power failed, is found nowhere else. An agent
notes a point before it starts anything (`lowrank.launch.agents.agent`); the launcher crosses it
out, or notes that it failed, and hands out what is open before the server is asked for more.
"""

from __future__ import annotations

import itertools
import json
import platform
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from lowrank.common.errors import Failure, InputError
from lowrank.common.files import write_atomically
from lowrank.runs.lock import is_locked, lock

_ENDING = ".points"


def logs_of(output_dir: Path, sweep: str) -> Path:
    """Returns where the logs of a sweep's agents are, and what they have taken.

    Args:
        output_dir: Of the runs.
        sweep: ENTITY/PROJECT/SWEEP.
    """
    return output_dir / "agents" / sweep.rpartition("/")[2]


class Points:
    """What one launcher has taken of a sweep, and what dead launchers of this machine have left.

    Args:
        logs: From `logs_of`; made if it is missing.

    Attributes:
        name: Of the machine; where several launchers work on it, with a number. No two that live
            have the same.
        directory: Holds a note of each point.

    Raises:
        InputError: If the directory cannot be written to.
    """

    def __init__(self, logs: Path) -> None:
        host = _host()
        for number in itertools.count(1):
            self.name = host if number == 1 else f"{host}-{number}"
            self.directory = logs / f"{self.name}{_ENDING}"
            try:
                self._lock = lock(self.directory)
                break
            except InputError:
                if not is_locked(self.directory):
                    raise
        for other in _of_this_machine(logs):
            if other != self.directory:
                self._inherit(other)

    def _inherit(self, other: Path) -> None:
        """Takes over what another launcher has left, unless it lives."""
        try:
            held = lock(other)
        except InputError:
            return
        for note in other.glob("*.json"):
            note.replace(self.directory / note.name)
        shutil.rmtree(other, ignore_errors=True)
        held.release()

    def open(self) -> dict[str, dict[str, Any]]:
        """Returns what was taken and is not done, by run id: what the server said of each."""
        return {name: note for name, note in _read(self.directory).items() if "failed" not in note}

    def failed(self) -> dict[str, str]:
        """Returns how points failed that were taken here, by run id."""
        notes = _read(self.directory)
        return {name: str(note["failed"]) for name, note in notes.items() if "failed" in note}

    def done(self, run_id: str) -> None:
        """Crosses out a point.

        Args:
            run_id: Of its run.
        """
        self._note(run_id).unlink(missing_ok=True)

    def fail(self, run_id: str, how: str) -> None:
        """Notes that a point failed.

        Args:
            run_id: Of its run.
            how: In a few words.
        """
        with suppress(Failure):  # a full disk: then it is tried again
            write_atomically(self._note(run_id), json.dumps({"run_id": run_id, "failed": how}))

    def release(self) -> None:
        """Leaves what is open to the next launcher."""
        if not _read(self.directory):
            shutil.rmtree(self.directory, ignore_errors=True)
        self._lock.release()

    def _note(self, run_id: str) -> Path:
        return self.directory / f"{run_id}.json"


def left_over(logs: Path) -> list[str]:
    """Returns the ids of runs that launchers of this machine have left before they were done.

    Args:
        logs: From `logs_of`.
    """
    return [
        run_id
        for directory in _of_this_machine(logs)
        if not is_locked(directory)
        for run_id, note in _read(directory).items()
        if "failed" not in note
    ]


def _host() -> str:
    return platform.node() or "localhost"


def _of_this_machine(logs: Path) -> list[Path]:
    host = _host()
    found = []
    for directory in sorted(logs.glob(f"*{_ENDING}")):
        number = directory.name.removeprefix(host).removesuffix(_ENDING).removeprefix("-")
        if directory.name.startswith(host) and (not number or number.isdigit()):
            found.append(directory)
    return found


def _read(directory: Path) -> dict[str, dict[str, Any]]:
    """Returns the notes of a directory by run id, the oldest first."""
    found = {}
    for path in sorted(directory.glob("*.json"), key=lambda path: path.stat().st_mtime):
        try:
            note = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # cut off as the machine went down
            note = None
        if isinstance(note, dict) and isinstance(note.get("run_id"), str):
            found[path.stem] = note
    return found
