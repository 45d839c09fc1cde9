"""Who is alive on this disk: a launcher's death is known to the next one at once."""

from __future__ import annotations

import os
import platform
import secrets
import shutil
from pathlib import Path

from lowrank.runs.lock import is_locked, lock

FOLDER = ".launchers"


class Presence:
    """A lock that one launcher holds as long as it lives, however it ends.

    Launchers that cannot see each other's files learn of a death by the heartbeat only.

    Args:
        output_dir: Where the runs are written; the lock lies in it.

    Attributes:
        id: Names the launcher in the sweep's storage.
    """

    def __init__(self, output_dir: Path) -> None:
        self._folder = output_dir / FOLDER
        self.id = f"{platform.node()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._lock = lock(self._folder / self.id)

    def is_dead(self, launcher: str) -> bool:
        """Returns whether a launcher of this disk has ended without taking leave.

        Args:
            launcher: Its id.

        Returns:
            False also where nothing is known of it.
        """
        place = self._folder / launcher
        return launcher != self.id and place.is_dir() and not is_locked(place)

    def leave(self) -> None:
        """Takes leave: nothing of this launcher is left to others."""
        self._lock.release()
        shutil.rmtree(self._folder / self.id, ignore_errors=True)
