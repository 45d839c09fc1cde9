"""Errors whose lines are the whole message: no traceback is needed to understand them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from lowrank.common.texts import printable


class _LinesError(Exception):
    """An error that is told in lines, each complete in itself.

    Args:
        lines: One line or several.
    """

    def __init__(self, lines: str | Iterable[str]) -> None:
        given = [lines] if isinstance(lines, str) else lines
        # Names of files and contents of foreign records stand in them.
        self.lines = [printable(line, None) for line in given]
        super().__init__("\n".join(self.lines))


class InputError(_LinesError):
    """Bad input: the lines say what was got and what is allowed. Exit code 2."""


def refuse(lines: Iterable[str]) -> None:
    """Refuses input of which there is something to say.

    Args:
        lines: On what is wrong.

    Raises:
        InputError: If there is a line.
    """
    if told := list(lines):
        raise InputError(told)


@contextmanager
def collected(lines: list[str]) -> Iterator[None]:
    """Lets a reader of input go on after what is wrong, as there may be more.

    Args:
        lines: What is told of it is added here.

    Yields:
        While a part is read.
    """
    try:
        yield
    except InputError as error:
        lines += error.lines


def first_line(error: object) -> str:
    r"""Returns the first line of what an error says, or its kind where it says nothing.

    Args:
        error: Of any program.

    Example:
        >>> first_line(ValueError("no\nmore")), first_line(KeyboardInterrupt())
        ('no', 'KeyboardInterrupt')
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class Failure(_LinesError):  # noqa: N818  # "failure" is what exit code 1 is called
    """Something outside the program went wrong: the lines say what and what to do. Exit code 1."""


def is_out_of_memory(error: BaseException) -> bool:
    """Tells whether an error says that there is no memory left.

    Args:
        error: Of Python, numpy or torch, which has an error of its own for GPUs only; or what
            `out_of_memory` has made of one.

    Returns:
        Whether it does.
    """
    if isinstance(error, Failure) and error.__cause__ is not None:
        return is_out_of_memory(error.__cause__)
    told = str(error)
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and ("allocate memory" in told or "out of memory" in told)
    )


@contextmanager
def out_of_memory(remedy: str) -> Iterator[None]:
    """Tells in a line what to do when the memory, of the machine or of a GPU, is exhausted.

    Args:
        remedy: What does not fit, and what would.

    Yields:
        For the work.

    Raises:
        Failure: If there was no memory left.
        RuntimeError: If torch fails for any other reason.

    Example:
        >>> with out_of_memory("batch_size=64 does not fit; use a smaller one"):
        ...     raise MemoryError
        Traceback (most recent call last):
        lowrank.common.errors.Failure: out of memory: batch_size=64 does not fit; use a smaller one
    """
    try:
        yield
    except MemoryError as error:
        raise Failure(f"out of memory: {remedy}") from error
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise Failure(f"out of memory: {remedy} ({str(error).splitlines()[0]})") from error
