"""One process that trains what all W&B agents of a slot ask for, as few batched computations.

Run as ``python -m lowrank.launch.agents.pack DESCRIPTOR PROGRAM SIZE``: a listening socket, to
which the agents' children connect (`lowrank.launch.agents.member`), the training program, and how
many agents there are. What may be one computation (`lowrank.config.packs`) is given to the
program's ``train`` at once. SIGINT and SIGTERM end all members at the same step.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lowrank.common import program
from lowrank.common.errors import InputError, is_out_of_memory
from lowrank.common.program import exit_code_of
from lowrank.common.terminal import say
from lowrank.config.arguments import parse
from lowrank.config.packs import pack_key, unpackable
from lowrank.launch.programs import load_train
from lowrank.launch.warm import warm_up
from lowrank.training.requests import Request

GATHER = 5.0
"""Seconds after the latest request in which one more may join it."""

_END = b"\0\n"  # what no program prints: all lines before it have been passed on

Train = Callable[[Sequence[Request]], list[int]]


class Member:
    """A run that is asked for.

    Args:
        connection: To who asks.
        words: What was asked.

    Attributes:
        number: Of the signal that asks this run to end.
        run_id: The run's.
        code: What was answered; None while the run has not ended.
    """

    def __init__(self, connection: socket.socket, words: dict[str, Any]) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self.program = Path(words["program"])
        self.arguments: list[str] = words["arguments"]
        self.variables: dict[str, str] = words["variables"]
        self.run_id = self.variables.get("WANDB_RUN_ID", "")
        self.number: int | None = None
        self.code: int | None = None
        self.request: Request | None = None

    def tell(self, **what: Any) -> None:
        """Sends one line to who asks, who may be gone; nothing after the last.

        Args:
            **what: ``text`` to be printed, or ``code``, the last.
        """
        with self._lock, contextlib.suppress(OSError):
            if self.code is not None:
                return
            self.code = what.get("code")
            self._connection.sendall(json.dumps(what).encode() + b"\n")
            if self.code is not None:
                self._connection.shutdown(socket.SHUT_RDWR)


class Output:
    """What this process prints: in its log, and with those members whom it concerns.

    Attributes:
        members: Those that are trained. A line that begins with the id of one is that one's, any
            other is everyone's.
    """

    def __init__(self) -> None:
        self.members: Sequence[Member] = ()
        self._log = os.dup(1)
        self._settled = threading.Event()
        reads, writes = os.pipe()
        for standard in (1, 2):
            os.dup2(writes, standard)
        os.close(writes)
        # The old ones take the pipe for the file that was there before.
        sys.stdout, sys.stderr = (
            os.fdopen(standard, "w", 1, encoding="utf-8", errors="replace", closefd=False)
            for standard in (1, 2)
        )
        threading.Thread(target=self._pass_on, args=(reads,), daemon=True).start()

    def _pass_on(self, reads: int) -> None:
        with os.fdopen(reads, "rb") as lines:
            for line in lines:
                if line.endswith(_END):
                    self._settled.set()
                    line = line.removesuffix(_END)
                if not line:
                    continue
                with contextlib.suppress(OSError):  # a full disk
                    os.write(self._log, line)
                text = line.decode(errors="replace").rstrip("\n")
                for member in concerned(text, self.members):
                    member.tell(text=text)

    def settle(self) -> None:
        """Waits until everything that was printed has been passed on."""
        self._settled.clear()
        sys.stdout.flush()
        os.write(1, _END)
        self._settled.wait(10)


def concerned(text: str, members: Sequence[Member]) -> list[Member]:
    """Returns the members whom a printed line concerns: the one that it begins with, or all.

    Args:
        text: The line.
        members: Of the pack.
    """
    words = [word.strip(":,[]") for word in text.split(maxsplit=2)[:2]]
    named = words[1:] if words[:1] == ["run"] else words[:1]
    return [member for member in members if member.run_id in named] or list(members)


class Pack:
    """Trains what is asked for.

    Args:
        listener: Where it is asked for.
        program: The training program.
        train: Its function.
        size: Members of a pack at most.
        output: What is printed.
    """

    def __init__(
        self, listener: socket.socket, program: Path, train: Train, size: int, output: Output
    ) -> None:
        self._program = program
        self._train = train
        self._size = size
        self._output = output
        self._ending: int | None = None
        self._limits: dict[object, int] = {}
        self._waiting: list[Member] = []
        self._latest = 0.0
        self._changed = threading.Condition()
        wakes, wake = os.pipe()
        os.set_blocking(wake, False)
        # It hears of signals whoever answers them: while there is training, that is the training.
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        for function, argument in ((self._hear, wakes), (self._accept, listener)):
            threading.Thread(target=function, args=(argument,), daemon=True).start()

    def serve(self) -> int:
        """Trains until a signal comes, or the device may be broken.

        Returns:
            The exit code: 1 if it may be, with which those who still wait are not answered.
        """
        while members := self._gather():
            if not all(self._train_group(group) for group in self._groups(members)):
                return 1
        return 0

    def _hear(self, wakes: int) -> None:
        while True:
            for number in os.read(wakes, 64):
                if number in (signal.SIGINT, signal.SIGTERM):
                    with self._changed:
                        self._ending = self._ending or number
                        self._changed.notify()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=self._listen, args=(connection,), daemon=True).start()

    def _listen(self, connection: socket.socket) -> None:
        """Hears what one child of an agent asks for, and that its run is to end."""
        with connection, contextlib.suppress(OSError):
            lines = connection.makefile("r", encoding="utf-8")
            if not (line := lines.readline()).endswith("\n"):
                return
            member = Member(connection, json.loads(line))
            with self._changed:
                self._waiting.append(member)
                self._latest = time.monotonic()
                self._changed.notify()
            with contextlib.suppress(OSError, ValueError):
                for line in lines:
                    self._end(member, int(json.loads(line)["signal"]))
            self._end(member, signal.SIGTERM)  # it is gone, if its run has not ended

    def _end(self, member: Member, number: int) -> None:
        with self._changed:
            member.number = member.number or number
            if member in self._waiting:  # nothing of it has begun
                self._waiting.remove(member)
                member.tell(code=128 + number)

    def _gather(self) -> list[Member]:
        """Waits for members.

        Returns:
            Those that have come close together; none once a signal has.
        """
        with self._changed:
            while self._ending is None:
                left = self._latest + GATHER - time.monotonic()
                if len(self._waiting) >= self._size or (self._waiting and left <= 0):
                    members = self._waiting[: self._size]
                    del self._waiting[: self._size]
                    return members
                self._changed.wait(left if self._waiting else None)
            for member in self._waiting:
                member.tell(code=128 + self._ending)
            return []

    def _groups(self, members: Sequence[Member]) -> list[list[Member]]:
        """Divides members by what may be one computation, and answers bad input.

        Returns:
            The groups.
        """
        groups: dict[Any, list[Member]] = {}
        for member in members:
            self._output.members = [member]
            code = exit_code_of(self._program.name, functools.partial(self._read, member))
            self._output.settle()
            if member.request is None:
                member.tell(code=code)
                continue
            alone = unpackable(member.request.config)
            if alone is not None and len(members) > 1:
                say(f"{member.run_id}: trains alone, as {alone}")
                self._output.settle()
            key = pack_key(member.request.config) if alone is None else member
            groups.setdefault(key, []).append(member)
        self._output.members = ()
        return list(groups.values())

    def _read(self, member: Member) -> int:
        """Reads a member's settings.

        Returns:
            0.

        Raises:
            InputError: If they are wrong, or of another program.
        """
        if member.program.resolve() != self._program.resolve():
            raise InputError(f"{member.program}: this pack trains {self._program}")
        own = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
        notes: list[str] = []
        config = parse(member.arguments, {**own, **member.variables}, notes=notes)
        for note in notes:
            say(note)
        member.request = Request(
            config,
            [self._program.name, *member.arguments],
            {**os.environ, **member.variables},
            lambda: self._ending or member.number,
            functools.partial(self._ended, member),
        )
        return 0

    def _ended(self, member: Member, code: int) -> None:
        """Answers a member whose run has ended, maybe before the others of its pack."""
        say(f"{member.run_id}: ended with exit code {code}")
        self._output.settle()
        member.tell(code=code)

    def _train_group(self, group: Sequence[Member]) -> bool:
        """Trains members, as halves where they cannot be trained together.

        Those that ended before the others failed are not begun again. How many memory does not
        hold is kept in mind, as the next points are most often of the same kind.

        Returns:
            Whether this process can go on.
        """
        kind = pack_key(group[0].request.config) if group[0].request else None
        most = self._limits.get(kind, len(group))
        if len(group) > most:
            parts = (group[i : i + most] for i in range(0, len(group), most))
            return all(self._train_group(part) for part in parts)
        if self._ending is not None:
            for member in group:
                member.tell(code=128 + self._ending)
            return True
        self._output.members = group
        if len(group) > 1:
            say(f"one pack of {len(group)}: {', '.join(member.run_id for member in group)}")
        codes: list[int] = []

        def work() -> int:
            codes.extend(self._train([member.request for member in group if member.request]))
            return 0

        try:
            code = exit_code_of(self._program.name, work)
        except Exception as error:  # whatever it is, the others are not to suffer from it
            traceback.print_exc()
            code, program.memory_ran_out = 1, is_out_of_memory(error)
        whole = len(codes) == len(group)
        is_over = whole or len(group) == 1 or self._ending is not None
        if is_over:
            self._output.settle()
            for member, its in zip(group, codes if whole else [code] * len(group), strict=True):
                member.tell(code=its)
        self._output.members = ()
        if not _is_well(failed=not whole):
            return False
        left = [] if is_over else [member for member in group if member.code is None]
        half = len(left) // 2
        if left:
            why = "memory ran out" if program.memory_ran_out else "it failed"
            say(f"{why} in a pack of {len(group)}: its runs are trained again in smaller ones")
            if program.memory_ran_out:
                self._limits[kind] = max(1, len(group) // 2)
        return all(self._train_group(part) for part in (left[:half], left[half:]) if part)


def _is_well(*, failed: bool) -> bool:
    """Gives memory back.

    Returns:
        Whether the GPU, if there is one, may still be used.
    """
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return True
    with contextlib.suppress(RuntimeError):
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        return True
    return not failed


def main(argv: Sequence[str]) -> int:
    """Trains packs until a signal comes.

    Args:
        argv: The listening socket's file descriptor, the program and the size.

    Returns:
        0, 1 if the device may be broken, 2 if the program trains no packs.
    """
    descriptor, name, size = argv
    path = Path(name)

    def work() -> int:
        train = load_train(path)
        output = Output()
        listener = socket.socket(fileno=int(descriptor))
        pack = Pack(listener, path, train, int(size), output)
        for line in warm_up():
            say(line)
        code = pack.serve()
        output.settle()
        if code == 0:  # nobody begins anew, and the launcher may be gone
            address = Path(listener.getsockname())
            with contextlib.suppress(OSError):
                address.unlink(missing_ok=True)
                address.parent.rmdir()
        return code

    return exit_code_of(path.name, work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
