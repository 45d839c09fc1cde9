"""Which runs are of one sweep: what figures, report and runs show with ``--sweep``.

Records are made with what they hold of their sweep; who belongs to it is written down beside them.
"""

from __future__ import annotations

import csv
import io
from itertools import product

import pytest

import train
from lowrank import load_run
from lowrank.cli import main
from lowrank.common.errors import InputError
from lowrank.runs.find import find_runs
from lowrank.runs.sweeps import is_of, sweep_of
from lowrank.views.table.choice import of_sweep
from tests.views.table.records import make_run

FILE = """\
program: train.py
name: ours
method: grid
metric: {name: rank_mean, goal: minimize}
parameters:
  model: {value: resmlp}
  weight_decay: {value: 0.01}
  lr: {values: [0.1, 0.2]}
  batch_size: {values: [8, 16]}
"""
FIXED = {"model": "resmlp", "weight_decay": 0.01}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file.yaml"
    path.write_text(FILE)
    return str(path)


@pytest.fixture
def add(tmp_path):
    """Makes a run; `path` is that of its W&B sweep."""

    def make(name, path=None, **fields):
        environment = {"sweep": path} if path else {}
        fields = {"lr": 0.1, "batch_size": 8, **FIXED, **fields}
        make_run(tmp_path / "runs" / name, [9, 4], environment=environment, **fields)

    return make


def grid():
    return product((0.1, 0.2), (8, 16))


def chosen(tmp_path, sweep):
    runs, _, lines = of_sweep(find_runs(tmp_path / "runs")[0], sweep)
    return [run.id for run in runs], lines


@pytest.mark.parametrize(
    "sweep",
    ["ab12", "ranks/ab12", "me/ranks/ab12", "https://wandb.ai/me/ranks/sweeps/ab12?nw=x"],
)
def test_a_wandb_sweep_is_chosen_by_its_id_its_path_or_its_address(add, tmp_path, sweep):
    add("a", "me/ranks/ab12")
    add("b", "me/ranks/cd34")
    add("c")
    add("d", sweep="ab13")
    found, lines = chosen(tmp_path, sweep)
    assert found == ["a"]
    assert lines == [
        "left out: run b is of the sweep me/ranks/cd34",
        "left out: run c is of no sweep",
        "left out: run d is of the sweep ab13",
    ]


def test_a_sweep_of_another_project_is_another_one(add, tmp_path):
    add("a", "me/ranks/ab12")
    add("b", "me/other/ab12")
    assert chosen(tmp_path, "me/other/ab12")[0] == ["b"]


def test_a_local_sweep_is_chosen_by_its_name(add, tmp_path):
    add("a", sweep="ours")
    add("b", sweep="theirs")
    assert chosen(tmp_path, "ours") == (["a"], ["left out: run b is of the sweep theirs"])
    with pytest.raises(InputError, match=r"no run is of our, did you mean 'ours'\?"):
        chosen(tmp_path, "our")


def test_a_file_chooses_the_runs_of_its_name_and_those_with_its_fixed_values(add, tmp_path, file):
    add("named", sweep="ours")
    add("other", sweep="theirs")
    add("fits", "me/ranks/ab12", lr=0.2)
    add("hand", batch_size=16)
    add("model", model="mlp")
    add("decay", "me/ranks/cd34", weight_decay=0.02)
    add("depth", depth=7)
    add("point", lr=0.3)
    found, lines = chosen(tmp_path, file)
    assert found == ["fits", "hand", "named"]
    assert lines == [
        "left out: run point is at no point of the sweep (lr=0.3 batch_size=8)",
        "left out: run decay is at weight_decay=0.02, not at weight_decay=0.01",
        "left out: run model is at model=mlp, not at model=resmlp",
        "left out: run other is of the sweep theirs",
        "left out: run depth is at depth=7, not at depth=5",
    ]


def test_overridden_fixed_values_are_said(add, tmp_path, file):
    for number, (lr, batch_size) in enumerate(grid()):
        add(f"r{number}", sweep="ours", lr=lr, batch_size=batch_size, model="mlp")
    found, lines = chosen(tmp_path, file)
    assert found == ["r0", "r1", "r2", "r3"]
    assert lines == [f"overridden: model=mlp, resmlp in {file}"]


