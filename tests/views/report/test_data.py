"""The tables behind the page against numpy: the closed forms of records.py and plain means.

Run with ``pytest tests/views/report/test_data.py``.
"""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import numpy as np
import pytest

from lowrank import load_run
from lowrank.measure.truncation import LADDER
from lowrank.runs.format import RECORD_NAME
from lowrank.runs.within import Look
from lowrank.runs.writer import Record
from lowrank.views.figures.layout import Layout
from lowrank.views.figures.tables import curves_table
from lowrank.views.report import MOST_SECTIONS
from lowrank.views.report.many import further_metrics, overview
from lowrank.views.report.one import SECTION_BYTES, section
from lowrank.views.report.packing import every, pack, spread
from lowrank.views.report.write import write_report
from lowrank.views.table.factors import Factor
from lowrank.views.table.points import sweep_of
from lowrank.views.table.rows import Definition, find, read_row, read_rows
from tests.views.report.records import EPSILONS, layers_of, spectra_of, write


def unpack(text):
    return np.frombuffer(base64.b64decode(text), dtype="<f4").astype(float)


def tables(path):
    runs, _ = find([str(path)])
    rows, _ = read_rows(runs, Definition())
    return runs, overview(runs, rows, [run.id for run in runs])


def counted(spectra, layers, epsilon):
    """Mean over the counted layers of #{i : σ_i/‖W‖ > ε}, by the definition."""
    found = []
    for layer in layers:
        if layer.counted:
            s = spectra[layer.name]
            found.append((s / np.sqrt((s**2).sum(1, keepdims=True)) > epsilon).sum(1))
    return np.mean(found, axis=0)


def test_what_is_measured_beside_the_weights_is_apart_from_them(tmp_path):
    layers = layers_of((8, 6))
    beside = [replace(each, name=f"{each.name}_{kind}", counted=False, kind=kind)
              for kind in ("change", "update") for each in layers]  # fmt: skip
    spectra = spectra_of([*layers, *beside], 20, 0.1)
    run = load_run(write(tmp_path / "a", layers=[*layers, *beside], weight_decay=0.1))
    found = section(run, 1)
    assert [each["name"] for each in found["layers"]] == [each.name for each in layers]
    assert [of["kind"] for of in found["beside"]] == ["change", "update"]
    for of, own in zip(found["beside"], (beside[:3], beside[3:]), strict=True):
        names = [each.name for each in own]
        assert [each["name"] for each in of["layers"]] == names
        ranks = unpack(of["tables"]["rank"]).reshape(3, -1)
        assert np.array_equal(ranks, [run.metrics[f"rank/{name}"] for name in names])
        assert len(of["spectra"]["epochs"]) == len(found["spectra"]["epochs"])
        for name, shown in zip(names, of["spectra"]["layers"], strict=True):
            last = unpack(shown["values"]).reshape(-1, spectra[name].shape[1])[-1]
            true = spectra[name][-1] / np.linalg.norm(spectra[name][-1])
            assert np.allclose(last, true, rtol=1e-6)
    assert not any("change" in name for name in further_metrics(run))


def test_what_varies_and_which_runs_are_replicates(sweep):
    runs, found = tables(sweep)
    assert {field["name"]: field["texts"] for field in found["fields"]} == {
        "weight_decay": ["0", "0.01", "0.02"],
        "batch_size": ["8", "16"],
        "seed": ["0", "1"],
    }
    assert found["fields"][0]["numbers"] == [0, 0.01, 0.02]
    for run, row in zip(runs, found["runs"], strict=True):
        values = [
            f["numbers"][level] for f, level in zip(found["fields"], row["levels"], strict=True)
        ]
        assert values == [run.config[name] for name in ("weight_decay", "batch_size", "seed")]
    assert [row["group"] for row in found["runs"]] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


