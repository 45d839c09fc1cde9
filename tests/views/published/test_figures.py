"""The published figures' settings, against the paper's facts and against each other."""

from __future__ import annotations

import csv
from importlib.resources import files

import pytest

from lowrank.common.errors import InputError
from lowrank.config import Config
from lowrank.config.datasets import DATASETS
from lowrank.config.families import FAMILIES
from lowrank.views.published.figures import compared, is_figure, of_figure, published


def test_every_value_of_the_file_is_of_a_point():
    text = (files("lowrank.views.published") / "figures.csv").read_text("utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    points = {(p.figure, p.panel, float(p.x)): p for p in published()}
    assert len(rows) == sum(len(point.values) for point in points.values()) == 732
    for row in rows:
        point = points[row["figure"], row["panel"], float(row["x"])]
        assert point.values[row["series"]] == float(row["value"])
        assert point.settings[row["x_name"]] == float(row["x"])


def test_the_points_of_figure_7_have_the_papers_settings():
    point = of_figure("7 B 128")[-1]
    assert point.epsilon == 0.03
    assert point.epoch == 490
    expected = {
        "model": "mlp", "depth": 10, "width": 100, "batch_norm": True, "dataset": "cifar10",
        "optimizer": "sgd", "lr": 0.1, "momentum": 0.0, "weight_decay": 6e-3, "batch_size": 128,
        "epochs": 500, "milestones": (60, 100, 200), "gamma": 0.2, "loss": "cross_entropy",
        "activation": "relu", "augment": False,
    }  # fmt: skip
    assert expected.items() <= point.settings.items()
    assert not {"seed", "data_dir", "device", "vit_heads", "dropout"} & point.settings.keys()


def test_points_of_the_same_settings_have_the_same_values():
    """Figure 9 repeats points of Figures 7 and 8: with wrong settings they would not meet."""
    values = {}
    for point in published():
        key = (frozenset(point.settings.items()), point.epsilon)
        values.setdefault(key, []).append(point.values)
    repeated = [found for found in values.values() if len(found) > 1]
    assert len(repeated) == 5  # batch sizes 4 to 128 without 64
    assert all(found[0] == found[1] for found in repeated)


def test_the_settings_can_be_trained():
    for point in published():
        if point.settings["model"] in FAMILIES and point.settings["dataset"] in DATASETS:
            config = Config(**point.settings)
            assert compared({**config.recorded(), "milestones": config.milestones}) == dict(
                point.settings
            )


def test_points_that_died_are_those_at_the_accuracy_of_chance():
    died = [(p.figure, p.panel, p.x) for p in published() if p.died]
    assert len(died) == 7
    assert ("2", "B 4", 2.0) in died
    assert ("15", "Places365-100k", 2.0) not in died  # 11 % of 365 classes


@pytest.mark.parametrize(
    ("asked", "panels"),
    [
        ("7", {"B 32", "B 128"}),
        ("4a", {"a: lr 1e-3 wd 6e-3"}),
        ("9lr0.1", {"lr 0.1"}),
        ("2: B 1", {"B 16"}),
        ("14svhn", {"SVHN"}),
    ],
)
def test_a_figure_and_a_panel_are_found(asked, panels):
    assert is_figure(asked)
    assert {point.panel for point in of_figure(asked)} == panels


@pytest.mark.parametrize(
    ("asked", "told"),
    [("12", "figure: got '12'; there are numbers of 2, 3"), ("7 B 64", "panel: got ' B 64' of")],
)
def test_an_unknown_figure_or_panel_is_told(asked, told):
    with pytest.raises(InputError, match=told):
        of_figure(asked)
