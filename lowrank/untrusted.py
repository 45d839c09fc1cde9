"""Texts and files of others: shown and not obeyed, read and not waited for."""

from __future__ import annotations

import errno
import json
import mmap
import os
import re
import stat
import unicodedata
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

ID = r"[A-Za-z0-9_-]{1,64}"
"""What an id of a run or a sweep looks like: it becomes part of paths."""

_OBEYED = ("Cc", "Cf", "Cs", "Zl", "Zp")  # Unicode's categories
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_GROWS = b"bytearray"
_NAME = re.compile(r"[A-Za-z0-9_.+-]*")  # calls nothing, also where it begins with a sign


def harmless(text: str) -> str:
    r"""Returns a text that a terminal shows and does not obey.

    Args:
        text: Anything, of several lines too.

    Returns:
        The text with escapes such as ``\x1b`` for control characters other than the line feed, for
        characters that change the direction of writing and for lone surrogates.

    Example:
        >>> print(harmless("red: \x1b[31m"))
        red: \x1b[31m
    """
    if text.isprintable():
        return text
    return "".join(
        c.encode("unicode_escape").decode()
        if c != "\n" and unicodedata.category(c) in _OBEYED
        else c
        for c in text
    )


def one_line(text: str) -> str:
    r"""Returns a text as `harmless` does, in one line.

    Args:
        text: Anything.

    Returns:
        One line.

    Example:
        >>> one_line("two\nlines")
        'two\\nlines'
    """
    return harmless(text).replace("\n", "\\n")


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
    return "".join(
        json.dumps(c)[1:-1] if c != "\n" and unicodedata.category(c) in _OBEYED else c for c in text
    )


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
    return one_line(f"'{value}" if is_formula else value)


def may_grow(file: BinaryIO) -> bool:
    """Returns whether what `torch.load` would make of a file can be larger than the file.

    What `torch.save` writes is not compressed, and tensors and numbers need no bytearray: that is
    the one thing beside tensors of which a few bytes can ask for any amount of memory.

    Args:
        file: The file, open; its position is changed.

    Returns:
        False also for what is no checkpoint.
    """
    size = file.seek(0, os.SEEK_END)
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > size:
                return True
            pickles = [entry for entry in entries if entry.filename.endswith(".pkl")]
            return any(_GROWS in archive.read(entry) for entry in pickles)
    except (zipfile.BadZipFile, ValueError, RuntimeError, EOFError):
        pass  # the format before torch 1.6, or damaged
    if not size:
        return False
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(_GROWS) >= 0


def open_file(path: str | Path) -> BinaryIO:
    """Opens a file for reading; what may have no end or no writer is refused.

    Args:
        path: The file.

    Returns:
        The file, open.

    Raises:
        IsADirectoryError: If it is a directory.
        OSError: If it cannot be opened, or is a pipe or a device.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe without writer would block
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "a pipe or a device, not a file", str(path))
