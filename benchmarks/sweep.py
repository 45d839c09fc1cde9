"""What a sweep costs beside its training: `lowrank sweep`, and `wandb agent` for comparison.

    python -m benchmarks.sweep          # 60 points of two seconds on two slots; about three minutes
    python -m benchmarks.sweep --quick  # whether it runs; judges nothing

The ideal is the time that the runs themselves trained, evaluated and measured, by their records,
divided by the slots: a sweep cannot be faster. All else is overhead: starting processes, loading,
drawing, writing, logging and handing out.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import yaml

from benchmarks.program import ROOT, Options, quiet_environment, run
from benchmarks.timing import Kind, Row, Spread
from lowrank import load_sweep
from lowrank.common.errors import Failure
from lowrank.common.terminal import aligned, say
from lowrank.runs.find import Run

ALLOWED = 1.2
ALLOWED_IN_PACKS = 1.0
SLOTS = 2
POINTS = 60
AGENT_POINTS = 8
SECONDS = 2.0
"""Training of a point."""
TRAINED = ("time/train", "time/evaluate", "time/spectra")
SETTING = {
    "dataset": "synthetic",
    "image_size": 16,
    "depth": 4,
    "width": 128,
    "batch_size": 16,
    "epochs": 3,
    "threads": 1,
}


@dataclass(frozen=True)
class Result:
    """One sweep, measured.

    Attributes:
        name: What ran it.
        seconds: From the start of the command to its end.
        trained: Seconds that each run trained, evaluated and measured.
        only: Of these, seconds of optimiser steps alone.
        whole: Seconds from the beginning of each record to its end, with all that a run writes.
        slots: Runs at once.
    """

    name: str
    seconds: float
    trained: Sequence[float]
    only: Sequence[float]
    whole: Sequence[float]
    slots: int

    def cells(self) -> tuple[str, ...]:
        """Returns the result as a line of the table."""
        strict, whole = sum(self.only) / self.slots, sum(self.whole) / self.slots
        return (
            self.name,
            f"{len(self.trained)}",
            f"{statistics.mean(self.trained):.2f}",
            f"{statistics.pstdev(self.trained):.2f}",
            f"{self.ideal:.1f}",
            f"{self.seconds:.1f}",
            f"{self.seconds / self.ideal:.3f}",
            f"{self.seconds / strict:.3f}",
            f"{self.seconds / whole:.3f}",
            f"{self.lost:.2f}",
        )

    @property
    def ideal(self) -> float:
        """Seconds that the training alone would take."""
        return sum(self.trained) / self.slots

    @property
    def lost(self) -> float:
        """Seconds of a slot that each point cost beside its training."""
        return (self.seconds - self.ideal) * self.slots / len(self.trained)


HEAD = (
    *("", "points", "training", "± std", "ideal", "taken", "ratio"),
    *("steps only", "whole runs", "lost/point"),
)


def measure(options: Options) -> list[Row]:
    """Measures both sweeps and prints their table.

    Args:
        options: How.

    Returns:
        The rows.
    """
    points, agent_points = POINTS, AGENT_POINTS
    if options.quick:
        points, agent_points = 2, 2
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        train_size = 64 if options.quick else calibrate(directory, SECONDS, SLOTS)
        setting = {**SETTING, "train_size": train_size}
        ours = run_sweep(directory, setting, points, SLOTS)
        packed = run_sweep(directory / "packed", setting, points, SLOTS, pack="auto")
        theirs = run_agents(directory, setting, agent_points, SLOTS)
    say(
        "\n".join(
            [
                f"{SLOTS} slots; seconds\n",
                *aligned([HEAD, ours.cells(), packed.cells(), theirs.cells()]),
            ]
        )
    )
    what = f"`lowrank sweep`, {points} points of {SECONDS:g} s on {SLOTS} slots"
    in_packs = f"{what}, --pack=auto"
    ideal = "training of all points / slots"
    agents = f"`wandb agent`, {agent_points} points"
    return [
        _row(what, ideal, ours.seconds, ours.ideal, target=ALLOWED),
        _row(in_packs, f"{ideal}, unpacked", packed.seconds, ours.ideal, target=ALLOWED_IN_PACKS),
        _row(in_packs, "the same without packs", packed.seconds, ours.seconds),
        _row(f"{what}, lost per point", agents, ours.lost, theirs.lost, kind="speedup"),
    ]


def _row(
    what: str,
    baseline: str,
    ours: float,
    theirs: float,
    *,
    kind: Kind = "share",
    target: float | None = None,
) -> Row:
    """Returns a row of seconds, each measured once."""
    once = Spread(ours, 0.0, 1), Spread(theirs, 0.0, 1)
    return Row(what, baseline, "s", *once, kind, target)


def calibrate(directory: Path, seconds: float, slots: int) -> int:
    """Finds the number of training examples with which a run trains about so long.

    Args:
        directory: For the trial's files.
        seconds: Wanted.
        slots: Runs at once: they slow each other down.

    Returns:
        The number.
    """
    size = 1000
    point = {**SETTING, "train_size": size}
    result = run_sweep(directory / "calibration", point, 6 * slots, slots)
    settled = result.trained[2 * slots :]  # the first ones run while processes still start
    return max(64, round(size * seconds / statistics.median(settled)))


def run_sweep(
    directory: Path,
    setting: Mapping[str, object],
    points: int,
    slots: int,
    pack: str = "off",
) -> Result:
    """Runs a sweep with `lowrank sweep`.

    Args:
        directory: For its files.
        setting: What all points have in common.
        points: How many.
        slots: Runs at once, on the CPU.
        pack: As the command takes it.

    Returns:
        What was measured.
    """
    file = write_sweep(directory / "sweep.yaml", setting, points)
    runs = directory / "runs"
    (directory / "train.py").symlink_to(ROOT / "train.py")
    started = time.perf_counter()
    command = [*_python("from lowrank.cli import main; sys.exit(main())"), "sweep", str(file)]
    flags = ["--gpus=none", f"--per_gpu={slots}", f"--output_dir={runs}", f"--pack={pack}"]
    _run([*command, *flags], _environment(directory), directory / "sweep.log")
    name = "lowrank sweep" if pack == "off" else "lowrank sweep, packed"
    return _result(name, time.perf_counter() - started, load_sweep(runs), points, slots)


def run_agents(directory: Path, setting: Mapping[str, object], points: int, slots: int) -> Result:
    """Runs a sweep with one plain `wandb agent` per slot, on a server of this machine.

    Args:
        directory: For its files.
        setting: What all points have in common.
        points: How many.
        slots: Agents at once.

    Returns:
        What was measured; creating the sweep is not counted.
    """
    runs = directory / "agent_runs"
    file = write_sweep(directory / "agents.yaml", setting, points)
    with served(directory, file) as (environment, sweep):
        environment |= {"LOWRANK_OUTPUT_DIR": str(runs), "LOWRANK_THREADS": "1"}
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        agent = [*_WANDB, "agent", sweep]
        log = directory / "agents.log"
        started = time.perf_counter()
        with log.open("wb") as output:
            agents = [
                subprocess.Popen(
                    agent, env=environment, cwd=directory, stdout=output, stderr=output
                )
                for _ in range(slots)
            ]
            for process in agents:
                process.wait()
        seconds = time.perf_counter() - started
    return _result("wandb agent", seconds, load_sweep(runs), points, slots)


@contextmanager
def served(directory: Path, file: Path) -> Iterator[tuple[dict[str, str], str]]:
    """Makes a sweep on a server of this machine, that of the tests.

    Args:
        directory: For its files.
        file: The sweep's.

    Yields:
        Variables for its clients, and the sweep's path.
    """
    from tests.wandb_server import WandbServer

    server = WandbServer(directory / "server")
    try:
        environment = {**_environment(directory), **server.environment, "WANDB_PROJECT": "bench"}
        _run([*_WANDB, "sweep", str(file)], environment, directory / "create.log")
        sweep = server.sweeps[-1]
        yield environment, f"{sweep.entity}/{sweep.project}/{sweep.id}"
    finally:
        server.close()


def write_sweep(path: Path, setting: Mapping[str, object], points: int) -> Path:
    """Writes a sweep file: a grid over seeds.

    Args:
        path: Of the file.
        setting: What all points have in common.
        points: How many.

    Returns:
        The path.
    """
    parameters: dict[str, object] = {name: {"value": value} for name, value in setting.items()}
    parameters["seed"] = {"values": list(range(points))}
    sweep = {"program": "train.py", "method": "grid", "parameters": parameters}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(sweep), encoding="utf-8")
    return path


def _result(name: str, seconds: float, runs: Sequence[Run], points: int, slots: int) -> Result:
    ended = sorted((run for run in runs if run.state == "finished"), key=lambda run: run.created)
    if len(ended) != points:
        raise Failure(f"{name}: {len(ended)} of {points} runs finished")

    def total(run: Run, names: Sequence[str]) -> float:
        return float(sum(np.nansum(run.metrics[name]) for name in names))

    return Result(
        name,
        seconds,
        [total(run, TRAINED) for run in ended],
        [total(run, TRAINED[:1]) for run in ended],
        [_moment(run.updated) - _moment(run.created) for run in ended],
        slots,
    )


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _python(program: str) -> list[str]:
    return [sys.executable, "-c", f"import sys; {program}"]


_WANDB = _python("from wandb.cli.cli import cli; cli()")


def _run(command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
    with log.open("wb") as output:
        code = subprocess.run(
            command, env=environment, cwd=log.parent, stdout=output, stderr=output, check=False
        ).returncode
    if code:
        raise Failure(f"{' '.join(command)}: exit code {code}\n{log.read_text()[-2000:]}")


def _environment(directory: Path) -> dict[str, str]:
    """Returns an environment without an account, whose W&B files stay in the directory."""
    homes = {f"WANDB_{name}_DIR": str(directory / name) for name in ("CONFIG", "CACHE", "DATA")}
    return {**quiet_environment(), **homes, "NETRC": str(directory / "netrc")}


if __name__ == "__main__":
    sys.exit(run("sweep", measure))
