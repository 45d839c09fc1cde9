"""What a sweep or a project's runs vary, against lists written out by hand."""

from __future__ import annotations

import pytest

from lowrank.views.dashboard.swept import swept_by_runs, swept_by_sweep


@pytest.mark.parametrize(
    ("parameters", "fields"),
    [
        ({"lr": {"values": [0.1, 0.2]}, "depth": {"value": 5}}, ["lr"]),
        ({"lr": {"min": 1e-3, "max": 1.0, "distribution": "log_uniform_values"}}, ["lr"]),
        ({"weight_decay": {"values": [0, 1e-4]}, "lr": {"values": [1]}}, ["weight_decay"]),
        ({"seed": {"values": [0, 1, 2]}, "batch_size": {"values": [4, 8]}}, ["batch_size"]),
        (
            {"config": {"values": ["{lr: 0.1, width: 4}", {"lr": 0.1, "width": 8}]}},
            ["width"],
        ),
        ({"config": {"values": ["{lr: 0.1", "no mapping", 3]}}, []),
        ({"<script>": {"values": [1, 2]}, "lr": "not a mapping", "momentum": {}}, ["momentum"]),
        ({}, []),
    ],
    ids=[
        "values",
        "distribution",
        "one value",
        "seeds",
        "coupled",
        "unreadable",
        "hostile",
        "none",
    ],
)
def test_the_fields_that_a_sweep_varies(parameters, fields):
    assert swept_by_sweep(parameters) == fields


def test_the_fields_that_differ_between_runs():
    runs = [
        {"lr": 0.1, "batch_size": 4, "seed": 0, "name": "a", "milestones": [3], "other": 1},
        {"lr": 0.2, "batch_size": 4, "seed": 1, "name": "b", "milestones": [4], "other": 2},
    ]
    assert swept_by_runs(runs) == ["lr", "milestones"]
    assert swept_by_runs(runs[:1]) == swept_by_runs([]) == []


OTHERS = {  # no parameters of an experiment, however they differ
    "replicas": 2,  # of an earlier version
    "measure_every": 5,
    "compile": True,
    "sweep": "grid",
    "on_collapse": "stop",
    "deterministic": True,
    "epsilons": [0.1],
    "rank_norm": "spectral",
}


def test_how_a_run_is_computed_and_measured_is_no_swept_parameter():
    assert swept_by_runs([{"lr": 0.1}, {"lr": 0.2, **OTHERS}, {"lr": 0.2}]) == ["lr"]
    parameters = {name: {"values": [1, 2]} for name in ("lr", *OTHERS)}
    assert swept_by_sweep(parameters) == ["lr"]
    assert swept_by_sweep({"precision": {"values": ["fp32", "bf16"]}}) == ["precision"]
