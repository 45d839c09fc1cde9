"""Errors whose lines are the whole message: no traceback is needed to understand them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class _LinesError(Exception):
    """An error that is told in lines, each complete in itself.

    Args:
        lines: One line or several.
    """

    def __init__(self, lines: str | Iterable[str]) -> None:
        self.lines = [lines] if isinstance(lines, str) else list(lines)
        super().__init__("\n".join(self.lines))


class InputError(_LinesError):
    """Bad input: the lines say what was got and what is allowed. Exit code 2."""


class Failure(_LinesError):  # noqa: N818  # "failure" is what exit code 1 is called
    """Something outside the program went wrong: the lines say what and what to do. Exit code 1."""


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Returns the end of a sentence that proposes the most similar allowed name.

    Args:
        name: What was given.
        allowed: The valid names.

    Returns:
        ``", did you mean 'lr'?"`` or, where nothing is similar, an empty string.

    Example:
        >>> "unknown name 'weight_dcay'" + nearest("weight_dcay", ["lr", "weight_decay"])
        "unknown name 'weight_dcay', did you mean 'weight_decay'?"
    """
    matches = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.6)
    return f", did you mean {matches[0]!r}?" if matches else ""


def one_of(words: Sequence[str]) -> str:
    """Returns alternatives as a sentence has them.

    Args:
        words: At least one.

    Returns:
        The words with commas and "or".

    Example:
        >>> one_of(["mlp", "convnet", "vit"])
        'mlp, convnet or vit'
    """
    return ", ".join(words[:-1]) + " or " + words[-1] if len(words) > 1 else words[0]
