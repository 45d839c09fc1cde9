"""What stands at the end of a log that a training writes."""

from __future__ import annotations

import os
from pathlib import Path

_LONGEST = 2**16  # bytes that are read


def last_lines(log: Path, offset: int, count: int) -> list[str]:
    """Returns the last lines of a log, without empty ones.

    Args:
        log: The file.
        offset: Where what is of interest begins.
        count: The most lines.

    Returns:
        Lines; none if the file cannot be read.
    """
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(offset, size - _LONGEST))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()][-count:]
