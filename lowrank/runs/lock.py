"""Who works in a run directory: one process at a time, which everyone can see."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING

from lowrank.common.errors import InputError

if TYPE_CHECKING:
    from filelock import BaseFileLock

LOCK_NAME = ".lock"

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def lock(run_dir: str | Path) -> BaseFileLock:
    """Makes this process the only one that works in a run directory.

    The operating system releases the lock when the process ends, however it ends. A record that
    says running while nobody holds the lock is that of a killed process.

    Args:
        run_dir: The run directory; made if missing.

    Returns:
        The lock, held until its ``release()`` is called or nobody refers to it any more.

    Raises:
        InputError: If another process holds it, or the directory cannot be written to.
    """
    from filelock import FileLock, Timeout  # here: what only reads records does not need it

    directory = Path(run_dir)
    held = FileLock(directory / LOCK_NAME, fallback_to_soft=False)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        held.acquire(timeout=0.5, poll_interval=0.02)  # `is_locked` may hold it for an instant
    except Timeout:
        raise InputError(
            f"{directory}: another process is already working on this run: wait for it or stop it, "
            "or choose another run_id"
        ) from None
    except (OSError, NotImplementedError) as error:
        if isinstance(error, NotImplementedError) or error.errno in _NO_LOCKS:
            raise InputError(
                f"{directory}: its file system has no locks, so that two processes could work on "
                "one run: choose another output_dir"
            ) from error
        raise InputError(
            f"{directory}: cannot be written to ({error.strerror}): make room or give write access "
            "and start the same command again, or choose another output_dir"
        ) from error
    return held


def is_locked(run_dir: Path) -> bool:
    """Returns whether a process holds the run directory's `lock`, as far as one can see.

    Args:
        run_dir: The run directory; it may be read-only.

    Returns:
        False where there is no lock file; True where the answer is denied.
    """
    try:
        descriptor = os.open(run_dir / LOCK_NAME, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:  # held by its owner, or a file system without such locks
        return True
    finally:
        os.close(descriptor)  # and with it the shared lock
    return False
