"""``lowrank agent`` as a process of its own, with a light program in place of train.py.

The program notes each point it is given, does what the point's ``work`` says and, as train.py does,
ends with 143 after SIGTERM when it has saved. Agents, server and kills are real.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import wandb
import yaml

from tests.running import wait_until
from tests.trees import Tree

ROOT = Path(__file__).resolve().parents[3]

PROGRAM = """\
# Stands in for lowrank's train.py.
import os, signal, sys, time

values = dict(word.removeprefix("--").split("=") for word in sys.argv[1:])
run_id = os.environ["WANDB_RUN_ID"]

def note(file, *words):
    with open(file, "a") as out:
        print(run_id, *words, file=out)

def end(number, frame):
    note("saved", number)
    sys.exit(128 + number)

signal.signal(signal.SIGTERM, end)
signal.signal(signal.SIGINT, end)
threads = os.environ.get("LOWRANK_THREADS", "-")
note("points", values["number"], os.environ["CUDA_VISIBLE_DEVICES"] or "cpu", threads)
note("names", os.environ.get("WANDB_NAME", "-"))
work = values["work"]
if work == "wait":
    time.sleep(600)
if work == "crash":
    os.kill(os.getpid(), signal.SIGKILL)
if work == "fail":
    print("this is why it fails", flush=True)
    sys.exit(3)
"""

LAUNCHER = """\
import sys
from pathlib import Path
from lowrank.launch.agents.launcher import Launcher
from lowrank.launch.agents.plan import Plan
from lowrank.launch.agents.status import Status
from lowrank.common.program import exit_code_of
from lowrank.launch.slots import Slot

sweep, slots, count, max_failures, agent, pack = sys.argv[1:]
if agent:
    from lowrank.launch.agents import worker
    worker.AGENT = Path(agent)
plan = Plan(
    sweep=sweep,
    slots=tuple(Slot(f"cpu.{i}", None, i + 1) for i in range(int(slots))),
    logs=Path("logs"),
    count=int(count) or None,
    max_failures=int(max_failures),
    stagger=0.5,
    environment={},
    grace=120.0,
    pack=int(pack),
)

def work():
    with Status() as status:
        return Launcher(plan, status).run()

sys.exit(exit_code_of("lowrank", work))
"""


class Launch:
    """A launcher that runs, and what came of it.

    Args:
        sweep: Path of the sweep.
        slots: How many.
        count: Points to take; 0 for all.
        max_failures: In a row.
        agent: A file in place of the agent's.
        pack: Agents of each slot.
        flags: Instead of these, for the whole command with its preflight.
    """

    def __init__(
        self,
        sweep: str,
        *,
        slots: int = 1,
        count: int = 0,
        max_failures: int = 3,
        agent: str = "",
        pack: int = 1,
        flags: list[str] | None = None,
    ) -> None:
        self.tree = Tree()
        if flags is None:
            words = ["-c", LAUNCHER, sweep, str(slots), str(count), str(max_failures), agent]
            words += [str(pack)]
        else:
            words = ["-c", "import sys; from lowrank.cli import main; sys.exit(main())", "agent"]
            words += [sweep, *flags]
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**self.tree.environment, "PYTHONPATH": os.pathsep.join(paths)}
        with Path("out").open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, *words], env=environment, stdout=out, stderr=subprocess.STDOUT
            )

    @property
    def text(self) -> str:
        """What it has printed."""
        return Path("out").read_text(encoding="utf-8")

    def wait(self) -> int:
        """Returns its exit code."""
        return self.process.wait(240)

    def wait_for(self, file: str, lines: int = 1) -> None:
        """Waits until a file has so many lines."""
        wait_until(lambda: len(noted(file)) >= lines, 240)

    def running(self, program: str) -> list[psutil.Process]:
        """Returns the processes that run a Python file of this name."""
        found = []
        for process in self.tree.alive(program):
            with contextlib.suppress(psutil.Error):
                if any(Path(word).name == program for word in process.cmdline()[1:3]):
                    found.append(process)
        return found

    def kill_one(self, program: str) -> bool:
        """Kills a process of a program, unless a training below it has not noted its point yet.

        A training that is killed before would look like one never begun. What is stopped first
        starts nothing while one looks.

        Returns:
            Whether one was killed.
        """
        for process in self.running(program):
            family, is_killed = [process], False
            with contextlib.suppress(psutil.Error):
                process.suspend()
                for child in process.children(recursive=True):
                    family.append(child)
                    child.suspend()
                if is_killed := self._have_noted(family):
                    process.kill()
            for each in family:
                with contextlib.suppress(psutil.Error):
                    each.resume()
            if is_killed:
                return True
        return False

    def _have_noted(self, family: list[psutil.Process]) -> bool:
        names = {name for name, *_ in noted("points")}
        trainings = {process.pid for process in self.running("train.py")}
        return all(p.environ().get("WANDB_RUN_ID") in names for p in family if p.pid in trainings)

    def signal(self, number: signal.Signals) -> None:
        """Sends the launcher a signal."""
        self.process.send_signal(number)

    def assert_nothing_is_left(self) -> None:
        """Waits some seconds for the last process to end."""
        wait_until(lambda: not self.tree.alive(), 45)


def make_sweep(
    parameters: Mapping[str, list[Any]], program: str = "train.py", project: str = "p"
) -> str:
    """Makes a grid on the server and the program here; returns the sweep's path."""
    Path("train.py").write_text(PROGRAM, encoding="utf-8")
    grid = {name: {"values": list(values)} for name, values in parameters.items()}
    config = yaml.safe_load(yaml.safe_dump({"program": program, "parameters": grid}))
    sweep = wandb.sweep({"method": "grid", **config}, entity="tester", project=project)
    return f"tester/{project}/{sweep}"


def change(old: str, new: str) -> None:
    """Changes the program."""
    text = Path("train.py").read_text(encoding="utf-8")
    assert old in text
    Path("train.py").write_text(text.replace(old, new), encoding="utf-8")


def noted(file: str) -> list[list[str]]:
    """Returns the words of each line that the program has noted."""
    path = Path(file)
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []
