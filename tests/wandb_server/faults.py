"""Faults of a server, for a time: connections refused or hung, and answers with an HTTP status."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field


@dataclass
class Fault:
    """One fault.

    Attributes:
        kind: ``refuse``, ``hang`` or an HTTP status such as ``500``.
        where: Only requests whose path, or path and GraphQL operation, contain this; a refused
            connection concerns all.
        until: Time of `time.monotonic` at which it ends.
        over: Set when it ends.
        met: Paths and operations of the requests that met it.
    """

    kind: str | int
    where: str = ""
    until: float = float("inf")
    over: threading.Event = field(default_factory=threading.Event)
    met: list[str] = field(default_factory=list)

    def concerns(self, request: str) -> bool:
        """Returns whether a request meets the fault now, and notes it."""
        here = not self.over.is_set() and time.monotonic() < self.until and self.where in request
        if here:
            self.met.append(request)
        return here

    def wait(self) -> None:
        """Returns when the fault is over."""
        self.over.wait(max(0.0, min(self.until - time.monotonic(), threading.TIMEOUT_MAX)))
