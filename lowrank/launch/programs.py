"""The training program, found and loaded."""

from __future__ import annotations

from pathlib import Path

from lowrank.common.errors import InputError

PROGRAM = "train.py"


def find_program(file: Path) -> Path:
    """Finds the training program of a sweep.

    Args:
        file: The sweep file.

    Returns:
        ``train.py`` in the working directory, else beside the file or one above it.

    Raises:
        InputError: If there is none.
    """
    places = [Path.cwd(), file.resolve().parent, file.resolve().parent.parent]
    for place in places:
        if (place / PROGRAM).is_file():
            return place / PROGRAM
    raise InputError(
        f"{file}: there is no {PROGRAM} in {', '.join(map(str, dict.fromkeys(places)))}; start "
        "lowrank sweep where it lies"
    )
