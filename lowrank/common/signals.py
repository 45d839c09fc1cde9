"""Ctrl-C, SIGTERM, SIGUSR1: at once before and after training, between two steps during it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

REQUEUE = 75
"""Exit code after SIGUSR1, with which SLURM announces that a job's time is up."""


class Interrupted(KeyboardInterrupt):
    """A signal ends the program.

    Args:
        exit_code: The shell's code for it.
    """

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"exit code {exit_code}")
        self.exit_code = exit_code


class Interruption:
    """Context in which `SIGNALS` raise `Interrupted`, or are noted for later.

    Within ``deferred()`` the first signal is only noted, for a loop to ask after with
    ``proceed()``; a second one raises. Outside the main thread, where Python delivers no signals,
    the context does nothing, and a signal that the caller ignores stays ignored.

    Example:
        >>> with Interruption() as interruption, interruption.deferred():
        ...     signal.raise_signal(signal.SIGTERM)
        ...     interruption.proceed(), interruption.exit_code
        (False, 143)
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._deferred = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._answer)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Lets a first signal wait while the context is open.

        Yields:
            While signals are noted.
        """
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def _answer(self, number: int, _frame: FrameType | None) -> None:
        waits = self._deferred and self.signal is None
        self.signal = signal.Signals(number)
        if not waits:
            raise Interrupted(self.exit_code)

    def proceed(self) -> bool:
        """Returns whether work should go on: no signal has arrived."""
        return self.signal is None

    @property
    def name(self) -> str:
        """Of the signal that arrived; empty without one."""
        return "" if self.signal is None else self.signal.name

    @property
    def exit_code(self) -> int:
        """130 for Ctrl-C, 143 for SIGTERM, `REQUEUE` for SIGUSR1; 0 without a signal."""
        if self.signal == signal.SIGUSR1:
            return REQUEUE
        return 0 if self.signal is None else 128 + self.signal
