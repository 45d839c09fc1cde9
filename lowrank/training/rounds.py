"""Batches that a GPU goes through by itself: several in a round, recorded once as a CUDA graph.

What the host would start operation by operation, it starts once a round then, from the gathering
of the images to the update of the weights. A round reads which images are in its batches from one
tensor, and all else from where it was when it was recorded: weights, rates, sums. It leaves
nothing in its own memory that is read later.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

SECONDS = 0.1
"""That a round takes, about: a signal is answered after two."""

MOST = 64
"""Batches of a round, at most: recording starts each operation of each once."""


@dataclass(frozen=True)
class _Round:
    batches: int
    window: Tensor
    graph: torch.cuda.CUDAGraph


class Rounds:
    """Goes through the batches of an order: one at a time, or recorded in rounds of several.

    Args:
        work: Given the part of an order that is one batch. To be recorded it must read and change
            the same tensors in every call, wait for nothing, and keep nothing that it makes.
        batch_size: Examples of a whole batch.

    Example:
        >>> taken = []
        >>> rounds = Rounds(lambda part: taken.append(part.tolist()), batch_size=2)
        >>> rounds.take(torch.arange(5)[None], first=1, until=3), taken
        (1, [[[2, 3]]])
    """

    def __init__(self, work: Callable[[Tensor], None], batch_size: int) -> None:
        self._work = work
        self._size = batch_size
        self._rounds: list[_Round] = []  # the longest first
        self._before: torch.cuda.Event | None = None

    def record(self, order: Tensor, pool: Any = None) -> Any:
        """Records rounds of whole batches on the current CUDA device.

        Their work is done a few times: the caller puts back what that changes.

        Args:
            order: Of the shape of those to come.
            pool: Memory of other rounds, which are never under way at the same time; or None.

        Returns:
            The memory of these.

        Raises:
            OutOfMemoryError: If the device's memory is exhausted.
        """
        whole = order.shape[-1] // self._size
        if whole == 0:
            return pool
        one = self._recorded(1, order, pool)
        pool = one.graph.pool()
        torch.cuda.synchronize(order.device)
        started = time.perf_counter()
        one.graph.replay()
        torch.cuda.synchronize(order.device)
        count = min(whole, MOST, int(SECONDS / (time.perf_counter() - started)))
        longer = [self._recorded(count, order, pool)] if count > 1 else []
        self._rounds = [*longer, one]
        return pool

    def take(self, order: Tensor, first: int, until: int) -> int:
        """Does the work of the next batches.

        At most two rounds are under way when it returns: their work is done in order.

        Args:
            order: From `lowrank.data.batches.Batches.draw_order`, or several of one shape.
            first: The first batch.
            until: The batch before which to end, at most the number of batches.

        Returns:
            How many batches were taken, 1 or more. A short last one is taken alone, and not as
            recorded.
        """
        whole = min(until, order.shape[-1] // self._size) - first
        for each in self._rounds:
            if each.batches <= whole:
                each.window.copy_(self._part(order, first, each.batches))
                each.graph.replay()
                self._wait()
                return each.batches
        self._work(self._part(order, first))
        return 1

    def _part(self, order: Tensor, first: int, batches: int = 1) -> Tensor:
        return order[..., first * self._size : (first + batches) * self._size]

    def _recorded(self, batches: int, order: Tensor, pool: Any) -> _Round:
        window = self._part(order, 0, batches).clone()

        def work() -> None:
            for place in range(batches):
                self._work(self._part(window, place))

        return _Round(batches, window, record(work, pool))

    def _wait(self) -> None:
        """Waits for the round before the one that was begun."""
        before, self._before = self._before, torch.cuda.Event()
        self._before.record()
        if before is not None:
            before.synchronize()


def record(work: Callable[[], None], pool: Any = None) -> torch.cuda.CUDAGraph:
    """Records what is done on the current CUDA device.

    Args:
        work: Done once to warm up, then recorded.
        pool: As for `Rounds.record`.

    Returns:
        A graph that does it again.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        work()
    return graph
