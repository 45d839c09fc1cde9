"""The sweep that a run belongs to, as its record has it."""

from __future__ import annotations

from lowrank.common.wandb_paths import parts_of
from lowrank.runs.reader import Run


def sweep_of(run: Run) -> str | None:
    """Returns the sweep that a run is a point of.

    Args:
        run: The run.

    Returns:
        The name of a sweep without a server, or the path of one in W&B; None if it is of none, or
        its record is too old to tell.
    """
    name = run.config.get("sweep")
    if isinstance(name, str):
        return name
    found = [session["environment"].get("sweep") for session in run.sessions]
    return next((path for path in found if isinstance(path, str)), None)


def is_of(run: Run, sweep: str) -> bool:
    """Returns whether a run is a point of a sweep.

    Args:
        run: The run.
        sweep: A name; what the ids of a sweep without a server begin with, also as it prints them,
            ``9ivv6x-NNNN``; or the id, the path or the address of a W&B sweep.
    """
    own = sweep_of(run)
    if own is None or own == sweep:
        return own is not None
    if run.config.get("sweep") is not None:
        prefix, _, number = run.id.rpartition("-")
        return number.isdigit() and prefix == sweep.removesuffix("-NNNN")
    asked, held = parts_of(sweep, "sweep"), parts_of(own, "sweep")
    if not asked or not held:
        return False
    shared = min(len(asked), len(held))
    return asked[-shared:] == held[-shared:]
