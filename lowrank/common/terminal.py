"""What a person sees on a terminal: lines, time spans."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from typing import TextIO

from lowrank.common.texts import harmless


def say(text: str, stream: TextIO | None = None) -> None:
    """Prints a line, unless nobody reads any more: that must not end a training.

    Args:
        text: The line.
        stream: Where to; by default standard output.
    """
    stream = stream or sys.stdout
    if stream is None:  # the program was started with a closed standard output
        return
    try:
        print(harmless(text), file=stream, flush=True)
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):  # what is in its buffer goes nowhere, too
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def duration(seconds: float) -> str:
    """Returns a time span in at most six characters.

    Args:
        seconds: At least 0, or NaN.

    Returns:
        ``-`` for NaN.

    Example:
        >>> duration(75), duration(7500), duration(250_000)
        ('1:15', '2h05', '2d21h')
    """
    if not math.isfinite(seconds):
        return "-"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d{hour}h"
    return f"{hours}h{minute:02}" if hours else f"{minutes}:{second:02}"
