"""The training program, found and loaded."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from lowrank.common.errors import InputError
from lowrank.common.texts import one_of

PROGRAM = "train.py"
BESIDE_PACKAGE = Path(__file__).resolve().parents[2]
"""Where the program of this package's commit lies, if it is not installed elsewhere."""


def find_program(*places: Path, command: str) -> Path:
    """Finds the training program.

    Args:
        *places: Directories, the first that holds it counts.
        command: Who looks for it.

    Returns:
        ``train.py`` there.

    Raises:
        InputError: If there is none.
    """
    for place in places:
        if (place / PROGRAM).is_file():
            return place / PROGRAM
    raise InputError(
        f"there is no {PROGRAM} in {one_of([*dict.fromkeys(map(str, places))])}; start {command} "
        "where it lies"
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
