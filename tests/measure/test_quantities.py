"""One entry of the table of quantities is all that a new one takes.

A quantity made up here, Σσ/σ_1, is put into the table; then it must be wherever the others are,
with numpy's value. What is measured on request is what numpy gives, recorded or derived from the
recorded spectra alike. Run with ``pytest tests/measure/test_quantities.py``.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

import lowrank
from lowrank.common.errors import InputError
from lowrank.common.quantities import FURTHER, TABLE, LayerQuantity, described
from lowrank.measure.metrics import is_hidden
from lowrank.tracking.rows import RowLogger
from lowrank.training.console import layer_table

NEW = LayerQuantity(
    "sum_rank",
    "sum rank",
    "Σσ/σ_1",
    lambda s: np.sum(s, axis=-1) / np.max(s, axis=-1),
    head="sum",
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
    assert [run.metrics[f"sum_rank/{i}"][0] for i in range(3)] == pytest.approx(values)
    assert run.metrics["sum_rank_mean"][0] == pytest.approx(np.mean(values[:2]))


def test_wandb_gets_it_hidden_but_for_its_mean(logged):
    _, wandb, values, _ = logged
    assert wandb.rows[0]["sum_rank/1"] == pytest.approx(values[1])
    assert wandb.hidden["sum_rank/1"]
    assert not wandb.hidden["sum_rank_mean"]
    assert is_hidden("sum_rank/1")


def test_the_console_shows_it(logged):
    run, _, values, _ = logged
    row = {name: float(run.metrics[name][0]) for name in run.metrics}
    lines = [line.split() for line in layer_table(run.layers, row, row).splitlines()]
    assert lines[0][-1] == "sum"
    assert [line[-1] for line in lines[1:4]] == [f"{value:.3f}" for value in values]
    assert lines[4][-1] == f"{np.mean(values[:2]):.3f}"


def test_files_are_measured_with_it(logged):
    from lowrank.views.spectra.quantities import measure, to_csv, to_json
    from lowrank.views.spectra.table import table
    from lowrank.views.spectra.weights import read_weights

    *_, values, file = logged
    measured = measure(read_weights(file))
    (found,) = json.loads(to_json([measured]))["files"]
    assert [m["sum_rank"] for m in found["matrices"]] == pytest.approx(values)
    assert found["means"]["rank_mean_all"]["sum_rank"] == pytest.approx(np.mean(values))
    assert "sum_rank" in to_csv([measured]).splitlines()[0]
    assert "sum_rank" in table(measured)  # named, where 80 columns are too few


def test_the_report_draws_it(logged):
    from lowrank.views.report.many import quantities_of
    from lowrank.views.report.one import section

    run, *_ = logged
    data = section(run, 1)
    assert data["quantities"]["sum_rank"] == "sum rank Σσ/σ_1"
    assert {"sum_rank"} <= data["tables"].keys() & data["means"].keys()
    assert "sum_rank" not in data["sizes"]
    assert quantities_of([run])["sum_rank_mean"] == ("average sum rank Σσ/σ_1", None)


@pytest.mark.usefixtures("new")
def test_the_dashboard_has_a_panel_of_it():
    from lowrank.views.dashboard.workspace import build_workspace

    text = build_workspace("me", "lowrank", ["lr"])._to_model().spec.model_dump_json()
    assert "Average sum rank by lr" in text
    assert "sum_rank_mean" in text


def test_entries_are_whole():
    for name, entry in TABLE.items():
        assert (entry.name, described(name)) == (name, entry)
        assert entry.meaning.startswith(entry.words)
        format(1.5, entry.form)


# -- On request, and of one's own


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Three epochs of a network, of which a layer collapses, recorded with and without all."""
    place = tmp_path_factory.mktemp("both")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(30, 25), nn.Linear(25, 40), nn.Linear(40, 3))
    watchers = [
        lowrank.watch(model, record=place / "asked", quantities=FURTHER),
        lowrank.watch(model, record=place / "plain"),
    ]
    for epoch in range(3):
        rows = [watcher.log(epoch) for watcher in watchers]
        if epoch == 1:
            with torch.no_grad():
                model[0].weight *= 1e-9
    for watcher in watchers:
        watcher.close()
    return rows, lowrank.load_run(place / "asked"), lowrank.load_run(place / "plain")


@pytest.mark.parametrize("name", FURTHER)
def test_a_record_without_it_derives_what_one_with_it_holds(both, name):
    rows, asked, plain = both
    for metric in (*(f"{name}/{layer}" for layer in "012"), f"{name}_mean"):
        assert metric in asked.metrics
        assert metric not in plain.metrics
        np.testing.assert_array_equal(plain.metrics[metric], asked.metrics[metric])
        assert rows[0][metric] == pytest.approx(asked.metrics[metric][-1], nan_ok=True)
        assert metric not in rows[1]
    assert np.isfinite(plain.metrics[f"{name}/2"]).all()
    assert np.isnan(plain.metrics[f"{name}/0"]).tolist() == [False, False, True]


def test_values_are_those_of_numpy(both):
    _, _, run = both
    s = run.spectra["1"][0]
    p = s**2 / np.sum(s**2)
    expected = {
        "effective_rank_energy": np.exp(-np.sum(p * np.log(p))),
        "participation_ratio": 1 / np.sum(p**2),
        "nuclear_rank": np.sum(s) ** 2 / np.sum(s**2),
        "srank": 1 + np.argmax(np.cumsum(s) >= 0.99 * np.sum(s)),
        "edge_ratio": s[0] / (np.sqrt(np.mean(s @ s) / 1000) * (np.sqrt(40) + np.sqrt(25))),
    }
    for name, value in expected.items():
        assert run.metrics[f"{name}/1"][0] == pytest.approx(value, rel=1e-12), name
    assert run.metrics["nuclear_rank_share/1"][0] == pytest.approx(expected["nuclear_rank"] / 25)


def test_a_metric_that_can_be_derived_is_drawn_and_an_unknown_one_named(both):
    from lowrank.views.table.choice import known_metric
    from lowrank.views.table.rows import Definition, read_row

    _, _, plain = both
    row = read_row(plain, Definition(metric=known_metric("nuclear_rank_mean", [plain])))
    assert row.ranks[:2].tolist() == plain.metrics["nuclear_rank_mean"][:2].tolist()
    with pytest.raises(InputError, match="no run has recorded 'nuclear_rank/9'"):
        known_metric("nuclear_rank/9", [plain])


def test_a_quantity_of_ones_own_is_measured_and_averaged():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(4, 3))
    own = {"condition": lambda s: s[0] / s[-1], "srank": None}
    row = lowrank.watch(model, quantities=own).log(0)
    expected = [np.linalg.cond(m.weight.detach().double().numpy()) for m in model]
    assert [row[f"condition/{i}"] for i in range(3)] == pytest.approx(expected)
    assert row["condition_mean"] == pytest.approx(np.mean(expected[:2]))
    assert row["srank/0"] == 5


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["nuclear_rnk"], "got 'nuclear_rnk'; allowed: energy_rank, .*mean 'nuclear_rank'"),
        ({"rank": len}, "got the name 'rank' for a function"),
        ({"a/b": len}, "got the name 'a/b' for a function"),
    ],
    ids=["unknown", "ours", "no name"],
)
def test_what_cannot_be_asked_for_is_refused(asked, message):
    with pytest.raises(InputError, match=message):
        lowrank.watch(nn.Linear(3, 3), quantities=asked)
