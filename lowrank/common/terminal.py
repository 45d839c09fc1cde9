"""What a person sees on a terminal: lines, tables, time spans, and how far a work is."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Self, TextIO

from lowrank.common.texts import printable

_AT_ONCE = 0.5  # seconds: a work that takes less shows no bar


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
        print(printable(text, None, lines=True), file=stream, flush=True)
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):  # what is in its buffer goes nowhere, too
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def width(stream: TextIO | None) -> int:
    """Returns how many columns a line may have.

    Args:
        stream: Where it goes.

    Returns:
        Those of the terminal, or of the variable ``COLUMNS``; else 80.
    """
    return shutil.get_terminal_size().columns if stream is not None and stream.isatty() else 80


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


def aligned(
    rows: Sequence[Sequence[str]],
    *,
    left: Collection[int] = (0,),
    widths: Sequence[int] = (),
    gap: int = 2,
    longest: int | None = None,
) -> list[str]:
    r"""Returns the lines of a table.

    Args:
        rows: Cells, the heads first.
        left: Columns whose cells begin under each other; those of all others end so.
        widths: The least width of each column; none for further ones.
        gap: Spaces between columns.
        longest: A longer first cell has a line of its own; None for no limit.

    Returns:
        A line for each row, without spaces at its end.

    Example:
        >>> print(*aligned([("layer", "rank"), ("conv1", "27"), ("fc", "9")]), sep="\n")
        layer  rank
        conv1    27
        fc        9
    """
    sizes = column_widths(rows, widths, longest)
    lines = []
    for first, *others in rows:
        cells = [first, *others]
        if longest is not None and len(first) > longest:
            lines.append(first)
            cells[0] = ""
        padded = (
            cell.ljust(size) if place in left else cell.rjust(size)
            for place, (cell, size) in enumerate(zip(cells, sizes, strict=True))
        )
        lines.append((" " * gap).join(padded).rstrip())
    return lines


def column_widths(
    rows: Sequence[Sequence[str]], widths: Sequence[int] = (), longest: int | None = None
) -> list[int]:
    """Returns how wide `aligned` makes the columns.

    Args:
        rows: As there.
        widths: As there.
        longest: As there.

    Returns:
        Characters of each column.
    """
    first = [row[0] for row in rows if longest is None or len(row[0]) <= longest]
    columns = [first, *list(zip(*rows, strict=True))[1:]]
    least = [*widths, *[0] * len(columns)]
    return [max(size, *map(len, column)) for size, column in zip(least, columns, strict=False)]


class Display:
    """Lines, and on a terminal bars or a text below them, which are redrawn and leave no trace.

    Args:
        stream: Where to print; by default standard output.

    Attributes:
        is_terminal: Whether there is a place below the lines.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream: TextIO | None = stream or sys.stdout
        self.is_terminal = self.stream is not None and self.stream.isatty()
        self._below: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._below is not None:
            self._below.stop()
            self._below = None

    def line(self, text: str = "") -> None:
        """Prints a line, or several, above what is redrawn.

        Args:
            text: The line.
        """
        if self._below is None:
            say(text, self.stream)
        else:
            text = printable(text, None, lines=True)
            self._below.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def bar(self, name: str, done: int, total: int | None, note: str = "") -> None:
        """Shows how far a work is; on a terminal only.

        Args:
            name: Of the work; each has a bar of its own.
            done: Its steps so far.
            total: All its steps; None where unknown.
            note: What stands behind the bar.
        """
        if not self.is_terminal:
            return
        if self._below is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            self._below = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}", markup=False),
                console=Console(file=self.stream),
                transient=True,
            )
            self._below.start()
        known = {task.description: task for task in self._below.tasks}
        if name in known:
            known[name].total = total  # which `update` would keep where it is unknown again
            self._below.update(known[name].id, completed=done, note=note)
        else:
            self._below.add_task(name, completed=done, total=total, note=note)

    def text(self, text: str) -> None:
        """Shows a text that takes the place of the one before; on a terminal only.

        Args:
            text: Of one line or several.
        """
        if not self.is_terminal:
            return
        from rich.text import Text

        if self._below is None:
            from rich.console import Console
            from rich.live import Live

            self._below = Live(console=Console(file=self.stream), auto_refresh=False)
            self._below.start()
        self._below.update(Text(text, no_wrap=True), refresh=True)


def so_far(done_word: str, things: str) -> Callable[[int, int, float], str]:
    """Makes the lines of `counting` for a work whose end is told by others.

    Args:
        done_word: What happened to each, such as ``read``.
        things: What they are.

    Returns:
        What `counting` takes as ``line``.

    Example:
        >>> so_far("read", "runs")(60, 100, 9.0)
        'read 60 of 100 runs, 6 s left'
    """

    def line(done: int, total: int, seconds: float) -> str:
        left = f"{seconds / done * (total - done):.0f} s left"
        return f"{done_word} {done} of {total} {things}, {left}" if done < total else ""

    return line


@contextlib.contextmanager
def counting(
    what: str,
    line: Callable[[int, int, float], str] | None = None,
    every: float = 5.0,
) -> Iterator[Callable[[int, int], None]]:
    """Shows how far a work is on standard error: a bar on a terminal, else a line now and then.

    Args:
        what: What is being done, such as "reading runs".
        line: Makes a line of steps done, all steps and seconds since the start; None for no lines.
            An empty one is not printed, that of the last step on a terminal, too.
        every: Seconds between two lines.

    Yields:
        A function of steps done and all steps, to be called after each step.
    """
    start = said = time.monotonic()
    with Display(sys.stderr) as display:

        def progress(done: int, total: int) -> None:
            nonlocal said
            now = time.monotonic()
            seconds = now - start
            if done < total and display.is_terminal:
                if seconds > _AT_ONCE:
                    left = duration(seconds / done * (total - done)) if done else "-"
                    display.bar(what, done, total, f"left {left}")
            elif line is not None and (done == total or now - said >= every):
                said = now
                if text := line(done, total, seconds):
                    display.line(text)

        yield progress
