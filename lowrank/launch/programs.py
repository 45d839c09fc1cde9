"""The training program, found and loaded."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
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


def load_program(path: Path) -> Callable[[Sequence[str]], int]:
    """Loads a training program.

    Args:
        path: Of ``train.py``.

    Returns:
        Its ``main(argv)``, which returns the exit code.

    Raises:
        ImportError: If it is no Python program, or has no ``main``.
    """
    specification = importlib.util.spec_from_file_location(path.stem, path)
    if specification is None or specification.loader is None:
        raise ImportError(f"{path} is not a Python program")
    module = importlib.util.module_from_spec(specification)
    sys.modules[path.stem] = module
    sys.path.insert(0, str(path.parent))  # as Python itself does for a program
    specification.loader.exec_module(module)
    if not callable(getattr(module, "main", None)):
        raise ImportError(f"{path} has no function main(argv)")
    main: Callable[[Sequence[str]], int] = module.main
    return main
