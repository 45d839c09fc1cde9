"""The page of runs that go on: written again as their records grow, until none goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from lowrank.common.errors import refuse
from lowrank.common.texts import printable
from lowrank.runs.format import RECORD_NAME
from lowrank.runs.lock import is_locked

LOOK = 5.0
"""Seconds between two looks at the records."""

QUIET = 6
"""So many looks in a row without a run that goes on, and all have ended: between two runs of a
sweep there is a pause."""

RELOAD = 30
"""Seconds after which the page that is followed loads itself again."""

_SHARE = 9  # of the time that a page takes to write, at least so much is waited


def follow(
    paths: Sequence[str | Path],
    write: Callable[[], object],
    wait: Callable[[float], object] = time.sleep,
) -> None:
    """Writes the page, and again whenever a record has changed, until no run goes on.

    Args:
        paths: Run directories, directories of runs or record files, on this machine.
        write: Writes the page.
        wait: Waits for some seconds.

    Raises:
        InputError: With a line for every path that is not on this machine.
    """
    refuse(
        f"follow: {printable(str(path), 200)} is not on this machine; allowed: paths of files"
        for path in paths
        if not Path(path).exists()
    )
    seen: dict[Path, tuple[int, int]] = {}
    quiet = 0
    while True:
        found, goes_on = _look(paths)
        began = time.monotonic()
        if found != seen:
            write()
            seen = found
        quiet = 0 if goes_on else quiet + 1
        if quiet == QUIET:
            return
        wait(max(LOOK, _SHARE * (time.monotonic() - began)))


def _look(paths: Sequence[str | Path]) -> tuple[dict[Path, tuple[int, int]], bool]:
    """Returns size and time of every record, and whether a process writes to any."""
    found, goes_on = {}, False
    for top in map(Path, paths):
        records = [*top.glob(RECORD_NAME), *top.glob(f"*/{RECORD_NAME}")] if top.is_dir() else [top]
        for record in records:
            goes_on |= is_locked(record.parent)
            try:
                state = record.stat()
            except FileNotFoundError:  # removed just now
                continue
            found[record] = (state.st_mtime_ns, state.st_size)
    # That a run has ended is in its record before it lets go of it: the last look sees all.
    return found, goes_on
