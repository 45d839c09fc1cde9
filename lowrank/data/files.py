"""What loaders share when several processes prepare files: a lock, and a line of progress."""

from __future__ import annotations

import sys
import time
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


def printed_progress(what: str, seconds: float = 5.0) -> Progress:
    """Makes a `progress(done, total)` that writes to standard error.

    Args:
        what: What is being done, such as "decoding train images".
        seconds: Shortest time between two lines where standard error is not a terminal; on one,
            a single line is rewritten ten times a second.

    Returns:
        The function. Its last call, with done = total, always shows.
    """
    terminal = sys.stderr.isatty()
    start = shown = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal shown
        now = time.monotonic()
        if done < total and now - shown < (0.1 if terminal else seconds):
            return
        shown = now
        line = f"{what}: {done:,} of {total:,} in {now - start:.1f} s"
        end = "\n" if done == total or not terminal else ""
        print(f"\r{line}" if terminal else line, end=end, file=sys.stderr, flush=True)

    return progress
