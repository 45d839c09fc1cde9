"""What a process loads before its first run, so that none waits for it."""

from __future__ import annotations

import gc

from lowrank.common.client import prepare_client
from lowrank.common.errors import InputError

KEPT_DATASETS = 2
"""Data sets that stay loaded; sweeps rarely go over more than one."""


def warm_up() -> list[str]:
    """Loads what the first run would load, and W&B's process.

    Returns:
        What is wrong with W&B's variables.
    """
    from lowrank.data.kept import KEPT
    from lowrank.training import trainer  # noqa: F401

    KEPT.limit = KEPT_DATASETS
    wrong = []
    try:
        prepare_client()
    except InputError as error:  # a run that is not tracked has no need of it
        wrong = error.lines
    settle()
    return wrong


def settle() -> None:
    """Keeps all objects of now out of later garbage collections.

    torch and wandb are a million objects: going through them takes as long as drawing a figure.
    """
    gc.collect()
    gc.freeze()
