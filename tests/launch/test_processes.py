"""Supervised process trees against what the kernel says is alive, with real processes and kills.

Every tree here is shaped as a W&B agent's: the command puts its child into another process group,
and that child's own child (as wandb-core) leads another session. Processes are found by a mark in
their environment, which nothing in the package knows of.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from lowrank.launch.processes import Supervised
from tests.running import wait_until
from tests.trees import Tree

CORE = """
import os, sys, time
while os.getppid() == int(sys.argv[1]) or {stubborn}:
    time.sleep(0.05)
"""

LEAF = """
import os, signal, subprocess, sys, time
core = [sys.executable, "-c", {core!r}, str(os.getpid())]
subprocess.Popen(core, start_new_session=True)
def end(number, frame):
    open("signals", "a").write(f"{{number}} ")
    if not {stubborn}:
        raise SystemExit(143)
signal.signal(signal.SIGTERM, end)
signal.signal(signal.SIGINT, end)
open("ready", "w").write("yes")
while True:
    time.sleep(0.05)
"""

COMMAND = """
import signal, subprocess, sys
leaf = subprocess.Popen([sys.executable, "-c", {leaf!r}], process_group=0)
def forward(number, frame):
    leaf.send_signal(number)
signal.signal(signal.SIGTERM, forward)
signal.signal(signal.SIGINT, forward)
sys.exit(leaf.wait())
"""


def tree(*, stubborn_core=False, stubborn=False):
    """Returns a command that starts a child in its own group with a child in its own session."""
    leaf = LEAF.format(core=CORE.format(stubborn=stubborn_core), stubborn=stubborn)
    return [sys.executable, "-c", COMMAND.format(leaf=leaf)]


@pytest.fixture
def marked(monkeypatch, tmp_path):
    """All processes of the test, in an empty directory; leaves none."""
    monkeypatch.chdir(tmp_path)
    found = Tree()
    yield found
    found.kill()


@pytest.fixture
def start(marked, tmp_path):
    def run(command, **options):
        with (tmp_path / "log").open("ab") as log:
            supervised = Supervised(command, env=marked.environment, log=log, **options)
        if "ready" in " ".join(command):
            wait_until(Path("ready").exists)
        return supervised

    return run


def ended(supervised):
    wait_until(lambda: supervised.poll() is not None)
    return supervised.poll()


@pytest.mark.parametrize("code", [0, 3])
def test_the_exit_code_is_the_commands(start, code):
    assert ended(start([sys.executable, "-c", f"raise SystemExit({code})"])) == code


def test_a_killed_command_gives_the_shells_code(start):
    command = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert ended(start([sys.executable, "-c", command])) == 137


def test_a_command_that_does_not_exist_is_told_in_the_log(start, tmp_path):
    assert ended(start(["/no/such/program"])) == 127
    assert (tmp_path / "log").read_text() == "/no/such/program: No such file or directory\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_the_leaf_once_and_nothing_is_left(start, marked, number):
    supervised = start(tree())
    assert len(marked.alive()) == 4  # supervisor, command, leaf and the leaf's own
    supervised.send_signal(number)
    assert ended(supervised) == 143
    assert Path("signals").read_text().split() == [str(int(number))]
    assert marked.alive() == []


def test_a_leaf_that_does_not_end_is_killed_after_the_grace(start, marked):
    supervised = start(tree(stubborn=True), grace=0.5)
    supervised.send_signal(signal.SIGTERM)
    assert ended(supervised) != 0
    assert Path("signals").exists()
    assert marked.alive() == []


def test_what_leads_another_session_is_killed_after_the_grace_too(start, marked):
    supervised = start(tree(stubborn_core=True), grace=1)
    supervised.send_signal(signal.SIGTERM)
    assert ended(supervised) == 143
    assert marked.alive() == []


def test_when_the_command_is_killed_its_orphans_end_politely(start, marked):
    supervised = start(tree(), grace=2)
    (command,) = psutil.Process(supervised.pid).children()
    command.kill()
    assert ended(supervised) == 137
    assert Path("signals").read_text().split() == [str(int(signal.SIGTERM))]
    assert marked.alive() == []


def test_when_the_supervisor_is_killed_nothing_is_left(start, marked):
    supervised = start(tree())
    os.kill(supervised.pid, signal.SIGKILL)
    assert ended(supervised) == 137
    assert marked.alive() == []


def test_kill_ends_the_tree_at_once(start, marked):
    supervised = start(tree(stubborn=True))
    supervised.kill()
    assert supervised.poll() == 137
    assert marked.alive() == []
    assert not Path("signals").exists()


def test_adopted_processes_leave_no_zombies(start):
    orphans = (
        "import subprocess, sys, time\n"
        "for _ in range(3):\n"
        "    subprocess.run(['sh', '-c', 'sleep 0.2 &'])\n"
        "time.sleep(0.6); open('ready', 'w').close(); time.sleep(600)"
    )
    supervised = start([sys.executable, "-c", orphans])
    assert len(psutil.Process(supervised.pid).children()) == 1
    supervised.kill()


STARTER = """
import os, signal, sys, time
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup has the tests ignore it
sys.path.insert(0, {root!r})
from lowrank.launch.processes import Supervised
Supervised({command!r}, env=os.environ, log=open("log", "ab"), grace=5)
time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP], ids=["SIGKILL", "SIGHUP"])
def test_when_the_starter_is_killed_the_tree_ends_politely(marked, number):
    root = str(Path(__file__).resolve().parent.parent.parent)
    code = STARTER.format(root=root, command=tree())
    starter = subprocess.Popen([sys.executable, "-c", code], env=marked.environment)
    wait_until(Path("ready").exists)
    starter.send_signal(number)
    starter.wait()
    wait_until(lambda: not marked.alive())
    assert Path("signals").read_text().split() == [str(int(signal.SIGTERM))]
