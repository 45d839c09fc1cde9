"""docs/extending.md: what it adds to the package is added to a copy, and used there.

A file or an entry each: a model, a data set, an optimiser, a quantity, an experiment and a command.
Run with ``pytest -m slow tests/test_extending.py``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lowrank
from tests.segments import records, segments

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
ADDED = re.findall(
    r"^<!-- test: added (\S+)(?: above (.*?))? -->\n```\w+\n(.*?)^```\n",
    PAGE,
    flags=re.DOTALL | re.MULTILINE,
)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The package with everything of the page, and both runs of its experiment."""
    directory = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "lowrank", directory / "lowrank")
    shutil.copy(ROOT / "train.py", directory)
    (directory / "sweeps").mkdir()
    for name, above, text in ADDED:
        file = directory / name
        before = file.read_text(encoding="utf-8") if file.exists() else ""
        place = before.index(above) if above else len(before)
        place = before.rfind("\n", 0, place) + 1 if above else place
        file.write_text(before[:place] + text + before[place:], encoding="utf-8")
    command(directory, "sweep", "sweeps/pyramid.yaml", "--gpus=none", "--tracking=offline")
    return directory


def command(directory, *words):
    """Runs a command of the copy, or ``train``; returns what it prints."""
    program = ["train.py"] if words[0] == "train" else ["-m", "lowrank", words[0]]
    return started(directory, *program, *words[1:])


def started(directory, *words):
    mine = {n: v for n, v in os.environ.items() if not n.startswith(("WANDB_", "LOWRANK_"))}
    result = subprocess.run(
        [sys.executable, *words],
        cwd=directory,
        env={**mine, "PYTHONPATH": str(directory), "WANDB_ERROR_REPORTING": "false"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_the_page_adds_each_kind():
    rooms = {name.removeprefix("lowrank/").split("/")[0] for name, _, _ in ADDED}
    assert rooms == {
        "models",
        "data",
        "config",
        "common",
        "measure",
        "commands",
        "cli.py",
        "sweeps",
    }


@pytest.mark.slow
def test_an_experiment_of_what_was_added_is_recorded_and_logged(copy):
    runs = lowrank.load_sweep(copy / "runs")
    assert sorted(run.config["weight_decay"] for run in runs) == [0.0, 0.1]
    for run in runs:
        assert run.state == "finished"
        assert [layer.shape for layer in run.layers] == [(40, 64), (20, 40), (10, 20), (2, 10)]
        (segment,) = segments(run.path.parent)
        last = records(segment, "history")[-1]["item"]
        for name, spectra in run.spectra.items():
            ratio = np.exp(np.log(spectra).mean(1)) / spectra.mean(1)
            recorded = run.metrics[f"spectral_flatness/{name}"]
            np.testing.assert_allclose(recorded, ratio, rtol=1e-12)
            assert last[f"spectral_flatness/{name}"] == recorded[-1]


@pytest.mark.slow
def test_a_quantity_that_was_added_is_shown_by_every_command(copy):
    few = ("--epochs=1", "--width=10", "--tracking=disabled", "--output_dir=others")
    trained = command(copy, "train", *few)
    assert "flat" in trained
    run = lowrank.load_sweep(copy / "runs")[0]
    measured = command(copy, "spectra", str(run.path.parent / "checkpoint.pt"), "--json")
    assert "spectral_flatness" in measured
    command(copy, "report", str(run.path.parent), "--output=report.html")
    assert "spectral flatness" in (copy / "report.html").read_text(encoding="utf-8")
    drawn = command(copy, "figures", "runs", "--metric=spectral_flatness_mean", "--format=svg")
    assert "average spectral flatness over epochs" in drawn.replace(" and accuracy", "")
    program = "from lowrank.views.dashboard.workspace import build_workspace as build\n"
    program += "print(build('me', 'p', ['lr'])._to_model().spec)"
    assert "spectral_flatness_mean" in started(copy, "-c", program)


@pytest.mark.slow
def test_a_command_that_was_added_is_one_of_the_others(copy):
    ranks = {run.id: run.metrics["rank_mean"][-1] for run in lowrank.load_sweep(copy / "runs")}
    lines = command(copy, "lowest", "runs", "--count=2").splitlines()
    assert lines == [f"{name}: {ranks[name]:.1f}" for name in sorted(ranks, key=ranks.get)]
    assert "lowrank lowest PATH... [--count=N]" in command(copy, "--help")
    assert "--count=N        how many; default 1" in command(copy, "lowest", "--help")
