"""A turn in a process of its own, which nothing that ours sets for its process reaches."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

from benchmarks.timing import Turn
from lowrank.common.errors import Failure


class Apart:
    """Makes a turn in a new process, and runs it there each time it is called.

    Args:
        make: Gives the turn; a function of a module, as its name is sent.
        *arguments: Of ``make``.

    Raises:
        Failure: If the process ends before the turn is made; so does a call.
    """

    def __init__(self, make: Callable[..., Turn], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, arguments))
        self._process.start()
        theirs.close()
        self._name = make.__name__
        self._wait()

    def __call__(self) -> None:
        """Runs the turn."""
        self._connection.send(None)
        self._wait()

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Ends the process."""
        self._connection.close()
        self._process.join()

    def _wait(self) -> None:
        try:
            self._connection.recv()
        except EOFError:
            self._process.join()
            raise Failure(f"{self._name}: exit code {self._process.exitcode}") from None


def _serve(connection: Connection, make: Callable[..., Turn], arguments: tuple[Any, ...]) -> None:
    # A spawned process would spawn its own; a DataLoader's workers are to start as they usually do.
    multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)
    turn = make(*arguments)
    connection.send(None)
    while True:
        try:
            connection.recv()
        except EOFError:
            return
        turn()
        connection.send(None)
