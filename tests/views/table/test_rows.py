"""Rows of runs: ranks at recorded and other thresholds against counts by numpy, and endings.

The records' ranks are known in closed form; see `tests.views.table.records`.
"""

from __future__ import annotations

import numpy as np
import pytest

import train
from lowrank import load_run
from lowrank.common.errors import InputError
from lowrank.runs.format import RECORD_NAME
from lowrank.runs.writer import Record
from lowrank.views.table import rows
from lowrank.views.table.rows import Definition, common_definition, find, read_row, read_rows
from tests.views.table.records import LAYERS, make_run


def row_of(directory, *definition):
    return read_row(load_run(directory), Definition(*definition))


def counted(run, epsilon, norm):
    """The definition, in numpy, one epoch and layer after the other."""
    means = []
    for place in range(len(run.epochs)):
        ranks = []
        for layer in run.layers:
            if layer.counted:
                s = run.spectra[layer.name][place]
                size = np.sqrt(np.sum(s**2)) if norm == "frobenius" else s.max()
                ranks.append(np.sum(s / size > epsilon))
        means.append(np.mean(ranks))
    return np.array(means)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    top = tmp_path_factory.mktemp("trained")
    words = "--epochs=3 --width=24 --depth=3 --lr=0.3 --weight_decay=0.05 --train_size=200"
    words += f" --tracking=disabled --device=cpu --output_dir={top} --run_id=one"
    assert train.main(words.split()) == 0
    return load_run(top / "one")


def test_ranks_from_the_spectra_of_a_run_are_bit_for_bit_those_recorded(trained, monkeypatch):
    for epsilon, name in ((1e-3, "rank_mean"), (1e-2, "rank_mean@0.01")):
        recorded = read_row(trained, Definition(epsilon))
        with monkeypatch.context() as patch:
            patch.setattr(rows, "recorded_as", lambda *_: "")
            computed = read_row(trained, Definition(epsilon))
        assert recorded.ranks.tobytes() == trained.metrics[name].tobytes()
        assert computed.ranks.tobytes() == recorded.ranks.tobytes()
        assert recorded.test_accuracy.tobytes() == trained.metrics["test_accuracy"].tobytes()


@pytest.mark.parametrize("norm", ["frobenius", "spectral"])
@pytest.mark.parametrize("epsilon", [1e-4, 0.04, 0.05, 0.2])
def test_any_threshold_after_the_fact(trained, epsilon, norm):
    found = read_row(trained, Definition(epsilon, norm))
    np.testing.assert_array_equal(found.ranks, counted(trained, epsilon, norm))


def test_recorded_ranks_are_read_without_spectra(trained, monkeypatch):
    monkeypatch.setattr(type(trained), "spectra", property(lambda _: pytest.fail("read spectra")))
    assert read_row(trained, Definition()).ranks.shape == (4,)


def test_ranks_in_closed_form(tmp_path):
    directory = make_run(tmp_path / "a", [16, 9, 4])
    assert row_of(directory).ranks.tolist() == [16, 9, 4]
    assert row_of(directory, 0.24).ranks.tolist() == [16, 9, 4]
    assert row_of(directory, 1e-6).ranks.tolist() == [16, 16, 16]
    assert row_of(directory).full_rank == 16


def test_a_collapsed_run_has_no_rank_at_any_threshold(tmp_path):
    directory = make_run(tmp_path / "a", [16, 9, 4, 4], collapsed_from=2, state="collapsed")
    for epsilon in (1e-3, 1e-6):
        found = row_of(directory, epsilon)
        np.testing.assert_array_equal(found.ranks[2:], [np.nan, np.nan])
        assert np.isfinite(found.ranks[:2]).all()
        assert found.end == "collapsed"
        assert found.collapse_epoch == 2


def test_a_dead_run_has_no_rank_from_when_it_is_dead_for_good(tmp_path):
    found = row_of(make_run(tmp_path / "a", [16, 9, 4, 3], dead_from=2))
    np.testing.assert_array_equal(found.ranks, [16, 9, np.nan, np.nan])
    assert found.end == "dead"
    assert found.state == "finished"


def test_a_run_that_starts_slowly_is_not_dead(tmp_path):
    directory = make_run(tmp_path / "a", [16, 9])
    with Record.open(directory / RECORD_NAME) as record:
        run = load_run(directory)
        row = {name: values[1] for name, values in run.metrics.items()}
        spectra = {layer.name: run.spectra[layer.name][1] for layer in LAYERS}
        record.append(1, row | {"dead": 1.0}, spectra)
        record.append(2, row | {"dead": 0.0}, spectra)
    assert row_of(directory).ranks.tolist() == [16, 9, 9]


