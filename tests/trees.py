"""Finds all processes that a test has started, whoever their parents are by now."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator

import psutil

VARIABLE = "LOWRANKS_TEST_MARK"


class Tree:
    """Processes with a mark in their environment, which they inherit.

    Attributes:
        environment: To start the first of them with.
    """

    def __init__(self) -> None:
        self._mark = uuid.uuid4().hex
        self.environment = {**os.environ, VARIABLE: self._mark}

    def alive(self, *words: str) -> list[psutil.Process]:
        """Returns those that live and have all these words in their command line."""
        return [
            process
            for process in psutil.process_iter()
            for command in self._command(process)
            if all(word in command for word in words)
        ]

    def _command(self, process: psutil.Process) -> Iterator[str]:
        with contextlib.suppress(psutil.Error):
            mine = process.environ().get(VARIABLE) == self._mark
            if mine and process.status() != psutil.STATUS_ZOMBIE:
                yield " ".join(process.cmdline())

    def kill(self) -> None:
        """Kills all of them."""
        for process in self.alive():
            with contextlib.suppress(psutil.Error):
                process.kill()
