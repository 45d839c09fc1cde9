"""The command line of ``lowrank sweep``, without training: mistakes, and the list of points."""

from __future__ import annotations

import subprocess
import sys

import pytest
import yaml

from lowrank.cli import main
from lowrank.commands.sweep import Sweep
from lowrank.common.signals import Interrupted
from tests.launch.sweeps.helpers import write_sweep


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return str(write_sweep(tmp_path, {"lr": {"values": [0.1, 0.2]}, "seed": {"values": [0, 1]}}))


def test_all_mistakes_of_a_call_are_told_at_once(file, capsys):
    words = ["--weight_dcay=1", "--per_gpu=0", "--lr=fast", "--run_id=x", "--count=many", "-x"]
    assert main(["sweep", file, *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "unknown flag '--weight_dcay=1', did you mean 'weight_decay'?" in lines[0]
    assert "unknown flag '-x'" in lines[1]
    text = "\n".join(lines)
    for expected in (
        "per_gpu: got '0'; allowed: a whole number of at least 1",
        "count: got 'many'",
        "run_id: lowrank sweep sets it for each point",
        "lr: got 'fast' from --lr; allowed: a finite number above 0",
    ):
        assert expected in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "which sweep file?"),
        (["nothing.yaml"], "cannot read nothing.yaml"),
        (["tiny.yaml", "--lr"], "lr: no value after --lr"),
        (["tiny.yaml", "--lr=1", "--lr=2"], "lr: given twice"),
        (["tiny.yaml", "--dry_run=maybe"], "dry_run: got 'maybe'; allowed: True or False"),
        (["tiny.yaml", "--storage=nonsense"], "storage: got 'nonsense'"),
    ],
)
@pytest.mark.usefixtures("file")
def test_bad_input_is_one_line_and_exit_code_2(words, message, capsys):
    assert main(["sweep", "--gpus=none", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_a_dry_run_lists_every_command_and_touches_nothing(file, tmp_path, capsys):
    before = sorted(tmp_path.iterdir())
    assert main(["sweep", file, "--dry_run", "--epochs=7"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "sweep tiny: 4 points, grid"
    for line, (lr, seed) in zip(lines[1:], [(0.1, 0), (0.1, 1), (0.2, 0), (0.2, 1)], strict=True):
        assert " python train.py --" in line
        assert f" --lr={lr} --seed={seed} " in line
        assert "--epochs=7" in line
        assert float(line.split("e-folds")[1].split()[0]) == pytest.approx(
            7 * 64 / 16 * 5e-4 * lr, rel=0.01
        )
        assert "--tracking=offline --group=tiny" in line
    assert sorted(tmp_path.iterdir()) == before


def test_a_dry_run_lists_random_points_if_a_seed_makes_them(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = str(write_sweep(tmp_path, {"lr": {"min": 0.1, "max": 1.0}}, method="random", run_cap=3))
    listed = []
    for words in ([], ["--search_seed=1"], ["--search_seed=1"], ["--search_seed=2"]):
        assert main(["sweep", path, "--dry_run", *words]) == 0
        listed.append(capsys.readouterr().out)
    assert "with --search_seed=N" in listed[0]
    assert listed[1].count(" --lr=0.") == 3
    assert listed[1] == listed[2] != listed[3]


def test_a_program_that_is_nowhere_is_bad_input(file, tmp_path, capsys):
    (tmp_path / "train.py").unlink()
    assert main(["sweep", file, "--gpus=none"]) == 2
    assert "there is no train.py in" in capsys.readouterr().err


def test_another_sweep_under_the_same_name_is_refused(file, tmp_path, capsys):
    from lowrank.launch.sweeps.identity import begin
    from lowrank.launch.sweeps.storage import file_url, open_storage

    storage = open_storage(file_url(tmp_path / "points.sqlite"))
    raw = yaml.safe_load((tmp_path / "tiny.yaml").read_text())
    raw["parameters"]["lr"]["values"] = [0.3]
    begin(
        storage,
        "tiny",
        direction="minimize",
        definition={
            "method": "grid",
            "metric": None,
            "parameters": raw["parameters"],
            "overrides": {},
        },
        search_seed=0,
        heartbeat=None,
    )[0].set_user_attr("ready", True)
    url = f"--storage=sqlite:///{tmp_path / 'points.sqlite'}"
    assert main(["sweep", file, "--gpus=none", url]) == 2
    error = capsys.readouterr().err
    assert "parameters.lr.values was [0.3], not [0.1, 0.2]" in error
    assert "another name in its file, or another storage" in error


def test_a_value_may_stand_behind_its_flag(tmp_path):
    file = write_sweep(tmp_path, {"seed": {"values": [0]}})
    words = [str(file), "--per_gpu", "2", "--epochs", "3"]
    assert Sweep.read(words) == Sweep.read([str(file), "--per_gpu=2", "--epochs=3"])


def test_a_dry_run_says_what_has_no_effect_at_which_points(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    optimizers, moments = {"values": ["sgd", "adam"]}, {"values": [0.5, 0.9]}
    write_sweep(tmp_path, {"optimizer": optimizers, "momentum": moments})
    assert main(["sweep", "tiny.yaml", "--dry_run", "--milestones=9", "--epochs=5"]) == 2
    assert "milestones=[9] has no effect with epochs=5" in capsys.readouterr().err
    assert main(["sweep", "tiny.yaml", "--dry_run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "sweep tiny: 3 points, grid", "adam is one point"
    assert lines[-1] == (
        "at 1 point momentum=0.5 has no effect with optimizer=adam, only with optimizer=sgd; "
        "momentum is left at 0.0"
    )
    assert "4 combinations of values are 3 points: the others differ" in lines[1]
    assert main(["sweep", "tiny.yaml", "--dry_run", "--optimizer=sgd"]) == 0
    assert "combinations" not in capsys.readouterr().out


def test_a_second_signal_ends_with_the_line_on_how_to_go_on(file, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise Interrupted(130)

    monkeypatch.setattr("lowrank.launch.sweeps.run.run_sweep", interrupted)
    assert main(["sweep", file, "--gpus=none"]) == 130
    assert capsys.readouterr().out == "the same command again runs what is missing\n"


def test_all_refusals_of_a_file_come_together(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lr = {"distribution": "q_uniform", "min": 0.5, "max": 0.7, "q": 0.4}
    parameters = {"lr": lr, "depht": {"value": 3}, "seed": {"values": [0, 1]}}
    more = {"early_terminate": {"type": "hyperband", "min_iter": 3, "eta": 2.5}}
    more |= {"metric": {"name": "val_acc"}, "project": "me/proj", "run_cap": 3}
    write_sweep(tmp_path, parameters, method="random", **more)
    assert main(["sweep", "tiny.yaml", "--dry_run"]) == 2
    errors = capsys.readouterr().err
    for part in ("val_acc", "me/proj", "'depht'", "lr: no multiple of q", "eta: got 2.5"):
        assert part in errors
    stopping = {"type": "hyperband", "min_iter": "3" * 99, "eta": 1e300}
    write_sweep(tmp_path, {"seed": {"values": [0, 1]}}, early_terminate=stopping)
    assert main(["sweep", "tiny.yaml", "--dry_run"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "early_terminate.min_iter: got '3" in line


def test_conflicts_and_a_missing_end_are_told_with_the_rest(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny = {"epochs": 20, "milestones": [60], "optimizer": "adm", "momentum": 0.9}
    parameters = {"lr": {"min": 0.1, "max": 1.0}, "output_dir": {"value": "x"}}
    write_sweep(tmp_path, parameters, method="random", tiny=tiny, metric={"name": "val_acc"})
    assert main(["sweep", "tiny.yaml", "--dry_run"]) == 2
    lines = capsys.readouterr().err.splitlines()
    for part in (
        "'val_acc'",
        "optimizer: got 'adm'",
        "milestones=[60] has no effect with epochs=20",
        "output_dir is no parameter here",
        "method random has no end",
    ):
        assert len([line for line in lines if part in line]) == 1, lines
    assert len(lines) == 5  # of a name that is none, no conflict is told

    parameters = {"lr": {"values": [0.1, 20]}, "weight_decay": {"values": [0, 0.1]}}
    write_sweep(tmp_path, parameters, project="me/p")
    assert main(["sweep", "tiny.yaml", "--dry_run"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "me/p" in first
    assert "lr x weight_decay is 2" in second


def test_a_dry_run_prints_no_line_of_optunas(tmp_path):
    path = str(write_sweep(tmp_path, {"lr": {"min": 0.1, "max": 1.0}}, method="random", run_cap=3))
    words = [sys.executable, "-m", "lowrank", "sweep", path, "--dry_run", "--search_seed=1"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 4
    assert done.stderr == ""