def test_a_fixed_value_that_makes_no_other_experiment_is_not_taken_for_overridden(add, tmp_path):
    path = tmp_path / "file.yaml"
    path.write_text(f"{FILE}  seed: {{value: 3}}\n  on_collapse: {{value: continue}}\n")
    for number, (lr, batch_size) in enumerate(grid()):
        add(f"r{number}", sweep="ours", lr=lr, batch_size=batch_size, seed=3)
    assert chosen(tmp_path, str(path)) == (["r0", "r1", "r2", "r3"], [])


def test_runs_with_other_fixed_values_are_not_drawn_in(add, tmp_path, file, capsys, monkeypatch):
    """As many points of another model, in the same directory: they are no points of the file."""
    monkeypatch.chdir(tmp_path)
    for number, (lr, batch_size) in enumerate(grid()):
        add(f"r{number}", lr=lr, batch_size=batch_size)
        add(f"x{number}", lr=lr, batch_size=batch_size, model="mlp", sweep="ours")
    said = "left out: 4 runs are at model=mlp, not at model=resmlp"
    words = ["runs", f"--sweep={file}"]
    assert main(["figures", *words, "--kind=landscape", "--output=f.png", "--csv"]) == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.endswith(", 4 runs") and rest == [said]
    assert main(["report", *words]) == 0
    assert capsys.readouterr().out.startswith(f"{said}\nreport of 4 runs")
    assert main(["runs", *words, "--csv"]) == 0
    captured = capsys.readouterr()
    assert captured.err == f"{said}\n"
    listed = [row["run"] for row in csv.DictReader(io.StringIO(captured.out))]
    assert listed == ["r0", "r1", "r2", "r3"]


def test_of_a_random_search_the_fixed_values_count(add, tmp_path):
    path = tmp_path / "random.yaml"
    text = FILE.replace("method: grid", "method: random\nrun_cap: 9").replace("ours", "other")
    path.write_text(text.replace("{values: [0.1, 0.2]}", "{min: 0.1, max: 0.2}"))
    add("a", "me/ranks/ab12", lr=0.123)
    add("b", "me/ranks/ab12", lr=0.123, model="mlp")
    assert chosen(tmp_path, str(path))[0] == ["a"]


@pytest.mark.parametrize("given", ["9ivv6x", "9ivv6x-NNNN"])
def test_a_sweep_without_a_server_is_chosen_by_what_its_ids_begin_with(add, tmp_path, given):
    add("9ivv6x-0000", sweep="ours")
    add("9ivv6x-0001", sweep="ours", lr=0.2)
    add("9ivv6x", sweep="others")
    add("abcdef-0000", sweep="ours")
    add("9ivv6x-0002", "me/ranks/ab12")
    assert chosen(tmp_path, given)[0] == ["9ivv6x-0000", "9ivv6x-0001"]


@pytest.mark.parametrize("command", ["figures", "report", "runs"])
def test_no_run_of_the_sweep_is_bad_input(add, tmp_path, command, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    add("a", sweep="ours")
    assert main([command, "runs", "--sweep=outs"]) == 2
    assert "no run is of outs, did you mean 'ours'?" in capsys.readouterr().err


def test_the_record_keeps_the_sweep(tmp_path, monkeypatch):
    words = "--epochs=0 --width=8 --depth=1 --train_size=32 --tracking=disabled --device=cpu"
    words = [*words.split(), f"--output_dir={tmp_path}"]
    assert train.main([*words, "--run_id=alone"]) == 0
    assert train.main([*words, "--run_id=local", "--sweep=ours"]) == 0
    monkeypatch.setenv("WANDB_SWEEP_ID", "ab12")
    monkeypatch.setenv("WANDB_ENTITY", "me")
    monkeypatch.setenv("WANDB_PROJECT", "my ranks")
    assert train.main([*words, "--run_id=wandb"]) == 0
    runs = {name: load_run(tmp_path / name) for name in ("alone", "local", "wandb")}
    assert {name: sweep_of(run) for name, run in runs.items()} == {
        "alone": None,
        "local": "ours",
        "wandb": "me/my ranks/ab12",
    }
    assert is_of(runs["wandb"], "https://wandb.ai/me/my%20ranks/sweeps/ab12")
