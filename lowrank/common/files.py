"""Files: written whole or not at all, read and not waited for."""

from __future__ import annotations

import errno
import mmap
import os
import stat
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from lowrank.common.errors import Failure, InputError
from lowrank.common.texts import printable

_GROWS = b"bytearray"


UNFINISHED = ".new"
"""What follows the name of a file that is being written; a kill may leave it there."""


@contextmanager
def replacing(path: Path, *, alone: bool = False) -> Iterator[Path]:
    """Lets a file be written elsewhere, and puts it in its place in one step if that went well.

    A process killed at any moment, or a power cut, leaves the old file or the new one.

    Args:
        path: The file; an older one is replaced.
        alone: Whether no other process writes it. Then what a killed one left is removed.

    Yields:
        Where to write. It is removed if an exception comes.

    Raises:
        OSError: If it cannot take its place.
    """
    name = path.name if alone else f".{path.name}.{uuid.uuid4().hex}"
    new = path.with_name(f"{name}{UNFINISHED}")
    try:
        new.unlink(missing_ok=True)
        yield new
        _sync(new)
        new.replace(path)
        _sync(path.parent)
    finally:
        with suppress(OSError):
            new.unlink(missing_ok=True)


def write_atomically(path: Path, text: str) -> None:
    """Writes a text file so that it is there whole or not at all.

    Args:
        path: Replaced if it exists. One process at a time writes it.
        text: Written as UTF-8.

    Raises:
        Failure: If it cannot be written, for example on a full disk.
    """
    try:
        with replacing(path, alone=True) as new:
            new.write_text(text, encoding="utf-8")
    except OSError as error:
        raise Failure(
            f"{path}: cannot be written ({error.strerror}); make room or give write access and "
            "start the same command again"
        ) from error


@contextmanager
def writing(option: str, path: str | Path) -> Iterator[None]:
    """Tells in a line where the file that an option names cannot be written.

    Args:
        option: Its name.
        path: The file.

    Yields:
        While it is written.

    Raises:
        InputError: If it cannot be written.
    """
    try:
        yield
    except OSError as error:
        where = printable(str(path), 200)
        raise InputError(f"{option}: cannot write {where} ({error.strerror})") from error


def _sync(path: Path) -> None:
    """Makes what was written, or renamed in a directory, durable where the file system can.

    Raises:
        OSError: If the disk fails.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems cannot sync a directory
            raise
    finally:
        os.close(descriptor)


def expanded(path: str | Path) -> Path:
    """Returns a path as the user means it: ``~`` is a home directory.

    Args:
        path: As it was given.

    Returns:
        The path, with the directory in place of ``~`` and ``~user``.

    Raises:
        InputError: If no such home directory is known.
    """
    try:
        return Path(path).expanduser()
    except (RuntimeError, ValueError):  # the latter: a null byte
        user = Path(path).parts[0]
        raise InputError(
            f"got '{path}', but no home directory of {'this user' if user == '~' else user[1:]} is "
            f"known here; give a whole path, or ./{user} for what lies here under that name"
        ) from None


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
