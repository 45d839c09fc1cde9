"""Work beside the training: an epoch is measured and written while the next one trains."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

import torch


class Background:
    """One thread that has at most one job, and whose errors become those of who waits for it.

    Args:
        threads: Of torch's operations in it.

    Attributes:
        is_abandoned: Whether nobody wants what the present job has not done yet.

    Example:
        >>> done = []
        >>> with Background(threads=1) as background:
        ...     background.submit(lambda: done.append("measured"))
        ...     background.wait()
        >>> done
        ['measured']
    """

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(1, "epoch", torch.set_num_threads, (threads,))
        self._job: Future[None] | None = None
        self.is_abandoned = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        # A failure of the training takes nothing from the record of the epoch before.
        self.is_abandoned = isinstance(error[1], KeyboardInterrupt)
        self._pool.shutdown(wait=True)

    def submit(self, work: Callable[[], None]) -> None:
        """Waits for the job before, then begins one.

        On a GPU the job uses a stream of its own, which begins after what was asked of the present
        one: so it need not wait for the steps that follow.

        Args:
            work: To be done.

        Raises:
            Exception: What the job before raised.
        """
        self.wait()
        self._job = self._pool.submit(_beside(work) if torch.cuda.is_initialized() else work)

    def wait(self) -> None:
        """Waits until nothing is being done.

        Raises:
            Exception: What the job raised.
        """
        job, self._job = self._job, None
        if job is not None:
            job.result()

    @property
    def has_failed(self) -> bool:
        """Whether the job has ended with an error, which `wait` raises."""
        return self._job is not None and self._job.done() and self._job.exception() is not None


def _beside(work: Callable[[], None]) -> Callable[[], None]:
    ready = torch.cuda.Event()
    ready.record()

    def work_beside() -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            torch.cuda.current_stream().wait_event(ready)
            work()

    return work_beside
