"""Processes that begin at the same moment, for what only one of them may do."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from typing import Any

_together: Barrier


def _begin(barrier: Barrier) -> None:
    global _together
    _together = barrier


def _wait_and_call(function: Callable[..., Any], *arguments: object) -> Any:
    _together.wait()
    return function(*arguments)


def at_once(function: Callable[..., Any], *arguments: object) -> list[Any]:
    """Calls a function in two processes; returns what each of them returned.

    They are spawned: a forked process hangs in torch if its parent already runs torch's threads.
    None of them outlives this call.
    """
    context = multiprocessing.get_context("spawn")
    with context.Pool(2, _begin, (context.Barrier(2),)) as pool:
        calls = pool.starmap_async(_wait_and_call, [(function, *arguments)] * 2, chunksize=1)
        return calls.get(timeout=120)
