"""The dashboard's specification, against what a real run logs and what W&B's format wants.

The format is read back by wandb-workspaces itself. Run with ``pytest tests/dashboards``.
"""

from __future__ import annotations

import json
import re

import pytest
from wandb_workspaces.workspaces.internal import WorkspaceViewspec

import train
from lowrank import load_run
from lowrank.views.dashboard.workspace import build_workspace, view_name
from lowrank.views.figures import final_figures


def specification(workspace):
    return json.loads(workspace._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))


def panels(workspace):
    """Returns every panel's configuration by its kind and title."""
    sections = specification(workspace)["section"]["panelBankConfig"]["sections"]
    return [(panel["viewType"], panel["config"]) for s in sections for panel in s["panels"]]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A tiny real run whose rank bound is not vacuous: one image per step and strong decay."""
    directory = tmp_path_factory.mktemp("runs")
    flags = "--epochs=1 --depth=1 --width=64 --batch_norm=False --batch_size=1 --lr=1"
    code = train.main([
        *flags.split(), "--weight_decay=0.9", "--train_size=40", "--tracking=disabled",
        f"--output_dir={directory}", "--run_id=tiny",
    ])  # fmt: skip
    assert code == 0
    return load_run(directory / "tiny")


def test_every_metric_that_a_panel_shows_is_one_that_a_run_logs(run):
    workspace = build_workspace("me", "lowrank", ["lr", "weight_decay"])
    logged = set(run.metrics) | set(final_figures(run))
    assert any(name.startswith("rank_bound/") for name in logged)
    for _, config in panels(workspace):
        accessors = [column["accessor"] for column in config.get("columns", ())]
        accessors += [config[axis] for axis in ("xAxis", "yAxis") if ":" in config.get(axis, "")]
        fields = [a.removeprefix("config:") for a in accessors if a.startswith("config:")]
        names = {a.removeprefix("summary:") for a in accessors if a.startswith("summary:")}
        names |= {*config.get("metrics", ()), *config.get("mediaKeys", ())}
        names |= {config["targetKey"]} if "targetKey" in config else set()
        names |= {config["xAxis"]} if "xAxis" in config and not accessors else set()
        assert names <= logged
        assert {field.removesuffix(".value") for field in fields} <= run.config.keys()
        if "metricRegex" in config:
            assert any(re.search(config["metricRegex"], name) for name in logged)
        else:
            assert names


def test_the_rank_of_every_layer_is_in_one_panel(run):
    (panel,) = [
        config
        for _, config in panels(build_workspace("me", "lowrank", ["lr"]))
        if config.get("metricRegex") == "^rank/"
    ]
    matched = {name for name in run.metrics if re.search(panel["metricRegex"], name)}
    assert matched == {f"rank/{layer.name}" for layer in run.layers}


def test_the_first_panels_show_the_rank_by_each_swept_parameter():
    workspace = build_workspace("me", "lowrank", ["weight_decay", "lr", "batch_size"])
    for (kind, config), field in zip(
        panels(workspace), ["weight_decay", "lr", "batch_size"], strict=False
    ):
        assert kind == "Run History Line Plot"
        assert (config["metrics"], config["xAxis"]) == (["rank_mean"], "epoch")
        assert (config["groupBy"], config["groupAgg"], config["groupArea"]) == (
            f"{field}.value", "mean", "stddev",
        )  # fmt: skip


def test_few_panels_in_the_order_of_the_story():
    many = [f"vit_{name}" for name in ("patch", "depth", "heads", "width", "mlp_width")]
    sections = build_workspace("me", "lowrank", [*many, "lr", "batch_size"]).sections
    assert [section.name for section in sections] == [
        "Rank", "Accuracy", "Parameters", "Spectra", "Theory",
    ]  # fmt: skip
    assert sum(len(section.panels) for section in sections) <= 20
    assert [section.is_open for section in sections] == [True, True, True, False, False]


def test_without_swept_parameters_the_curves_are_of_single_runs():
    (_, first), *_ = panels(build_workspace("me", "lowrank", []))
    assert first["metrics"] == ["rank_mean"]
    assert "groupBy" not in first


@pytest.mark.parametrize(
    "shown",
    [
        {"sweep_id": "ab12cd34"},
        {"local_sweep": "fig05"},
        {"sweep_id": "fig05", "local_sweep": "fig05"},
    ],
    ids=["wandb", "local", "either"],
)
def test_only_the_runs_of_a_sweep_are_shown(shown):
    keys = {
        "sweep_id": {"section": "run", "name": "sweep"},
        "local_sweep": {"section": "config", "name": "sweep.value"},
    }
    (runs,) = specification(build_workspace("me", "lowrank", ["lr"], **shown))["section"]["runSets"]
    rules = runs["filters"]["filters"]
    assert [(rule["key"], rule["op"], rule["value"]) for rule in rules] == [
        (keys[name], "=", value) for name, value in shown.items()
    ]
    if len(rules) > 1:
        assert {rule.get("connector") for rule in rules[1:]} == {"OR"}, runs["filters"]


def test_the_table_of_runs_has_the_swept_columns():
    (runs,) = specification(build_workspace("me", "lowrank", ["lr", "batch_size"]))["section"][
        "runSets"
    ]
    assert runs["runFeed"]["columnOrder"] == [
        "run:displayName", "config:lr.value", "config:batch_size.value",
        "summary:rank_mean", "summary:test_accuracy", "summary:state",
    ]  # fmt: skip


def test_a_dashboard_has_one_place_that_only_depends_on_what_it_shows():
    places = [view_name("me", "lowrank", None), view_name("me", "lowrank", "fig05")]
    assert len({*places, view_name("you", "lowrank", None)}) == 3
    assert places == [view_name("me", "lowrank", None), view_name("me", "lowrank", "fig05")]
    assert all(re.fullmatch(r"nw-[0-9a-z]{11}-v", place) for place in places)
    named = build_workspace("me", "lowrank", ["lr"], name="Mine")
    assert named._to_model().name == places[0]


def test_the_specification_is_one_that_the_library_reads():
    text = json.dumps(specification(build_workspace("me", "lowrank", ["lr"], sweep_id="ab12")))
    again = WorkspaceViewspec.model_validate_json(text)
    assert again.section.panel_bank_config.sections[0].name == "Rank"
