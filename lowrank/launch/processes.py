"""Process trees that never outlive who started them, however that ends.

`Supervised` starts a command under a supervisor: this file, run as a program of its own. The
supervisor leads a session, so that its processes can be found even where their parents are gone,
and reads from a pipe that only the starter's end can close. It ends its tree when that pipe
closes (the starter was killed), and the starter ends the tree when the supervisor was killed.

``wandb agent`` puts its child into another process group, so that a group cannot be killed as one,
and wandb-core is a session of its own. On Linux the supervisor also adopts orphans
(PR_SET_CHILD_SUBREAPER), and so sees such processes too; macOS has nothing like it: there a
process that has left the session and lost its parent is not found.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from select import select
from typing import IO

import psutil

GRACE = 30.0
"""Seconds from a polite signal to SIGKILL; W&B's own ``WANDB_AGENT_KILL_DELAY`` is the same."""

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""What a supervisor passes on to its command, which then has `GRACE` to end."""

_PR_SET_CHILD_SUBREAPER = 36
_LOOK = 0.1  # seconds between two looks at a tree that is ending


class Supervised:
    """A command whose whole tree of processes ends with it, with this object and this process.

    SIGINT and SIGTERM sent to ``pid`` reach the command only: it is expected to pass them on to
    its own children, as a second signal would cut their orderly end short.

    Args:
        command: The program and its arguments.
        env: Its environment.
        log: Where its output goes.
        grace: Seconds that the tree has to end after a signal.
        pass_fds: File descriptors that the command inherits.

    Attributes:
        pid: The supervisor's; the id of the session as well.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        log: IO[bytes],
        grace: float = GRACE,
        pass_fds: Iterable[int] = (),
    ) -> None:
        inherited = list(pass_fds)
        lifeline, self._lifeline = os.pipe()
        # By its path, as the package may not be importable from where this runs; -P keeps the
        # names beside it from hiding others.
        supervisor = [sys.executable, "-P", str(Path(__file__).resolve())]
        arguments = [str(lifeline), str(grace), ",".join(map(str, inherited))]
        try:
            self._popen = subprocess.Popen(
                [*supervisor, *arguments, *command],
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(lifeline, *inherited),
                start_new_session=True,
            )
        finally:
            os.close(lifeline)
        self.pid = self._popen.pid

    def poll(self) -> int | None:
        """Returns the command's exit code, 128 + n after signal n; None while it runs.

        When there is a code, no process of the tree is left.
        """
        if self._popen.returncode is None:
            # It is looked at before it is reaped: as long as it is a zombie its number, which is
            # the session's too, belongs to nobody else.
            if psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE:
                return None
            self._bury()
        code = self._popen.returncode
        return 128 - code if code < 0 else code

    def send_signal(self, number: signal.Signals) -> None:
        """Sends a signal to the command through its supervisor.

        Args:
            number: SIGINT or SIGTERM.
        """
        if self._popen.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Ends the whole tree at once."""
        if self._popen.returncode is None:
            os.kill(self.pid, signal.SIGSTOP)  # it would answer each death
            self._bury()

    def _bury(self) -> None:
        """Ends what is left of the session and its leader, which is still there or a zombie."""
        _kill(self.pid)
        os.kill(self.pid, signal.SIGKILL)
        self._popen.wait()
        os.close(self._lifeline)


def _members(session: int) -> list[psutil.Process]:
    """Returns the living processes of a session but for its leader, and all descendants."""
    found: dict[int, psutil.Process] = {}
    for pid in psutil.pids():
        with contextlib.suppress(OSError, psutil.Error):
            if os.getsid(pid) == session:
                process = psutil.Process(pid)
                found |= {p.pid: p for p in (process, *process.children(recursive=True))}
    found.pop(session, None)
    return [process for process in found.values() if _is_alive(process)]


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _kill(session: int) -> None:
    """Kills the members of a session until none is left, but no longer than `GRACE`.

    One that hangs in the kernel, as on a dead network disk, cannot be waited for.
    """
    deadline = time.monotonic() + GRACE
    while (alive := _members(session)) and time.monotonic() < deadline:
        for process in alive:
            with contextlib.suppress(psutil.Error):
                process.kill()
        time.sleep(0.02)


class _Supervisor:
    """The supervisor's work.

    Args:
        lifeline: Reads as ended when the starter is gone.
        grace: Seconds that the tree has to end after a signal.
        command: The program and its arguments.
        pass_fds: File descriptors that it inherits.
    """

    def __init__(
        self, lifeline: int, grace: float, command: Sequence[str], pass_fds: Sequence[int]
    ) -> None:
        self._watched = [lifeline]
        self._grace = grace
        self._deadline: float | None = None
        self._code: int | None = None
        wakes, wake = os.pipe()
        os.set_blocking(wakes, False)
        os.set_blocking(wake, False)
        self._wakes = wakes
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for number in (*SIGNALS, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        self._child = subprocess.Popen(command, pass_fds=pass_fds)

    def run(self) -> int:
        """Waits until the tree has ended.

        Returns:
            The command's exit code, 128 + n after signal n.
        """
        self._reap()
        while self._code is None:
            left = None if self._deadline is None else self._deadline - time.monotonic()
            if left is not None and left <= 0:
                self._child.kill()
                left = None
            ready, _, _ = select([self._wakes, *self._watched], [], [], left)
            if self._wakes in ready:
                for number in os.read(self._wakes, 4096):
                    if number in SIGNALS:
                        self._end_politely(number)
            if set(self._watched) & set(ready):
                self._watched.clear()
                self._end_politely(signal.SIGTERM)
            self._reap()
        self._end_rest()
        return self._code

    def _end_politely(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._child.pid, number)
        self._deadline = self._deadline or time.monotonic() + self._grace

    def _end_rest(self) -> None:
        """Ends what the command left behind."""
        own = os.getpid()
        deadline = self._deadline or time.monotonic() + self._grace
        asked: set[int] = set()
        while rest := _members(own):
            if time.monotonic() > deadline:
                _kill(own)
                return
            for process in rest:
                # A wandb-core leads its own session. It ends with the process it works for, whose
                # last rows would be lost if it were to end before.
                with contextlib.suppress(OSError):
                    if process.pid not in asked and os.getsid(process.pid) == own:
                        asked.add(process.pid)
                        os.kill(process.pid, signal.SIGTERM)
            time.sleep(_LOOK)
            self._reap()

    def _reap(self) -> None:
        """Takes leave of ended children, adopted ones too."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid == self._child.pid:
                    code = os.waitstatus_to_exitcode(status)
                    self._child.returncode = code
                    self._code = 128 - code if code < 0 else code


def main(argv: Sequence[str]) -> int:
    """Supervises a command.

    Args:
        argv: The lifeline, the grace in seconds, inherited file descriptors with commas, and the
            command.

    Returns:
        The command's exit code.
    """
    lifeline, grace, pass_fds, *command = argv
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    inherited = [int(number) for number in pass_fds.split(",") if number]
    try:
        supervisor = _Supervisor(int(lifeline), float(grace), command, inherited)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        return 127
    return supervisor.run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
