"""Kills and outages for as long as one likes; counts what was lost or differs: nothing may be.

    make soak SECONDS=600    # or: python -m tests.soak --seconds=600 --output_dir=DIR

In turn, one run is killed by SIGKILL at random moments and started again until it ends, then one is
trained online while its W&B server, on the loopback interface, goes away and comes back. The first
must equal an undisturbed run bit for bit after every kill, of the second the server must hold every
row and the record. Exit code 1 if anything is lost or differs; its run directory then stays.
"""

from __future__ import annotations

import argparse
import os
import random
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import lowrank
from lowrank.common.program import exit_code_of
from tests.running import TINY, Training, differences, last_epoch
from tests.wandb_server import WandbServer
from tests.wandb_server.state import Run as ServerRun

EPOCHS = 40
FLAGS = (*TINY, f"--epochs={EPOCHS}", "--momentum=0.9", "--run_id=a")
OUTAGES: tuple[str | int, ...] = ("refuse", "hang", 500)


@dataclass
class Counts:
    """What has happened so far.

    Attributes:
        kills: Processes killed.
        outages: Times that the server went away.
        runs: Runs completed.
        lost: Epochs that a record or the server held and holds no more, or holds otherwise.
        problems: What went wrong, a line each.
    """

    kills: int = 0
    outages: int = 0
    runs: int = 0
    lost: int = 0
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"faults caused: {self.kills + self.outages:,} ({self.kills:,} kills, "
            f"{self.outages:,} outages), runs completed: {self.runs:,}, records lost: {self.lost:,}"
        )


class Soak:
    """The two loops.

    Args:
        place: An existing directory.
        seconds: How long faults are caused; the run in progress is then finished.
        seed: Of the moments and lengths of faults.
    """

    def __init__(self, place: Path, seconds: float, seed: int) -> None:
        self.counts = Counts()
        self._place = place
        self._choose = random.Random(seed)
        self._began = time.monotonic()
        self._seconds = seconds
        self._undisturbed = place / "undisturbed"

    def run(self) -> int:
        """Causes faults until the time is over, and at least one of each kind.

        Returns:
            The exit code.
        """
        self._undisturbed.mkdir()
        took = self._train_undisturbed()
        turns = 0
        while turns == 0 or (self._is_time() and not self.counts.problems):
            self._kill_and_resume(self._place / f"killed-{turns}", took)
            self._fail_the_server(self._place / f"online-{turns}")
            turns += 1
        self._report(end="\n")
        for problem in self.counts.problems:
            print(problem, file=sys.stderr)
        return 1 if self.counts.problems or self.counts.lost else 0

    def _train_undisturbed(self) -> float:
        began = time.monotonic()
        training = Training(self._undisturbed, *FLAGS, "--tracking=disabled")
        code = training.wait()
        assert code == 0, training.text
        return time.monotonic() - began

    def _kill_and_resume(self, directory: Path, took: float) -> None:
        """Kills one run until it ends, which it does between two kills at the latest."""
        directory.mkdir()
        run_dir, whole = directory / "runs/a", self._undisturbed / "runs/a"
        kills = 0
        while True:
            held = last_epoch(run_dir)
            training = Training(directory, *FLAGS, "--tracking=disabled")
            if kills == 0 or self._is_time():
                # Mostly within the run, sometimes while it starts; the first time in any case.
                if kills == 0 or self._choose.random() < 0.8:
                    training.wait_for_epoch(min(held + 1, EPOCHS), run_dir)
                if kills:
                    time.sleep(self._choose.uniform(0, took / 8))
                if not training.ended():
                    training.kill()
                    kills += 1
                    self.counts.kills += 1
                    self._compare(run_dir, whole, held)
                    self._report()
                    continue
            if self._ended_well(training):
                self._compare(run_dir, whole, EPOCHS)
                self._complete(directory)
            return

    def _compare(self, run_dir: Path, whole: Path, held: int) -> None:
        """Notes what a record has lost of the epochs up to one that it held, or has otherwise."""
        last = last_epoch(run_dir)
        differing = differences(run_dir, whole, last + 1) if last >= 0 else []
        if last < held or differing:
            self.counts.lost += max(held - last, 1)
            self.counts.problems.append(
                f"{run_dir}: held epoch {held}, has {last}; differing: {differing}"
            )

    def _fail_the_server(self, directory: Path) -> None:
        """Trains one run while its server goes away and comes back."""
        directory.mkdir()
        server = WandbServer(directory / "server")
        environment = {
            **server.environment,
            **{f"WANDB_{n}_DIR": str(directory / n.lower()) for n in ("CONFIG", "CACHE", "DATA")},
            "NETRC": str(directory / "netrc"),
            "WANDB_SILENT": "true",
        }
        os.environ.update(environment)
        try:
            training = Training(directory, *FLAGS, "--tracking=online", "--project=soak")
            training.wait_for_epoch(0, directory / "runs/a")
            while not training.ended():
                with server.outage(self._choose.choice(OUTAGES)) as fault:
                    self.counts.outages += 1
                    fault.over.wait(self._choose.uniform(0.2, 3))
                self._report()
                if not self._is_time():
                    break
                time.sleep(self._choose.uniform(0.2, 3))
            if self._ended_well(training):
                _sync(training.text, directory)
                missing = rows_missing(server.run("a"), directory / "runs/a")
                artifact = server.artifact("run-record-a:latest").files["record.sqlite"]
                if artifact != (directory / "runs/a/record.sqlite").read_bytes():
                    missing.append("the record")
                if missing:
                    self.counts.lost += len(missing)
                    self.counts.problems.append(f"{directory}: the server lacks {missing}")
                self._complete(directory)
        finally:
            server.close()

    def _ended_well(self, training: Training) -> bool:
        code = training.wait()
        if code or "Traceback" in training.text:
            self.counts.problems.append(f"{training.log}: ended with {code}:\n{training.text}")
            return False
        return True

    def _complete(self, directory: Path) -> None:
        self.counts.runs += 1
        if not self.counts.problems:
            shutil.rmtree(directory)
        self._report(end="" if sys.stdout.isatty() else "\n")

    def _is_time(self) -> bool:
        return time.monotonic() - self._began < self._seconds

    def _report(self, end: str = "") -> None:
        """Rewrites the line on a terminal; elsewhere a line stands for a run completed."""
        line = f"{time.monotonic() - self._began:7.0f} s  {self.counts}"
        if sys.stdout.isatty():
            print(f"\r{line}", end=end, flush=True)
        elif end:
            print(line, end=end, flush=True)


