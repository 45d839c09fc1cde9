"""What stands at the end of a log that a training writes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from lowrank.launch.programs import PROGRAM

_LONGEST = 2**16  # bytes that are read, and 256 times as many to find a word


def last_lines(log: Path, offset: int, count: int, about: str = "") -> list[str]:
    """Returns the last lines of a log, without empty ones.

    Args:
        log: The file.
        offset: Where what is of interest begins.
        count: The most lines.
        about: What each of them holds, if there are any that do.

    Returns:
        Lines; none if the file cannot be read.
    """
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(offset, size - (_LONGEST << 8 if about else _LONGEST)))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    lines = [line for line in text.splitlines() if line.strip()]
    return ([line for line in lines if about in line] or lines)[-count:]


def cause(lines: Sequence[str]) -> str:
    r"""Returns why a training failed: the first line of the last error that it told of.

    Args:
        lines: The last ones of its log.

    Returns:
        Without the program's name; empty where it ended without such an error.

    Example:
        >>> cause(["epoch 1", "train.py: device=cuda:7 is not there", "train.py: or try cpu"])
        'device=cuda:7 is not there'
    """
    head, found = f"{PROGRAM}: ", ""
    for line in reversed(lines):
        if line.startswith(head):
            found = line.removeprefix(head)
        elif found:
            break
    return found
