"""The command line of ``lowrank agent``: what is read, and that all mistakes are told at once."""

from __future__ import annotations

import pytest

from lowrank.cli import main
from lowrank.commands.agent import Agent
from lowrank.common.errors import InputError


@pytest.mark.parametrize("path", ["me/lowrank/ab12cd34", "lowrank/ab12cd34", "ab12cd34"])
def test_a_sweep_is_named_as_wandb_accepts_it(path):
    assert Agent.read([path]) == Agent(sweep=path)


def test_every_flag_is_read_with_or_without_an_equals_sign():
    words = ["s", "--gpus", "0,1", "--per_gpu=2", "--pack=4", "--count", "7", "--output_dir=out"]
    expected = Agent(
        sweep="s",
        gpus="0,1",
        per_gpu=2,
        pack=4,
        count=7,
        output_dir="out",
        max_failures=5,
        stagger=0.5,
    )
    assert Agent.read([*words, "--max_failures=5", "--stagger=0.5"]) == expected


def test_all_mistakes_are_told_at_once():
    words = ["a/b/c/d", "--gpu=0", "--per_gpu=0", "--count=x", "--stagger=-1", "--max_failures"]
    with pytest.raises(InputError) as caught:
        Agent.read(words)
    assert caught.value.lines == [
        "unknown flag '--gpu=0', did you mean 'gpus'?",
        "max_failures: no value after --max_failures; allowed: 1 or more",
        "got 'a/b/c/d'; allowed: ENTITY/PROJECT/SWEEP or its end",
        "per_gpu: got '0'; allowed: 1 or more",
        "count: got 'x'; allowed: 1 or more",
        "stagger: got '-1'; allowed: seconds, 0 or more",
    ]


@pytest.mark.parametrize("stagger", ["nan", "inf", "-0.1"])
def test_a_stagger_is_a_time(stagger):
    with pytest.raises(InputError, match="allowed: seconds, 0 or more"):
        Agent.read(["s", f"--stagger={stagger}"])


def test_one_sweep_is_needed():
    with pytest.raises(InputError, match="which sweep"):
        Agent.read([])
    with pytest.raises(InputError, match="one sweep at a time, not a, b"):
        Agent.read(["a", "b"])


def test_a_kill_delay_that_is_no_number_is_told(monkeypatch, capsys):
    monkeypatch.setenv("WANDB_AGENT_KILL_DELAY", "soon")
    assert main(["agent", "s"]) == 2
    assert capsys.readouterr().err == (
        "lowrank: WANDB_AGENT_KILL_DELAY: got 'soon'; allowed: seconds\n"
    )


def test_the_help_names_every_flag(capsys):
    assert main(["agent", "--help"]) == 0
    text = capsys.readouterr().out
    flags = ("gpus", "per_gpu", "pack", "count", "output_dir", "max_failures", "stagger")
    assert all(f"--{flag}=" in text for flag in flags)
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("me/my ranks/ab12", "me/my ranks/ab12"),
        ("https://wandb.ai/me/my%20ranks/sweeps/ab12?nw=nwuserme", "me/my ranks/ab12"),
        ("http://localhost:8080/me/ranks/sweeps/ab12/overview", "me/ranks/ab12"),
        ("me/ranks/sweeps/ab12", "me/ranks/ab12"),
    ],
)
def test_projects_with_spaces_and_addresses_of_sweeps_are_read(given, path):
    assert Agent.read([given]).sweep == path


@pytest.mark.parametrize(
    "given",
    [
        "https://wandb.ai/me/ranks/runs/ab12",
        "https://wandb.ai/me/ranks",
        "ftp://wandb.ai/me/ranks/sweeps/ab12",
        "https://[wandb.ai/me/ranks/sweeps/ab12",
        "me/ranks /ab12",
        "me//ab12",
        "me/ra%2Fnks/ab12",
        "",
    ],
)
def test_what_names_no_sweep_is_refused(given):
    with pytest.raises(InputError, match="allowed: ENTITY/PROJECT/SWEEP or its end"):
        Agent.read([given])
