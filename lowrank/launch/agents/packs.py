"""The process that trains the pack of one slot, seen from the launcher."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from signal import Signals

from lowrank.common.terminal import duration
from lowrank.launch.agents.status import named
from lowrank.launch.processes import Supervised
from lowrank.launch.slots import Slot

MODULE = "lowrank.launch.agents.pack"
"""The program of the process."""


@dataclass(frozen=True)
class Failed:
    """A member that failed.

    Attributes:
        run_id: Of its run.
        how: In words.
        started: When, of `time.monotonic`.
        ended: Likewise.
    """

    run_id: str
    how: str
    started: float
    ended: float = field(default_factory=time.monotonic)


def told(failed: Sequence[Failed]) -> list[str]:
    """Returns a line for each way in which members of a pack failed.

    Args:
        failed: The members.

    Example:
        >>> told([Failed("a", "exit code 2", 0, 7), Failed("b", "exit code 2", 0, 8)])
        ['2 runs failed after 0:08: exit code 2: a, b']
        >>> told([Failed("a", "exit code 2", 0, 7)])
        ['run a failed after 0:07: exit code 2']
    """
    alike: dict[str, list[Failed]] = {}
    for each in failed:
        alike.setdefault(each.how, []).append(each)
    lines = []
    for how, members in alike.items():
        after = f"failed after {duration(max(each.ended - each.started for each in members))}"
        if len(members) == 1:
            lines.append(f"run {members[0].run_id} {after}: {how}")
        else:
            names = named([each.run_id for each in members])
            lines.append(f"{len(members)} runs {after}: {how}: {names}")
    return lines


class PackProcess:
    """Starts the process, also again after it has died.

    Agents' children connect to a socket that is held here, so that they wait for the process
    whether it loads, trains or begins anew.

    Args:
        slot: Where it computes.
        program: The training program.
        size: Members of a pack.
        log: Where its output goes.
        environment: Of the process.
        grace: Seconds that it has to end after a signal.
        address: Path of the socket.

    Attributes:
        slot: As given.
        log: As given.
        address: As given.
        failures: In a row; the caller counts them.
        log_offset: Where the output of the present process begins.
        untold: Members that failed and of which nobody has been told.
    """

    def __init__(
        self,
        slot: Slot,
        program: Path,
        size: int,
        *,
        log: Path,
        environment: Mapping[str, str],
        grace: float,
        address: Path,
    ) -> None:
        self.slot = slot
        self.log = log
        self.address = address
        self.failures = self.log_offset = 0
        self.untold: list[Failed] = []
        self._arguments = [str(program), str(size)]
        self._environment = environment
        self._grace = grace
        self._start_at: float | None = time.monotonic()
        self._process: Supervised | None = None
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(address))
        self._listener.listen(size)

    @property
    def is_over(self) -> bool:
        """Whether it neither runs nor will."""
        return self._process is None and self._start_at is None

    def poll(self) -> int | None:
        """Starts the process if that is due.

        Returns:
            Its exit code, once, when it has ended.
        """
        if self._start_at is not None and self._start_at <= time.monotonic():
            self._start()
        code = None if self._process is None else self._process.poll()
        if code is not None:
            self._process = None
        return code

    def _start(self) -> None:
        self._start_at = None
        descriptor = self._listener.fileno()
        with self.log.open("ab") as log:
            self.log_offset = log.tell()
            self._process = Supervised(
                [sys.executable, "-P", "-m", MODULE, str(descriptor), *self._arguments],
                env=self._environment,
                log=log,
                grace=self._grace,
                pass_fds=[descriptor],
            )

    def start_again(self, pause: float) -> None:
        """Lets the process start again.

        Args:
            pause: Seconds until then.
        """
        self._start_at = time.monotonic() + pause

    def end(self, number: Signals) -> None:
        """Lets all members end; whoever still connects is refused.

        Args:
            number: SIGINT or SIGTERM.
        """
        self._start_at = None
        self._listener.close()
        self.address.unlink(missing_ok=True)
        if self._process is not None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """Ends the process at once."""
        if self._process is not None:
            self._process.kill()
