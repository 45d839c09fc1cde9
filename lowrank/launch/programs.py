"""The training program, found and loaded."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowrank.common.errors import InputError
from lowrank.common.texts import one_of

if TYPE_CHECKING:
    from lowrank.training.requests import Request

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
    modules = []
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return any(module == DECLARED or module.startswith(f"{DECLARED}.") for module in modules)


def trains_packs(path: Path) -> bool:
    """Returns whether a program has the function ``train(requests)``, by its own words.

    Args:
        path: The program, which is read and not run.

    Raises:
        InputError: If it is no Python program.
    """
    return any(
        isinstance(node, ast.FunctionDef) and node.name == "train" for node in _tree(path).body
    )


def _tree(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} cannot be read as a Python program: {reason}") from error


def load_program(path: Path) -> Callable[[Sequence[str]], int]:
    """Loads a training program.

    Args:
        path: Of ``train.py``.

    Returns:
        Its ``main(argv)``, which returns the exit code.

    Raises:
        ImportError: If it is no Python program, or has no ``main``.
    """
    main: Callable[[Sequence[str]], int] = _function(path, "main(argv)")
    return main


def load_train(path: Path) -> Callable[[Sequence[Request]], list[int]]:
    """Loads a training program that trains packs.

    Args:
        path: Of ``train.py``.

    Returns:
        Its ``train(requests)``, which returns the exit code of each.

    Raises:
        InputError: If it is no Python program, or has no ``train``.
    """
    try:
        train: Callable[[Sequence[Request]], list[int]] = _function(path, "train(requests)")
    except ImportError as error:
        raise InputError(f"{error}: it trains no packs") from error
    return train


def _function(path: Path, call: str) -> Any:
    specification = importlib.util.spec_from_file_location(path.stem, path)
    if specification is None or specification.loader is None:
        raise ImportError(f"{path} is not a Python program")
    module = importlib.util.module_from_spec(specification)
    sys.modules[path.stem] = module
    sys.path.insert(0, str(path.parent))  # as Python itself does for a program
    specification.loader.exec_module(module)
    function = getattr(module, call.partition("(")[0], None)
    if not callable(function):
        raise ImportError(f"{path} has no function {call}")
    return function