def test_curves_and_last_values_are_those_of_the_spectra(sweep):
    _, found = tables(sweep)
    assert list(found["quantities"]) == [
        "rank ε = 0.001", "rank ε = 0.01", "stable_rank_mean", "effective_rank_mean",
    ]  # fmt: skip
    layers = layers_of((16, 32, 32))
    row = found["runs"][7]  # weight decay 0.01, batch size 16, seed 1: failed after epoch 5
    spectra = spectra_of(layers, 10, 0.01 * 8 / 16 * 11)
    assert unpack(found["axes"][row["axis"]]).tolist() == list(range(6))
    for epsilon in EPSILONS:
        truth = counted(spectra, layers, epsilon)[:6]
        key = f"rank ε = {epsilon:g}"
        np.testing.assert_allclose(unpack(row["curves"][key]), truth, rtol=1e-6)
        assert row["last"][key] == pytest.approx(truth[-1], rel=1e-6)
    assert (row["ends"], row["epoch"], row["epochs"]) == ("failed", 5, 10)


def test_every_scalar_that_was_logged_can_be_chosen_or_is_named(tmp_path):
    values = np.linspace(1, 2, 21)
    many = {f"probe/{n}": values for n in range(50)}
    write(tmp_path / "a", sizes=(8,), more={"val/loss": values, "grad/linear1": values})
    runs, found = tables(tmp_path)
    assert {"val/loss", "grad/linear1", "time/train", "train_loss"} <= found["metrics"].keys()
    assert not {"rank/linear1", "rank@0.01/linear1", "rank_mean@0.01"} & found["metrics"].keys()
    np.testing.assert_allclose(unpack(found["runs"][0]["curves"]["val/loss"]), values)
    np.testing.assert_allclose(unpack(section(runs[0], 1)["further"]["grad/linear1"]), values)
    assert found["unlisted"] == []

    write(tmp_path / "b", sizes=(8,), more=many)
    *_, line, _ = write_report([tmp_path / "b"], tmp_path / "r.html")
    _, found = tables(tmp_path / "b")
    assert {*found["metrics"], *found["unlisted"]} > many.keys()
    count = len(found["unlisted"])
    assert line.startswith(f"{count} metrics cannot be chosen here, beside 40 others: probe/")
    assert line.endswith("lowrank figures --metric=NAME draws each")


def test_a_collapsed_run_has_no_rank_whatever_its_state_says(sweep):
    _, found = tables(sweep)
    finished, collapsed = found["runs"][8], found["runs"][9]
    assert (finished["state"], collapsed["state"]) == ("finished", "collapsed")
    for row in (finished, collapsed):
        assert row["ends"] == "collapsed"
        curve = unpack(row["curves"]["rank ε = 0.001"])
        assert np.isfinite(curve).tolist() == [True] * 4 + [False] * 7
        assert row["last"]["rank ε = 0.001"] is None
        assert row["last"]["test_accuracy"] == pytest.approx(0.1)


def test_a_section_holds_every_layer_over_the_epochs(tmp_path):
    layers = layers_of((16, 32))
    run = load_run(write(tmp_path / "run", sizes=(16, 32), epochs=10, weight_decay=0.02))
    found = section(run, 1)
    assert [layer["name"] for layer in found["layers"]] == ["linear1", "linear2", "classifier"]
    assert unpack(found["epochs"]).tolist() == list(range(11))
    spectra = spectra_of(layers, 10, 0.02)
    ranks = unpack(found["tables"]["rank@0.01"]).reshape(3, 11)
    norms = unpack(found["tables"]["frobenius_norm"]).reshape(3, 11)
    for place, layer in enumerate(layers):
        s = spectra[layer.name]
        norm = np.sqrt((s**2).sum(1))
        np.testing.assert_allclose(ranks[place], (s / norm[:, None] > 0.01).sum(1))
        np.testing.assert_allclose(norms[place], norm, rtol=1e-6)
        of_page = found["spectra"]["layers"][place]
        k = min(layer.shape)
        assert unpack(of_page["indices"]).tolist() == list(range(1, k + 1))
        shown = unpack(of_page["values"]).reshape(11, k)
        np.testing.assert_allclose(shown, s / norm[:, None], rtol=1e-6)
    mean = unpack(found["means"]["rank"])
    np.testing.assert_allclose(mean, counted(spectra, layers, 1e-3), rtol=1e-6)
    assert found["bound"] is None
    assert found["bound_words"] == "Rank bound: vacuous for every layer, it is not below full rank."


