"""The warm workers of one launcher, seen from the launcher: one per slot."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lowrank.common.errors import InputError
from lowrank.launch.processes import Supervised
from lowrank.launch.slots import Slot

STOPPING = 120.0
"""Seconds that a run has to write its checkpoint after a signal."""

_PAUSE = 0.02  # seconds between two looks at a process that is ending
_TOP = Path(__file__).resolve().parents[3]
_OF_AGENTS = ("WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH", "WANDB_RUN_ID", "WANDB_MODE")


class Worker:
    """One warm process, replaced when it dies.

    Args:
        slot: Where it computes.
        program: The training program.
        log: File for what it prints between runs.
        tracked: Whether W&B is used.

    Attributes:
        slot: As given.
        log: As given.
        ready: Whether it has loaded everything and waits.
        pid: Of the process that trains; None until it is ready.
    """

    def __init__(self, slot: Slot, program: Path, log: Path, *, tracked: bool) -> None:
        self.slot = slot
        self._program = program
        self._tracked = tracked
        self.log = log
        self.start()

    def start(self) -> None:
        """Starts the process."""
        self.ready = False
        self.pid: int | None = None
        self._ended = self._released = self._closed = False
        self._buffer = b""
        requests, self._requests = os.pipe()
        self._replies, replies = os.pipe()
        os.set_blocking(self._replies, False)
        command = [sys.executable, "-P", "-m", "lowrank.launch.sweeps.worker"]
        try:
            with self.log.open("ab") as log:
                self._process = Supervised(
                    [*command, str(requests), str(replies), str(self._program)],
                    env=self._environment(),
                    log=log,
                    grace=STOPPING,
                    pass_fds=(requests, replies),
                )
        finally:
            os.close(requests)
            os.close(replies)

    def fileno(self) -> int:
        """Returns what becomes readable when the worker has something to say."""
        return self._replies

    def send(self, argv: Sequence[str], log: Path) -> None:
        """Lets the worker train a point or a pack.

        Args:
            argv: Of the program.
            log: File for what it prints.
        """
        self._ask({"argv": list(argv), "log": str(log)})

    def estimate(self, kinds: Mapping[str, Sequence[str]], sharing: int) -> None:
        """Lets the worker estimate how many runs fit into its memory as one pack.

        Args:
            kinds: The arguments of one of them, by kind.
            sharing: Workers that share the memory.
        """
        self._ask({"estimate": kinds, "sharing": sharing})

    def _ask(self, request: Mapping[str, Any]) -> None:
        line = json.dumps(request).encode() + b"\n"
        with contextlib.suppress(BrokenPipeError):  # it has died; `replies` will say so
            while line:
                line = line[os.write(self._requests, line) :]

    def replies(self) -> list[dict[str, Any]]:
        """Returns what the worker has said since the last call.

        Returns:
            Its messages; the last is ``{"died": EXIT_CODE}`` if it has.

        Raises:
            InputError: If the program cannot be used, or W&B's variables where it is.
        """
        over = False
        while not over:
            try:
                chunk = os.read(self._replies, 65536)
            except BlockingIOError:
                break
            over = not chunk
            self._buffer += chunk
        *lines, self._buffer = self._buffer.split(b"\n")
        messages = [json.loads(line) for line in lines]
        for message in messages:
            if "broken" in message:
                raise InputError(f"program: {message['broken']}")
            if "ready" in message:
                if self._tracked and message["wrong"]:
                    raise InputError(message["wrong"])
                self.ready, self.pid = True, message["ready"]
        if over and not self._ended:
            self._ended = True
            messages.append({"died": self._exit_code()})
        return [message for message in messages if "ready" not in message]

    def interrupt(self) -> None:
        """Asks the run to write its checkpoint and the process to end."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def stop_run(self) -> None:
        """Asks the run, and only it, to write its checkpoint and to end."""
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    def _exit_code(self) -> int:
        """Returns how the process ended: it has let go of its pipes, and is about to be gone."""
        while (code := self._process.poll()) is None:
            time.sleep(_PAUSE)
        return code

    def kill(self) -> None:
        """Ends the process at once; `start` begins another."""
        self.release()
        if self._process.poll() is None:
            self._process.kill()
        if not self._closed:
            os.close(self._replies)
            self._closed = True

    def release(self) -> None:
        """Lets the process end when it has nothing left to do."""
        if not self._released:
            os.close(self._requests)
            self._released = True

    def close(self) -> None:
        """Waits for the process to end by itself, if it is `ready` to."""
        self.release()
        while self.ready and not self._ended and self._process.poll() is None:
            time.sleep(_PAUSE)
        self.kill()

    def _environment(self) -> Mapping[str, str]:
        environment = {n: value for n, value in os.environ.items() if n not in _OF_AGENTS}
        path = [str(_TOP), *filter(None, [environment.get("PYTHONPATH")])]
        return {**environment, **self.slot.environment(), "PYTHONPATH": os.pathsep.join(path)}


@contextlib.contextmanager
def workers_on(
    slots: Sequence[Slot], program: Path, logs: Path, *, tracked: bool
) -> Iterator[list[Worker]]:
    """Starts a worker on every slot; none outlives the context.

    Args:
        slots: Where.
        program: The training program.
        logs: Folder for what they print between runs.
        tracked: Whether W&B is used.

    Yields:
        The workers. On an exception they are killed, else they end by themselves.
    """
    logs.mkdir(parents=True, exist_ok=True)
    workers: list[Worker] = []
    try:
        # As they are made, not at once: one that fails to start must not leave the others behind.
        workers.extend(
            Worker(slot, program, logs / f"worker-{slot.name}.log", tracked=tracked)
            for slot in slots
        )
        yield workers
        for worker in workers:
            worker.release()
        for worker in workers:
            worker.close()
    finally:
        for worker in workers:
            worker.kill()
