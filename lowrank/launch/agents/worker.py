"""One slot as the launcher sees it, and the words for how what ran there ended."""

from __future__ import annotations

import json
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lowrank.launch.agents.packs import PackProcess
from lowrank.launch.agents.status import Point
from lowrank.launch.processes import Supervised
from lowrank.launch.slots import Slot

AGENT = Path(__file__).with_name("agent.py")
"""The program that is run in each slot."""

_LONGEST_PAUSE = 60.0  # seconds


class Worker:
    """One slot: its agent, the point it works on and what has become of earlier ones.

    Where points are trained in packs it is one of several with the same ``pack``.
    """

    def __init__(self, slot: Slot, log: Path, start_at: float, pack: PackProcess | None) -> None:
        self.slot = slot
        self.pack = pack
        self.pack_died = ""
        self.log = log
        self.start_at: float | None = start_at
        self.agent: Supervised | None = None
        self.channel: socket.socket | None = None
        self._unread = b""
        self.state = "waiting"
        self.asks = False
        self.granted = False
        self.handed: dict[str, Any] | None = None
        self.dismissed = False
        self.point: Point | None = None
        self.last_offset = 0
        self.done = 0
        self.failed = 0
        self.lost: list[str] = []
        self.interrupted: list[str] = []
        self.agent_failures = 0
        self.failures_in_a_row = 0
        self.stopped = False
        self.is_told = False

    @property
    def is_over(self) -> bool:
        """Whether nothing runs here and nothing will be started."""
        return self.agent is None and self.start_at is None

    def start(self, arguments: Sequence[str], environment: Mapping[str, str], grace: float) -> None:
        """Starts an agent.

        Args:
            arguments: Of its program, after the descriptor on which it reports.
            environment: Of its process.
            grace: Seconds that it has to end after a signal.
        """
        here, there = socket.socketpair()
        with there, self.log.open("ab") as log:
            self.last_offset = log.tell()
            self.agent = Supervised(
                [sys.executable, "-P", str(AGENT), str(there.fileno()), *arguments],
                env=environment,
                log=log,
                grace=grace,
                pass_fds=[there.fileno()],
            )
        here.setblocking(False)
        self.start_at, self.channel, self._unread = None, here, b""
        self.dismissed = self.asks = self.granted = False
        self.state = "starting"

    def reports(self) -> list[dict[str, Any]]:
        """Returns what the agent has reported since the last look, and hangs up if it is gone."""
        received = b""
        while self.channel is not None:
            try:
                more = self.channel.recv(65536)
            except BlockingIOError:
                break
            except OSError:
                more = b""
            received += more
            if not more:
                self.hang_up()
        *lines, self._unread = (self._unread + received).split(b"\n")
        return [json.loads(line) for line in lines]

    def hang_up(self) -> None:
        """Closes the channel, on which nothing more is to come."""
        if self.channel is not None:
            self.channel.close()
        self.channel, self.asks = None, False

    def answer(self, word: str) -> None:
        """Answers the agent, which has asked for a point.

        Args:
            word: The answer.
        """
        assert self.channel is not None
        self.asks = False
        try:
            self.channel.sendall(f"{word}\n".encode())
        except OSError:  # its agent has died, which the next look shows
            return


def pause(failures: int) -> float:
    """Returns the seconds before what failed is started again.

    Args:
        failures: In a row, 1 or more.
    """
    return min(_LONGEST_PAUSE, 5.0 * 2.0 ** (failures - 1))


def how_ended(code: int) -> str:
    """Returns how a process ended, in words.

    Args:
        code: Its exit code; negative, or above 128, for a signal.

    Example:
        >>> how_ended(-9), how_ended(2)
        ('killed by SIGKILL', 'exit code 2')
    """
    number = -code if code < 0 else code - 128
    try:
        return f"killed by {signal.Signals(number).name}"
    except ValueError:
        return f"exit code {code}"
