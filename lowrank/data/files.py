"""What loaders share when several processes prepare files: a lock."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

Progress = Callable[[int, int], None]


@contextmanager
def exclusive(lock_file: Path) -> Iterator[None]:
    """Lets one process at a time, on this or another machine, prepare the files beside a lock.

    Args:
        lock_file: A file that exists for this purpose only.

    Yields:
        Once no other process holds the lock. Where the folder is absent or cannot be written to
        there is no lock, and nothing to guard either.
    """
    if not lock_file.parent.is_dir():  # the lock would make it
        yield
        return
    lock = FileLock(lock_file)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(f"waiting for another process that prepares {lock_file.parent}", file=sys.stderr)
            lock.acquire()
    except OSError:  # a read-only folder, or a file system without locks
        pass
    try:
        yield
    finally:
        lock.release()