def rows_missing(held: ServerRun, run_dir: Path) -> list[str]:
    """Compares what the server holds of a run with its record.

    Args:
        held: By the server.
        run_dir: Of the run.

    Returns:
        A word for each epoch that is missing there, there twice, or not as recorded.
    """
    record = lowrank.load_run(run_dir)
    metrics = {name: record.metrics[name] for name in record.metrics}
    missing = []
    for place, epoch in enumerate(record.epochs.tolist()):
        rows = [row for row in held.history if row["_step"] == epoch]
        logged = {name: v[place] for name, v in metrics.items() if np.isfinite(v[place])}
        if len(rows) != 1 or any(rows[0].get(name) != value for name, value in logged.items()):
            missing.append(f"epoch {epoch}")
    return missing


def _sync(text: str, directory: Path) -> None:
    """Does what the run's last line advises where the server has not taken everything."""
    line = text.splitlines()[-1]
    if line.startswith("upload it with: "):
        words = shlex.split(line.removeprefix("upload it with: "))
        subprocess.run([sys.executable, "-m", *words], cwd=directory, check=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs both loops.

    Args:
        argv: The arguments; by default those of the process.

    Returns:
        The exit code: 0, or 1 if anything was lost or differed.
    """
    parser = argparse.ArgumentParser(prog="soak", description=str(__doc__).splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600, help="how long faults are caused")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the faults")
    parser.add_argument("--output_dir", type=Path, help="of the runs; by default a temporary one")
    given = parser.parse_args(argv)

    def work() -> int:
        place = Path(given.output_dir or tempfile.mkdtemp(prefix="soak-")).resolve()
        place.mkdir(parents=True, exist_ok=True)
        code = Soak(place, given.seconds, given.seed).run()
        if not code and given.output_dir is None:
            shutil.rmtree(place)
        return code

    return exit_code_of("soak", work)


if __name__ == "__main__":
    sys.exit(main())
