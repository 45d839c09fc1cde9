"""Files that are there whole or not at all."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def unfinished(path: Path) -> Path:
    """Returns where the only writer of a file puts it until it is whole; a kill may leave it there.

    Args:
        path: The file.
    """
    return path.with_name(f"{path.name}.new")


@contextmanager
def replacing(path: Path, *, alone: bool = False) -> Iterator[Path]:
    """Lets a file be written elsewhere, and puts it in its place in one step if that went well.

    Args:
        path: The file; an older one is replaced.
        alone: Whether no other process writes it. Then what a killed one left is overwritten.

    Yields:
        Where to write. It is removed if an exception comes.

    Raises:
        OSError: If it cannot take its place.
    """
    new = unfinished(path) if alone else path.with_name(f".{path.name}.{uuid.uuid4().hex}.new")
    try:
        yield new
        new.replace(path)
    finally:
        with suppress(OSError):
            new.unlink(missing_ok=True)