def test_accuracies_at_lower_ranks_are_in_the_section_and_no_other_metrics(tmp_path):
    columns = {}
    for place, kept in enumerate(LADDER):
        for name, values in ((kept.accuracy, 0.1 * place), (kept.mean_rank, 1.0 + place)):
            columns[name] = np.where(np.arange(11) % 5 == 0, values, np.nan)
    run = load_run(write(tmp_path / "run", sizes=(16, 32), epochs=10, more=columns))
    found = section(run, 1)
    assert unpack(found["truncated"]["epochs"]).tolist() == [0, 5, 10]
    accuracies = unpack(found["truncated"]["accuracies"]).reshape(3, len(LADDER))
    np.testing.assert_allclose(accuracies, np.tile(0.1 * np.arange(len(LADDER)), (3, 1)))
    assert unpack(found["truncated"]["ranks"])[0] == 1
    assert found["truncated"]["full"] == 24
    assert not any(name.startswith("truncated") for name in found["further"])
    assert section(load_run(write(tmp_path / "b", epochs=1)), 1)["truncated"] is None


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"weight_decay": 0.0}, "no claim, as weight_decay is 0."),
        ({"optimizer": "adam"}, "no claim, as optimizer=adam does not take the steps of sgd."),
        ({"batch_size": "many"}, "none was recorded."),
    ],
    ids=str,
)
def test_the_reason_for_no_bound_is_said(tmp_path, config, words):
    run = load_run(write(tmp_path / "run", epochs=1, decay=0.0, **config))
    assert section(run, 1)["bound_words"] == f"Rank bound: {words}"


def test_what_was_said_of_bounds_at_the_start_is_said_again(tmp_path):
    said = [
        "rank bound: no claim for 2 of 3 layers, parametrised or not applied",
        "memory window: 9",
    ]
    run = load_run(write(tmp_path / "run", epochs=1, environment={"host": "h", "theory": said}))
    found = section(run, 1)
    assert found["bound_words"] == f"{said[0].capitalize()}. {said[1].capitalize()}."
    assert found["environment"] == [["host", "h"]]


def test_a_recorded_bound_is_in_the_section(tmp_path):
    bound = {"rank_bound/linear1": np.array([np.nan, 9.0])}
    run = load_run(write(tmp_path / "run", sizes=(16, 16), epochs=1, more=bound))
    found = section(run, 1)
    table = unpack(found["bound"]).reshape(3, 2)
    assert table[0, 1] == 9
    assert np.isnan(table).sum() == 5
    assert found["bound_words"].startswith("Dotted: the rank bound, recorded for 1 of 3 layers")


def test_a_run_without_epochs_has_empty_tables(tmp_path):
    path = write(tmp_path / "run", recorded=0, state="running")
    _, found = tables(path.parent)
    assert found["runs"][0]["ends"] == "killed"
    assert found["runs"][0]["epoch"] is None
    assert found["runs"][0]["last"]["test_accuracy"] is None
    assert unpack(section(load_run(path), 1)["epochs"]).size == 0


def test_epochs_that_were_not_measured_are_left_out(tmp_path):
    gap = np.array([0.0, np.nan, 0.0, np.nan, 0.0])
    run = load_run(write(tmp_path / "run", epochs=4, more={"collapsed": gap}))
    assert unpack(section(run, 1)["epochs"]).tolist() == [0, 2, 4]
    _, found = tables(tmp_path / "run")
    assert unpack(found["axes"][0]).tolist() == [0, 2, 4]


