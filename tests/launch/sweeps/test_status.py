"""What is said of a sweep: its best points and what decides, and how it stands meanwhile.

Points have values that are known beforehand; a run in training is one that this test makes up.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from lowrank.cli import main
from lowrank.launch import stand
from lowrank.launch.sweeps import best as best_module
from lowrank.launch.sweeps import status as status_module
from lowrank.launch.sweeps.points import Ended
from lowrank.runs.format import RecordError
from tests.launch.sweeps.helpers import write_sweep
from tests.launch.sweeps.test_growth import join, load, several, take

__all__ = ["load"]

LRS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]


def test_the_best_five_are_shown_with_their_parameters(load, tmp_path, monkeypatch):
    search = load({"lr": several(*LRS), "milestones": several([], [1])})
    study = join(tmp_path, search)
    take(study)  # the value is the lr
    run = SimpleNamespace(metrics={"test_accuracy": np.array([0.1, 93.25])})
    monkeypatch.setattr(best_module, "load_run", lambda _: run)
    lines = best_module.best_lines(search, study.points(), tmp_path, "ab")
    assert lines[0] == "best of 12 points:"
    rows = [line.split(maxsplit=4) for line in lines[1:7]]
    assert rows[0] == ["run", "rank_mean", "test_accuracy", "lr", "milestones"]
    assert [row[1:] for row in rows[1:]] == [
        *(["0.1", "93.25", "0.1", "[]"], ["0.1", "93.25", "0.1", "[1]"]),
        *(["0.2", "93.25", "0.2", "[]"], ["0.2", "93.25", "0.2", "[1]"]),
        ["0.3", "93.25", "0.3", "[]"],
    ]
    assert lines[7].startswith("importance of parameters (PED-ANOVA, 12 points): lr ")
    shares = [int(word.strip("%,")) for word in lines[7].split() if word.strip(",").endswith("%")]
    assert shares[0] > 5 * shares[1]  # the value is the lr, whatever the milestones


def test_nothing_is_said_to_be_best_where_the_file_asks_for_nothing(load, tmp_path):
    search = load({"lr": several(*LRS)})
    assert best_module.best_lines(search, {}, tmp_path, "ab") == []
    study = join(tmp_path, search)
    take(study)
    search.sweep = replace(search.sweep, metric=None)
    assert best_module.best_lines(search, study.points(), tmp_path, "ab") == []


def test_status_counts_points_by_state_and_tells_when_it_ends(load, tmp_path, monkeypatch):
    search = load({"lr": several(*LRS)})
    study = join(tmp_path, search)
    study.max_retries = 0
    for outcome in ("finished", "dead", "failed", "failed", None):
        (point,) = study.claim(lambda _: True)
        if outcome:
            value = 9.5 if outcome == "finished" else None
            study.finish(point, Ended(outcome, value, "why", "a.log"))
    at = {"time/train": np.array([np.nan, 2.0, 4.0]), "time/evaluate": np.array([1.0, 1.0, 1.0])}
    run = SimpleNamespace(
        config={"epochs": 8}, epochs=np.arange(3), metrics={**at, "rank_mean": np.array([9, 8, 7])}
    )

    def record(directory):
        if directory.name != point.run_id:
            raise RecordError(f"{directory}: no record")
        return run

    monkeypatch.setattr(stand, "load_run", record)
    standing = SimpleNamespace(
        search=search, begun=True, prefix=study.run_id(0)[:-5], points=study.points()
    )
    lines = status_module.status_lines(standing, tmp_path, max_retries=0)
    assert lines[0] == "sweep a: 6 points, grid"
    counts = dict(line.split() for line in lines[1 : lines.index("")])
    assert counts == {"finished": "1", "dead": "1", "running": "1", "failed": "2", "waiting": "1"}
    (row,) = [line.split() for line in lines if line.startswith(point.run_id)]
    # Two epochs of 2 and 4 s, evaluated in 1 s each of three: 9 s for three, and 6 left.
    assert row == [point.run_id, "2/8", "0:18", "7", f"lr={point.values['lr']}"]
    assert sum("failed too often, see a.log" in line for line in lines) == 2
    assert lines[-3] == "the only point with a value:"


def test_neither_status_nor_a_launcher_loads_what_trains():
    program = (
        "import sys, lowrank.launch.sweeps.status, lowrank.launch.sweeps.run;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_status_makes_no_database(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    file = str(write_sweep(tmp_path, {"lr": {"values": [0.1, 0.2]}}, name="a"))
    before = set(tmp_path.rglob("*"))
    assert main(["sweep", file, "--status", "--storage=sqlite:///new.sqlite"]) == 0
    assert capsys.readouterr().out == "sweep a: 2 points, grid, not begun\n"
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("begun", [False, True], ids=["new", "begun"])
def test_status_starts_nothing_and_writes_nothing(tmp_path, monkeypatch, capsys, begun):
    monkeypatch.chdir(tmp_path)
    file = str(write_sweep(tmp_path, {"lr": {"values": [0.1, 0.2]}}, name="a"))
    if begun:
        from lowrank.config.sweepfile import load_sweep_file
        from lowrank.launch.sweeps.search import Search

        (tmp_path / "runs").mkdir()
        join(tmp_path, Search(load_sweep_file(file), {}))
        (tmp_path / "points.sqlite").rename(tmp_path / "runs" / "a.sqlite")
        write_sweep(tmp_path, {"lr": {"values": [0.2]}}, name="a")  # changed meanwhile
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert main(["sweep", file, "--status"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"sweep a: 2 points, grid{'' if begun else ', not begun'}"
    assert said[1:] == (["waiting  2"] if begun else [])
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert after == before
