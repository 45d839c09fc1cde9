"""What runs of a sweep are called: the values that differ, written by hand.

python -m pytest tests/launch/test_names.py
"""

import pytest

from lowrank.config.sweepfile import load_sweep_file
from lowrank.launch.agents.agent import name_of
from lowrank.launch.names import display_name
from lowrank.launch.sweeps.search import Search

FILE = """
program: train.py
method: grid
parameters:
  epochs: {value: 3}
  seed: {values: [0, 1]}
  milestones: {values: [[], [2, 3]]}
  config: {values: ['{lr: 0.1, weight_decay: 1e-4}', '{lr: 0.2, weight_decay: 1e-4}']}
"""


def names(words):
    return [word for word in words if word.startswith("--name=")]


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({}, ["--name=lr=0.1 milestones=2,3 s1"]),
        ({"lr": 0.5}, ["--name=milestones=2,3 s1"]),
        ({"name": "mine"}, ["--name=mine"]),
        ({"seed": 0, "milestones": [2], "lr": 0.5}, []),
    ],
    ids=["point", "override", "by hand", "nothing varies"],
)
def test_a_point_is_named_by_what_varies(tmp_path, overrides, named):
    path = tmp_path / "a.yaml"
    path.write_text(FILE)
    search = Search(load_sweep_file(path), overrides)
    point = {"epochs": 3, "seed": 1, "milestones": [2, 3], "config": "{lr: 0.1}"}
    assert names(search.command(point)) == named


@pytest.mark.parametrize("variable", ["LOWRANK_NAME", "WANDB_NAME"])
def test_a_variable_names_runs_otherwise(tmp_path, monkeypatch, variable):
    monkeypatch.setenv(variable, "mine")
    path = tmp_path / "a.yaml"
    path.write_text(FILE)
    search = Search(load_sweep_file(path), {})
    assert names(search.command({"seed": 1})) == []


def test_a_name_is_one_line_that_wandb_and_the_environment_take():
    assert display_name(["a", "b"], {"a": "x\0\ny\ud800", "b": True}) == "a=xy b=True"
    assert len(display_name(["a"], {"a": "x" * 500})) == 128
    point = {"config": {"value": "{lr: [}"}, "a": {"value": [1, 0.5]}, "b": "no mapping"}
    assert name_of(point, ["a", "lr"]) == "a=1,0.5"