def test_many_sections_of_a_deep_network_share_the_budget(tmp_path):
    run = load_run(write(tmp_path / "run", sizes=(128,) * 53, epochs=60))
    size = len(json.dumps(section(run, MOST_SECTIONS)))
    # The six epochs that each section has at the least, and names, come on top.
    assert size < 4 / 3 * SECTION_BYTES / MOST_SECTIONS + 200_000
    alone = section(run, 1)
    assert unpack(alone["epochs"]).size == 61


def test_the_chosen_runs_reach_from_the_lowest_to_the_highest_rank(tmp_path):
    first = write(tmp_path / "runs" / "r0", sizes=(8,), epochs=1, decay=0.0)
    from tests.views.report.records import copy

    for place in range(1, 25):
        copy(first, tmp_path / "runs" / f"r{place}", seed=place)
    for place in (3, 17):
        write(tmp_path / "low" / f"low{place}", sizes=(8,), epochs=1, decay=place / 2)
    written = write_report([tmp_path / "runs", tmp_path / "low"], tmp_path / "report.html")
    assert "report of 27 runs (20 with spectra)" in written[-1]
    text = (tmp_path / "report.html").read_text("utf-8")
    data = json.loads(text.split('id="data">')[1].split("</script>")[0])
    assert len(data["sections"]) == MOST_SECTIONS
    assert data["sections"][0]["id"] == "low17"
    assert data["sections"][-1]["id"].startswith("r")


@pytest.mark.parametrize("length", [0, 1, 2, 7, 100])
def test_thinning_keeps_the_first_and_the_last_place(length):
    for places in (every(length, 3), spread(length, 5)):
        assert (np.diff(places) > 0).all()
        if length:
            assert (places[0], places[-1]) == (0, length - 1)
        else:
            assert places.size == 0
    assert len(spread(length, 5)) == min(length, 5)


def test_arrays_keep_what_json_has_not():
    values = [0.0, -0.0, 1e-30, np.nan, np.inf, -np.inf, 1e300]
    got = unpack(pack(values))
    np.testing.assert_array_equal(got[[0, 1, 4, 5]], [0.0, -0.0, np.inf, -np.inf])
    assert np.signbit(got[1])
    assert np.isnan(got[3])
    assert got[2] == pytest.approx(1e-30, rel=1e-6)
    assert got[6] == np.inf


def test_what_was_measured_within_epochs_stands_between_them(tmp_path):
    path = write(tmp_path / "run", epochs=2)
    looked = {"rank/linear1": 3.0, "rank_mean": 2.5}
    with Record.open(path / RECORD_NAME if path.is_dir() else path) as record:
        last = load_run(path)
        row = {name: float(values[2]) for name, values in last.metrics.items()}
        spectra = {name: values[2] for name, values in last.spectra.items()}
        record.append(2, row, spectra, None, [Look(1, 4, looked)])
    run = load_run(path)
    found = section(run, 1)
    assert unpack(found["epochs"]).tolist() == [0, 1, 1.25, 2]
    ranks = unpack(found["tables"]["rank"]).reshape(-1, 4)
    assert ranks[0].tolist() == [
        *run.metrics["rank/linear1"][:2],
        3,
        run.metrics["rank/linear1"][2],
    ]
    assert unpack(found["means"]["rank"])[2] == 2.5
    assert np.isnan(unpack(found["tables"]["stable_rank"]).reshape(-1, 4)[:, 2]).all()
    assert unpack(found["scalar_epochs"]).tolist() == [0, 1, 2]
    (curve,) = curves_table(sweep_of([read_row(run, Definition())]).points, Layout(Factor()),
                            Definition()).panels[0][1]  # fmt: skip
    assert curve.mean.epochs.tolist() == [0, 1, 1.25, 2]
    assert curve.mean.rank[2] == 2.5
    assert curve.mean.at_ends.test_accuracy.tolist() == run.metrics["test_accuracy"].tolist()
