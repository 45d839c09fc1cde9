"""Texts: those of others, shown and not obeyed, and the words of messages."""

from __future__ import annotations

import csv
import difflib
import io
import json
import math
import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

ID = r"[A-Za-z0-9_-]{1,64}"
"""What an id of a run or a sweep looks like: it becomes part of paths."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_NAME = re.compile(r"[A-Za-z0-9_.+-]*")  # calls nothing, also where it begins with a sign


def to_json(value: Any, indent: int | None = None) -> str:
    r"""Returns JSON that a terminal shows and does not obey.

    Args:
        value: Of JSON's types.
        indent: As `json.dumps` takes it.

    Returns:
        The text; what a terminal would obey is escaped as JSON does it.

    Example:
        >>> print(to_json({"ε": "\x9b31m"}))
        {"ε": "\u009b31m"}
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """Returns rows as CSV, each value as `cell` gives it and nothing for None.

    Args:
        rows: The head among them.

    Returns:
        A line for each row.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(map(cell, row) for row in rows)
    return text.getvalue()


def cell(value: Any) -> Any:
    """Returns a value as a cell of a CSV file that a spreadsheet does not take for a formula.

    Args:
        value: Anything that is written to the file.

    Returns:
        A text of one line, with an apostrophe before it where a spreadsheet would compute it;
        everything that is no text as it is.

    Example:
        >>> cell("=1+1"), cell("-best_run"), cell(-0.5)
        ("'=1+1", '-best_run', -0.5)
    """
    if not isinstance(value, str):
        return value
    is_formula = value.startswith(_FORMULA) and not _NAME.fullmatch(value)
    return printable(f"'{value}" if is_formula else value, None)


def known(value: float) -> float | None:
    """Returns a number as a cell of a CSV file; None for NaN, where nothing is written.

    Args:
        value: A number, also one of numpy's.
    """
    return None if math.isnan(value) else float(value)


def printable(text: str, longest: int | None = 60, *, lines: bool = False) -> str:
    r"""Returns a text that a terminal shows and does not obey, by default for a line of a message.

    Args:
        text: Anything.
        longest: Characters that are left; None for all.
        lines: Whether the text may have several lines.

    Returns:
        The text with escapes such as ``\x1b`` for control characters, for characters that change
        the direction of writing, for lone surrogates and for spaces other than the usual one.

    Example:
        >>> print(printable("two\nlines"), printable("red: \x1b[31m"))
        two\nlines red: \x1b[31m
    """
    if longest is not None and len(text) > longest:
        text = f"{text[: longest - 12]}... ({len(text)} characters)"
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or (lines and c == "\n") else c.encode("unicode_escape").decode()
        for c in text
    )


def shortened(text: str, longest: int) -> str:
    """Returns a text that fits into a cell of a table.

    Args:
        text: Of one line.
        longest: Characters of the cell.

    Returns:
        The text, or its start with an ellipsis.

    Example:
        >>> shortened("layer4_0_conv1", 8)
        'layer4_…'
    """
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def wrapped(text: str, width: int, indent: str = "") -> list[str]:
    """Breaks a text into lines at spaces only: no word, flag or path is cut.

    Args:
        text: Of any length.
        width: Characters of a line, which a longer word exceeds.
        indent: What each line begins with.

    Returns:
        The lines; none of an empty text.

    Example:
        >>> wrapped("a run-record of --gpus=none", 12)
        ['a run-record', 'of', '--gpus=none']
    """
    return textwrap.wrap(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


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
        >>> nearest("resnet", ["resnet18", "resnet34"])
        ", did you mean 'resnet18'?"
    """
    names = list(allowed)
    begun = [each for each in names if len(name) > 2 and each.startswith(name)]
    matches = begun[:1] or difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f", did you mean {matches[0]!r}?" if matches else ""


def few(words: Sequence[str], most: int) -> str:
    """Returns a list of bearable length.

    Args:
        words: All.
        most: That are named.

    Returns:
        The first ones with commas, and how many more there are.

    Example:
        >>> few(["a", "b", "c"], 2)
        'a, b and 1 more'
    """
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more


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
