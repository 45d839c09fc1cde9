"""One file per subcommand of lowrank, named as it; here is what several of them take."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from lowrank.common.errors import InputError
from lowrank.common.texts import printable
from lowrank.config.options import OptionError, option, word

SWEEP = "a sweep file, the name of a sweep without a server, or a W&B sweep's id or path"


def run_paths(command: str) -> Any:
    """Declares the runs that a command reads.

    Args:
        command: The subcommand.

    Returns:
        As `lowrank.config.options.word` does.
    """
    return word(
        "PATH",
        "a run directory, a directory of runs, a record.sqlite, or a run, sweep or project of W&B",
        f"which runs? for example: lowrank {command} runs",
    )


def file_to_write(option: str, path: Path, endings: Collection[str]) -> Path:
    """Checks where a command is to write a file.

    Args:
        option: Its name.
        path: The file.
        endings: Those that it may have, without a dot.

    Returns:
        The file.

    Raises:
        ValueError: If it has another ending.
        OptionError: If there is no directory for it.
    """
    if path.suffix.lower().removeprefix(".") not in endings:
        raise ValueError("another kind of file")
    if not path.parent.is_dir():
        where = printable(str(path.parent), 200)
        raise OptionError(f"{option}: there is no directory '{where}'")
    return path


def values_wanted() -> Any:
    """Declares that only runs with some values of their settings are meant; see `read_where`.

    Returns:
        As `lowrank.config.options.option` does.
    """
    return option(
        {},
        "only runs with these values: '{batch_size: 16, lr: [0.1, 0.2]}'",
        "MAPPING",
        "a mapping such as '{batch_size: 16}' or '{batch_size: [4, 8]}'",
    )


def read_where(given: Any) -> Any:
    """Reads what `values_wanted` declares.

    Args:
        given: The words behind the flag.

    Returns:
        Values by setting.

    Raises:
        OptionError: With a line for each thing that is wrong.
    """
    from lowrank.views.table.choice import where_of

    try:
        return where_of(given) if isinstance(given, str) else given
    except InputError as error:
        raise OptionError(*error.lines) from None


def one_sweep(more: str = "") -> Any:
    """Declares that only the runs of one sweep are meant.

    Args:
        more: What a sweep file is good for besides.

    Returns:
        As `lowrank.config.options.option` does.
    """
    return option(
        None,
        f"the runs of one sweep only: its file{more}, its name, or the id or path that W&B has for "
        "it",
        "SWEEP",
        SWEEP,
    )
