"""One file per subcommand of lowrank, named as it; here is what several of them take."""

from __future__ import annotations

from typing import Any

from lowrank.config.options import option, word

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
        "a run directory, a directory of runs or a record.sqlite",
        f"which runs? for example: lowrank {command} runs",
    )


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
