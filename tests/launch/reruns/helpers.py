"""Records for reruns: one of a tiny training, and copies of it in which something is changed."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

from lowrank.cli import main
from lowrank.runs.find import load_run
from lowrank.runs.format import RECORD_NAME
from lowrank.runs.writer import Record

ROOT = Path(__file__).resolve().parents[3]
TINY = ("--train_size=80", "--width=8", "--depth=2", "--epochs=2", "--batch_size=32", "--threads=1")


def rewritten(
    run, directory: Path, *, config=None, environment=None, change=None, state=None, epochs=None,
    run_id=None, sessions=1,
):  # fmt: skip
    """Writes a run's record anew; returns its directory.

    Args:
        run: The run.
        directory: Where to, made.
        config: Changes to the configuration; a field that is ... is left out.
        environment: Changes to the environment, likewise.
        change: Gets epoch, metrics and spectra of each epoch and may change them.
        state: How it ended; by default as `run`.
        epochs: How many are written; by default all.
        run_id: By default that of `run`.
        sessions: How many processes worked on it; the environment is changed in the last.
    """
    directory.mkdir(parents=True)
    fields = {**run.config, **(config or {})}
    here = {**copy.deepcopy(run.environment), **(environment or {})}
    here = {name: value for name, value in here.items() if value is not ...}
    fields = {name: value for name, value in fields.items() if value is not ...}
    with Record.create(
        directory / RECORD_NAME,
        run_id=run.id if run_id is None else run_id,
        config=fields,
        environment=here if sessions == 1 else run.environment,
        layers=run.layers,
    ) as record:
        if sessions == 2:
            record.begin_session(fields, here)
        metrics, spectra = dict(run.metrics), dict(run.spectra)
        for place, epoch in enumerate(run.epochs.tolist()[:epochs]):
            row = {name: float(values[place]) for name, values in metrics.items()}
            of_epoch = {name: values[place].copy() for name, values in spectra.items()}
            if change:
                change(epoch, row, of_epoch)
            record.append(epoch, row, of_epoch)
        record.set_state(state or run.state)
    return directory


def rerun(capsys, *words, code=0):
    """Runs ``lowrank rerun``; returns what it printed on both streams, and the new run if any."""
    assert main(["rerun", *map(str, words)]) == code
    printed = capsys.readouterr()
    name = next((w for w in printed.out.split("\n") if w.startswith("as run ")), None)
    if name is None:
        return printed.out + printed.err, None
    _, _, run_id, _, place, *_ = name.split(" ")
    directory = Path(place.rstrip(",")) / run_id
    return printed.out + printed.err, load_run(directory) if directory.exists() else None


def differing(text):
    """Returns the warnings on a rerun but for those on code, which no git checkout may hold."""
    of_code = ("warning: commit:", "warning: uncommitted changes:")
    lines = [line for line in text.splitlines() if line.startswith("warning: ")]
    return [line for line in lines if not line.startswith(of_code)]


def interrupted(words, directory, interrupt):
    """Runs ``lowrank rerun`` of a run of 100,000 epochs as a process of its own.

    Args:
        words: The words after ``rerun``.
        directory: Where.
        interrupt: Gets the process when epoch 2 has ended.

    Returns:
        Its exit code and all that it printed.
    """
    program = "import sys; from lowrank.cli import main; sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "rerun", *words],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    lines = []
    try:
        for line in process.stdout:
            lines.append(line)
            if line.strip().startswith("2/100000"):
                interrupt(process)
        return process.wait(), "".join(lines)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