@pytest.mark.parametrize("state", ["stopped", "failed", "running"])
def test_an_unfinished_run_says_so(tmp_path, state):
    found = row_of(make_run(tmp_path / "a", [16, 9], state=state, epochs=5))
    assert found.end == {"running": "killed"}.get(state, state)  # nobody holds its lock
    assert found.ranks.tolist() == [16, 9]


def test_epochs_that_were_not_measured_are_left_out(tmp_path):
    found = row_of(make_run(tmp_path / "a", [16, 15, 14, 13, 12, 11], measure_every=2))
    assert found.epochs.tolist() == [0, 2, 4, 5]
    assert found.ranks.tolist() == [16, 14, 12, 11]


def test_a_record_of_another_loop_needs_neither_configuration_nor_accuracies(tmp_path):
    directory = make_run(tmp_path / "a", [16, 9], config={}, accuracy=None)
    found = row_of(directory)
    assert found.ranks.tolist() == [16, 9]
    assert np.isnan(found.test_accuracy).all()
    assert common_definition([load_run(directory)]) == Definition(1e-3, "frobenius")


def test_a_run_without_an_epoch_has_no_ranks(tmp_path):
    found = row_of(make_run(tmp_path / "a", [], epochs=3, state="failed"))
    assert found.ranks.shape == (0,)
    assert found.end == "failed"
    assert np.isnan(found.collapse_epoch)


def test_the_most_frequent_primary_threshold_compares_runs(tmp_path):
    runs = [
        load_run(make_run(tmp_path / name, [16], epsilons=epsilons))
        for name, epsilons in (("a", [1e-2]), ("b", [1e-2, 1e-3]), ("c", [1e-3]))
    ]
    assert common_definition(runs) == Definition(1e-2)
    assert common_definition(runs, 1e-4, "spectral") == Definition(1e-4, "spectral")


def test_runs_are_found_once_in_directories_and_files(tmp_path):
    make_run(tmp_path / "runs/a", [16])
    make_run(tmp_path / "runs/b", [16])
    runs, unread = find(
        [str(tmp_path / "runs"), str(tmp_path / "runs/a"), str(tmp_path / "runs/b" / RECORD_NAME)]
    )
    assert [run.id for run in runs] == ["a", "b"]
    assert unread == []


def test_every_path_without_a_run_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError) as caught:
        find([str(tmp_path / "empty"), str(tmp_path / "nowhere")])
    empty, nowhere = caught.value.lines
    assert "there is no run here; allowed: a run directory" in empty
    assert "nowhere: there is no run record here" in nowhere


def test_a_damaged_record_is_left_out_and_named(tmp_path):
    make_run(tmp_path / "a", [16, 9])
    broken = make_run(tmp_path / "b", [16, 9]) / RECORD_NAME
    broken.write_bytes(broken.read_bytes()[:5000])
    runs, unread = find([str(tmp_path)])
    assert [run.id for run in runs] == ["a"]
    (line,) = unread
    assert line.startswith(f"left out: {broken}: the run record is damaged")
    (tmp_path / "a" / RECORD_NAME).unlink()
    with pytest.raises(InputError, match="none of the records can be read"):
        find([str(tmp_path)])


def test_a_metric_is_called_as_the_table_of_quantities_calls_it():
    names = {
        "": "average rank",
        "rank_mean": "average rank",
        "rank_mean/heads": "average rank of the heads",
        "stable_rank_mean": "average stable rank",
        "frobenius_norm/fc": "Frobenius norm of fc",
        "my_metric": "my metric",
    }
    assert {metric: Definition(metric=metric).name for metric in names} == names


def test_a_record_damaged_inside_is_left_out_and_named(tmp_path):
    directory = make_run(tmp_path / "a", [16, 9])
    runs, _ = find([str(directory)])
    content = (directory / RECORD_NAME).read_bytes()
    value = np.array([0.1], dtype=">f8").tobytes()  # the test accuracy at epoch 0
    assert value in content
    (directory / RECORD_NAME).write_bytes(content.replace(value, np.array([0.2], ">f8").tobytes()))
    found, unread = read_rows(runs, Definition())
    assert found == []
    assert "is not what was written" in unread[0]


def test_reading_many_runs_without_a_terminal_shows_plain_lines(tmp_path, monkeypatch, capsys):
    run = load_run(make_run(tmp_path / "a", [16]))
    monkeypatch.setattr(rows, "QUIET_SECONDS", 0.0)
    read_rows([run, run, run], Definition())
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(",")[0] for line in lines] == ["read 1 of 3 runs", "read 2 of 3 runs"]
