"""Metrics of layers: networks are built and asked, and a sweep about a layer of none is refused."""

from __future__ import annotations

import pytest
import yaml

from lowrank.cli import main
from lowrank.common.errors import InputError
from lowrank.config.sweepfile import Distribution, Fixed, Values
from lowrank.launch.agents import preflight
from lowrank.launch.layers import check_metric, networks_of

DEEP = {"depth": Values((2, 3)), "width": Fixed(8), "lr": Distribution("uniform", {})}


def test_a_layer_of_any_network_will_do_and_one_of_none_is_told_with_the_nearest():
    for name in ("rank/linear3", "stable_rank/classifier", "rank_mean"):
        check_metric(name, networks_of(DEEP, {}))
    with pytest.raises(InputError, match=r"such a layer; allowed: .*, did you mean 'rank/linear3'"):
        check_metric("rank/linear4", networks_of(DEEP, {}))
    with pytest.raises(InputError, match="no network of this sweep has such a layer"):
        check_metric("rank/linear3", networks_of(DEEP, {"depth": 2}))


def test_what_a_search_draws_of_the_network_is_not_guessed():
    drawn = DEEP | {"depth": Distribution("int_uniform", {"min": 1, "max": 9})}
    check_metric("rank/linear99", networks_of(drawn, {}))


def test_seconds_and_throughput_are_no_metrics_of_a_layer():
    for name in ("time/train", "throughput/images_per_second"):
        check_metric(name, networks_of(DEEP, {}))


def test_the_mean_of_a_part_is_no_metric_of_a_layer():
    check_metric("rank_mean/linears", networks_of({"model": Fixed("mixed")}, {}))


def test_sweep_and_agent_refuse_a_search_that_would_be_blind(tmp_path, monkeypatch, capsys):
    parameters = {"config": {"value": "{depth: 2, width: 8}"}, "lr": {"values": [0.1, 0.2]}}
    raw = {"program": "train.py", "method": "grid", "parameters": parameters}
    raw["metric"] = {"name": "rank/linear7", "goal": "minimize"}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(raw))
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", "sweep.yaml", "--dry_run"]) == 2
    assert "got 'rank/linear7', but no network of this sweep has" in capsys.readouterr().err
    with pytest.raises(InputError, match="got 'rank/linear7', but no network of this sweep has"):
        preflight.metric(raw)
    preflight.metric(raw | {"metric": {"name": "rank/linear2"}})
