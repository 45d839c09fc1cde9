"""W&B's own settings: what they decide, what is refused, and that every bad one has its line.

Run with ``pytest tests/tracking/test_account.py``.
"""

from __future__ import annotations

import pytest
import wandb

import lowrank
from lowrank import cli
from lowrank.tracking import segments
from tests.segments import inspect
from train import main

TINY = ("--train_size=64", "--width=8", "--depth=1", "--threads=1", "--epochs=1")
KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """Writes the settings file of the working directory, as `wandb offline` does."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wandb").mkdir()

    def write(**values):
        lines = ["[default]", *(f"{name} = {value}" for name, value in values.items())]
        (tmp_path / "wandb/settings").write_text("\n".join(lines))

    return write


def test_the_clients_settings_decide_what_the_command_line_leaves_open(
    settings, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_RUN_GROUP", "wd")
    settings(mode="offline", project="mine", entity="team")
    assert main([*TINY, "--run_id=a"]) == 0
    assert "W&B: tracking offline, as `wandb offline` says" in capsys.readouterr().out
    (log,) = segments.find(tmp_path / "runs/a", "a")
    assert inspect(log.parent, "--summary")["project"] == "mine"
    config = lowrank.load_run("runs/a").config
    assert (config["project"], config["entity"], config["group"]) == ("mine", "team", "wd")

    assert main([*TINY, "--run_id=b", "--project=other"]) == 0
    assert lowrank.load_run("runs/b").config["project"] == "other", "what is given wins"

    wandb.teardown()
    settings(mode="disabled")
    capsys.readouterr()
    assert main([*TINY, "--run_id=c"]) == 0
    assert "W&B: tracking disabled, as `wandb disabled` says" in capsys.readouterr().out
    assert not (tmp_path / "runs/c/wandb").exists()


BAD = {
    "WANDB_BASE_URL": "localhost:8080/",
    "WANDB_API_KEY": f"{KEY}\n",
    "WANDB_RESUME": "true",
    "WANDB_CONSOLE": "none",
    "WANDB_INIT_TIMEOUT": "abc",
    "WANDB_SILENT": "x",
}


@pytest.mark.parametrize("tracking", ["auto", "offline"])
def test_every_bad_value_of_wandbs_variables_has_its_line(tmp_path, monkeypatch, capsys, tracking):
    monkeypatch.chdir(tmp_path)
    for name, value in BAD.items():
        monkeypatch.setenv(name, value)
    assert main([*TINY, f"--tracking={tracking}"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(BAD), lines
    for name, line in zip(sorted(BAD), sorted(lines), strict=True):
        assert line.startswith(f"train.py: {name}"), line
    assert not any(KEY in line for line in lines)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "command", [["dashboard", "team/project"], ["rerun", "team/project/abc"], ["sync", "."]],
    ids=lambda words: words[0],
)  # fmt: skip
def test_every_command_that_asks_wandb_says_so_in_a_line(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_CONSOLE", "none")
    assert cli.main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("lowrank: WANDB_CONSOLE=none: W&B does not take it")


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"WANDB_RESUME": "must"}, "WANDB_RESUME=must, but there is no directory of a run a"),
        (
            {"WANDB_RESUME_FROM": "a?_step=1"},
            "WANDB_RESUME_FROM: a run goes on where its directory",
        ),
        ({"WANDB_FORK_FROM": "b?_step=1"}, "WANDB_FORK_FROM: a run goes on where its directory"),
        ({"WANDB_SWEEP_ID": "s"}, "WANDB_SWEEP_ID without WANDB_RUN_ID: an agent sets both"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_identity_that_the_directory_contradicts_is_refused(
    tmp_path, monkeypatch, capsys, variables, told
):
    monkeypatch.chdir(tmp_path)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert main([*TINY, "--run_id=a", "--tracking=offline"]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "runs/a").exists()


def test_wandb_resume_never_mixes_two_trainings(wandb_server, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_RUN_ID", "r")
    monkeypatch.setenv("WANDB_RESUME", "allow")
    assert main([*TINY, "--tracking=online"]) == 0
    before = wandb_server.run("r")
    history, config = before.history, before.config
    (tmp_path / "runs").rename(tmp_path / "deleted")
    assert main([*TINY, "--tracking=online", "--lr=0.2"]) == 2
    assert "W&B holds epochs of a run r in project lowrank" in capsys.readouterr().err
    assert (wandb_server.run("r").history, wandb_server.run("r").config) == (history, config)

    (tmp_path / "deleted").rename(tmp_path / "runs")
    assert main([*TINY[:-1], "--epochs=2", "--tracking=online"]) == 0
    assert [row["_step"] for row in wandb_server.run("r").history] == [0, 1, 2]
