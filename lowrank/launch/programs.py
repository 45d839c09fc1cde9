"""The training program, found and loaded."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from lowrank.common.errors import InputError
from lowrank.common.texts import one_of

PROGRAM = "train.py"
DECLARED = "lowrank.config"
"""What a program imports that takes lowrank's settings as flags."""

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
        InputError: If there is none, or it is another project's: that is not run.
    """
    for place in places:
        if (place / PROGRAM).is_file():
            if not is_of_lowrank(place / PROGRAM):
                raise InputError(
                    f"{place / PROGRAM} is no training of lowrank, as it imports nothing of "
                    f"{DECLARED}, and was not run; start {command} where lowrank's {PROGRAM} lies"
                )
            return place / PROGRAM
    raise InputError(
        f"there is no {PROGRAM} in {one_of([*dict.fromkeys(map(str, places))])}; start {command} "
        "where it lies"
    )


def is_of_lowrank(path: Path) -> bool:
    """Returns whether a program takes lowrank's settings: it imports them, by its own words.

    Args:
        path: The program, which is read and not run.

    Raises:
        InputError: If it is no Python program.
    """
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} cannot be read as a Python program: {reason}") from error
    modules = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return any(module == DECLARED or module.startswith(f"{DECLARED}.") for module in modules)


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
