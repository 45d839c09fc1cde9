"""One entry of the table of quantities is all that a new one takes.

A quantity made up here, Σσ/σ_1, is put into the table; then it must be wherever the others are,
with numpy's value. Run with ``pytest tests/measure/test_quantities.py``.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

import lowrank
from lowrank.measure.metrics import is_hidden
from lowrank.measure.quantities import TABLE, LayerQuantity, described
from lowrank.tracking.rows import RowLogger
from lowrank.training.console import layer_table

NEW = LayerQuantity(
    "nuclear_rank",
    "nuclear rank",
    "Σσ/σ_1",
    lambda s: np.sum(s, axis=-1) / np.max(s, axis=-1),
    head="nuclear",
    form=".3f",
    on_dashboard=True,
    in_console=True,
)


@pytest.fixture
def new(monkeypatch):
    monkeypatch.setitem(TABLE, NEW.name, NEW)


class FakeRun:
    """What `RowLogger` needs of a W&B run."""

    def __init__(self):
        self.rows, self.hidden, self.summary, self.id, self.config = [], {}, {}, "fake", {}

    def define_metric(self, name, *, hidden, **_):
        self.hidden[name] = hidden

    def log(self, row, **_):
        self.rows.append(row)


@pytest.fixture
def logged(new, tmp_path):  # noqa: ARG001  # the table must be changed first
    """A network of one's own that was recorded and logged once: run, W&B's side, values."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(4, 3))
    watcher = lowrank.watch(model, record=tmp_path / "run")
    wandb = FakeRun()
    row = watcher.log(0)
    RowLogger(wandb, rank_norm="frobenius").log(row, {})
    watcher.close()
    spectra = [np.linalg.svd(m.weight.detach().double(), compute_uv=False) for m in model]
    torch.save(model.state_dict(), tmp_path / "model.pt")
    return (
        lowrank.load_run(tmp_path / "run"),
        wandb,
        [s.sum() / s[0] for s in spectra],
        tmp_path / "model.pt",
    )


def test_the_record_holds_it(logged):
    run, _, values, _ = logged
    assert [run.metrics[f"nuclear_rank/{i}"][0] for i in range(3)] == pytest.approx(values)
    assert run.metrics["nuclear_rank_mean"][0] == pytest.approx(np.mean(values[:2]))


def test_wandb_gets_it_hidden_but_for_its_mean(logged):
    _, wandb, values, _ = logged
    assert wandb.rows[0]["nuclear_rank/1"] == pytest.approx(values[1])
    assert wandb.hidden["nuclear_rank/1"]
    assert not wandb.hidden["nuclear_rank_mean"]
    assert is_hidden("nuclear_rank/1")


def test_the_console_shows_it(logged):
    run, _, values, _ = logged
    row = {name: float(run.metrics[name][0]) for name in run.metrics}
    lines = [line.split() for line in layer_table(run.layers, row, row).splitlines()]
    assert lines[0][-1] == "nuclear"
    assert [line[-1] for line in lines[1:4]] == [f"{value:.3f}" for value in values]
    assert lines[4][-1] == f"{np.mean(values[:2]):.3f}"


def test_files_are_measured_with_it(logged):
    from lowrank.views.spectra.quantities import measure, to_csv, to_json
    from lowrank.views.spectra.table import table
    from lowrank.views.spectra.weights import read_weights

    *_, values, file = logged
    measured = measure(read_weights(file))
    (found,) = json.loads(to_json([measured]))["files"]
    assert [m["nuclear_rank"] for m in found["matrices"]] == pytest.approx(values)
    assert found["means"]["rank_mean_all"]["nuclear_rank"] == pytest.approx(np.mean(values))
    assert "nuclear_rank" in to_csv([measured]).splitlines()[0]
    assert "nuclear_rank" in table(measured)  # named, where 80 columns are too few


def test_the_report_draws_it(logged):
    from lowrank.views.report.many import quantities_of
    from lowrank.views.report.one import section

    run, *_ = logged
    data = section(run, 1)
    assert data["quantities"]["nuclear_rank"] == "nuclear rank Σσ/σ_1"
    assert {"nuclear_rank"} <= data["tables"].keys() & data["means"].keys()
    assert "nuclear_rank" not in data["sizes"]
    assert quantities_of([run])["nuclear_rank_mean"] == ("average nuclear rank Σσ/σ_1", None)


@pytest.mark.usefixtures("new")
def test_the_dashboard_has_a_panel_of_it():
    from lowrank.views.dashboard.workspace import build_workspace

    text = build_workspace("me", "lowrank", ["lr"])._to_model().spec.model_dump_json()
    assert "Average nuclear rank by lr" in text
    assert "nuclear_rank_mean" in text


def test_entries_are_whole():
    for name, entry in TABLE.items():
        assert (entry.name, described(name)) == (name, entry)
        assert entry.meaning.startswith(entry.words)
        format(1.5, entry.form)
