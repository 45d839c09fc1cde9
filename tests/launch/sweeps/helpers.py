"""Real sweeps for tests: tiny networks, and a train.py that fails where it is told to."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import yaml

from lowrank import load_run
from lowrank.runs.find import Run

ROOT = Path(__file__).resolve().parents[3]
TINY = {"width": 8, "depth": 1, "train_size": 64, "epochs": 2, "threads": 1}

PROGRAM = f"""
import os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
import importlib.util
from lowrank.config import Config  # this program takes its fields as flags
_spec = importlib.util.spec_from_file_location("real_train", {str(ROOT / "train.py")!r})
_real = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_real)

def main(argv):
    print("trained by process", os.getpid())
    for word in argv:
        fault = os.path.join("faults", word.lstrip("-"))
        if os.path.isfile(fault):
            kind, times = open(fault).read().split()
            with open(fault, "w") as file:
                file.write(f"{{kind}} {{int(times) - 1}}")
            if int(times) > 0:
                {{"raise": _raise, "memory": _memory, "kill": _kill, "exit": _exit}}[kind]()
    return _real.main(argv)

def _raise():
    raise RuntimeError("made to fail")

def _memory():
    raise MemoryError("made to fail")

def _kill():
    os.kill(os.getpid(), signal.SIGKILL)

def _exit():
    os._exit(3)
"""


def write_sweep(
    directory: Path,
    parameters: Mapping[str, Any],
    *,
    name: str = "tiny",
    method: str = "grid",
    tiny: Mapping[str, Any] = TINY,
    **more: Any,
) -> Path:
    """Writes train.py and a sweep file.

    Returns:
        The sweep file.
    """
    fixed = {key: {"value": value} for key, value in tiny.items() if key not in parameters}
    sweep = {"program": "train.py", "method": method, "name": name, **more}
    sweep["parameters"] = {**parameters, **fixed}
    (directory / "train.py").write_text(textwrap.dedent(PROGRAM))
    path = directory / f"{name}.yaml"
    path.write_text(yaml.safe_dump(sweep))
    return path


def set_fault(directory: Path, word: str, kind: str, times: int = 1) -> None:
    """Makes runs with the argument ``--<word>`` fail so many times."""
    (directory / "faults").mkdir(exist_ok=True)
    (directory / "faults" / word).write_text(f"{kind} {times}")


def command(*words: str) -> list[str]:
    """Returns the command ``lowrank sweep`` with flags for two slots on the CPU."""
    program = "import sys; from lowrank.cli import main; sys.exit(main())"
    return [sys.executable, "-c", program, "sweep", "--gpus=none", *words]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def sweep(directory: Path, *words: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Runs ``lowrank sweep`` to its end."""
    return subprocess.run(
        command(*words),
        cwd=directory,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def start(directory: Path, *words: str) -> subprocess.Popen[bytes]:
    """Starts ``lowrank sweep`` as a process of its own."""
    with (directory / "launcher.log").open("ab") as log:
        return subprocess.Popen(
            command(*words), cwd=directory, env=environment(), stdout=log, stderr=log
        )


def runs(directory: Path) -> dict[str, Run]:
    """Returns all runs below ``runs`` by id."""
    paths = (directory / "runs").glob("*/record.sqlite")
    return {path.parent.name: load_run(path) for path in sorted(paths)}


def assert_complete(found: Mapping[str, Run], configs: Sequence[Mapping[str, Any]]) -> None:
    """Asserts that there is one finished run for each configuration, with a whole record."""
    for run in found.values():
        assert run.state == "finished", run
        assert run.epochs.tolist() == list(range(run.config["epochs"] + 1))
        for name in run.metrics:
            assert run.metrics[name].shape == run.epochs.shape  # and its checksum is right
        for layer in run.layers:
            assert len(run.spectra[layer.name]) == len(run.epochs)
    key = sorted(configs[0])
    held = sorted([run.config[name] for name in key] for run in found.values())
    assert held == sorted([config[name] for name in key] for config in configs)


def workers_of(launcher: int) -> list[psutil.Process]:
    """Returns the processes that train for a launcher."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return [
            process
            for process in psutil.Process(launcher).children(recursive=True)
            if "lowrank.launch.sweeps.worker" in process.cmdline()
            and "processes.py" not in " ".join(process.cmdline())
        ]
    return []


def kill(process: psutil.Process | subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
        process.send_signal(signal.SIGKILL)
