"""``lowrank runs``: what it prints of records whose content is known."""

from __future__ import annotations

import csv
import io
import json
import math

import numpy as np
import pytest

from lowrank.cli import main
from lowrank.config import Config
from lowrank.training.schedule import planned_efolds
from lowrank.views.table.entries import GIVEN, entries_of
from lowrank.views.table.listing import table
from lowrank.views.table.rows import Definition
from tests.views.report import records as report_records
from tests.views.table.records import make_row, make_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    top = tmp_path_factory.mktemp("runs")
    make_run(top / "a", [16, 9, 4], lr=0.1, weight_decay=1e-3)
    make_run(top / "b", [16, 9, 4], lr=0.2, weight_decay=1e-3, seed=3, collapsed_from=1)
    make_run(top / "c", [16, 12], lr=0.2, weight_decay=0, state="failed", accuracy=None)
    return top


def output(capsys, *words, code=0):
    assert main(["runs", *map(str, words)]) == code
    captured = capsys.readouterr()
    return captured.out if code == 0 else captured.err


def test_the_table_says_what_varies_and_how_far_each_run_came(capsys, runs):
    lines = output(capsys, runs).splitlines()
    assert [line.split() for line in lines] == [
        ["weight_"],
        ["run", "state", "lr", "decay", "seed", "epoch", "rank", "test", "%", "best", "%"],
        ["a", "finished", "0.1", "0.001", "0", "2/2", "16.0", "→", "4.0", "36.4", "36.4"],
        ["b", "collapsed", "0.2", "0.001", "3", "2/2", "16.0", "→", "-", "10.0", "10.0"],
        ["c", "failed", "0.2", "0", "0", "1/1", "16.0", "→", "12.0", "-", "-"],
        ["3", "runs;", "rank:", "average", "over", "the", "counted", "layers,", "ε", "=", "0.001"],
    ]
    assert max(map(len, lines)) <= 80


def test_csv_and_json_hold_the_same(capsys, runs):
    found = list(csv.DictReader(io.StringIO(output(capsys, runs, "--csv"))))
    entries = json.loads(output(capsys, runs, "--json"))
    assert [entry["run"] for entry in entries] == ["a", "b", "c"]
    for line, entry in zip(found, entries, strict=True):
        assert list(line) == list(entry)
        assert [line[name] for name in line] == [
            "" if value is None else str(value) for value in entry.values()
        ]
    assert entries[1]["state"] == "collapsed"
    assert entries[1]["rank_last"] is None
    assert entries[0]["rank_last"] == 4.0
    assert entries[0]["path"] == str(runs / "a")


def test_a_rerun_is_called_one(capsys, tmp_path):
    make_run(tmp_path / "a", [16, 4], lr=0.1, tags=("mine",))
    make_run(tmp_path / "b", [16, 4], lr=0.1, tags=("mine", "rerun", "a"))
    lines = output(capsys, tmp_path).splitlines()
    assert [line.split()[1:3] for line in lines[1:3]] == [
        ["finished", "1/1"],
        ["finished,", "rerun"],
    ]
    entries = json.loads(output(capsys, tmp_path, "--json"))
    assert [entry["rerun_of"] for entry in entries] == [None, "a"]
    make_run(tmp_path / "c", [16, 8], lr=0.1, tags=("rerun", "a"), seed=5)  # with another seed
    (point,) = json.loads(output(capsys, tmp_path, "--group", "--json"))
    assert (point["runs"], point["rank_last"]) == (2, 6)  # it is no further seed


def test_many_settings_and_long_ids_fit_80_columns():
    rows = [
        make_row(
            run_id,
            lr=0.1 * n,
            weight_decay=1e-4 * n,
            batch_size=8 * n,
            momentum=0.1 * n,
            gamma=0.1 * n,
            milestones=[n, n + 1, n + 2, n + 1000],
            warmup_epochs=n,
            train_size=1000 + n,
            seed=n,
            epochs=500,
        )
        for n, run_id in enumerate(["short", "a-name-that-is-longer-than-it-should-be"], start=1)
    ]
    lines = table(entries_of(rows), Definition()).splitlines()
    assert max(map(len, lines)) <= 80
    assert "a-name-that-is-longer-than-it-should-be" in lines
    (left_out,) = [line for line in lines if line.startswith("in --csv and --json also: ")]
    (row,) = [line.split() for line in lines if line.startswith("short ")]
    assert row[2] == "1001"  # train_size comes first in the configuration
    shown = len(row) - len(["short", "finished", "2/500", "16.0", "→", "4.0", "78.8"])
    assert shown > 3
    fields = {*entries_of(rows)[0]} - {*GIVEN}
    assert shown + len(left_out.partition(": ")[2].split(", ")) == len(fields) == 9


def test_seeds_are_averaged_and_what_did_not_finish_is_in_no_mean(capsys, tmp_path):
    for seed, last in enumerate((4, 8)):
        make_run(tmp_path / f"a{seed}", [16, last], lr=0.1, seed=seed, accuracy=0.5 + seed / 10)
    make_run(tmp_path / "a2", [16, 2], lr=0.1, seed=2, collapsed_from=1)
    make_run(tmp_path / "b", [16, 12], lr=0.2, state="failed")
    first, second = json.loads(output(capsys, tmp_path, "--group", "--json"))
    assert (first["lr"], first["runs"], first["state"]) == (0.1, 2, "2 finished, 1 collapsed")
    assert first["rank_last"] == np.mean([4, 8])
    assert first["rank_last_sd"] == pytest.approx(np.std([4, 8], ddof=1))
    assert (second["runs"], second["rank_last"], second["state"]) == (0, None, "failed")
    lines = output(capsys, tmp_path, "--group").splitlines()
    assert lines[0].split()[:4] == ["lr", "state", "runs", "rank"]
    assert "6.0 ± 2.8" in lines[1]
    assert lines[-1].startswith("2 points; rank: average")


def test_runs_of_other_lengths_are_no_seeds_of_one_point(capsys, tmp_path):
    make_run(tmp_path / "a", [16, 9, 4], seed=0)
    make_run(tmp_path / "b", [16, 9, 4, 3], seed=1)
    found = json.loads(output(capsys, tmp_path, "--group", "--json"))
    assert [(each["epochs"], each["runs"], each["rank_last"]) for each in found] == [
        (2, 1, 4),
        (3, 1, 3),
    ]
    assert output(capsys, tmp_path, "--group").split()[0] == "epochs"


def test_runs_are_chosen_sorted_and_shown_by_columns(capsys, runs):
    def ids(*words):
        return [each["run"] for each in json.loads(output(capsys, runs, "--json", *words))]

    assert ids("--where={lr: 0.2}") == ["b", "c"]
    assert ids("--sort=rank_last") == ["a", "c", "b"]  # none comes last, both ways
    assert ids("--sort=-rank_last") == ["c", "a", "b"]
    words = ("--columns=batch_size,stable_rank_mean,rank_last", "--sort=stable_rank_mean")
    found = json.loads(output(capsys, runs, "--json", *words))
    assert [list(each) for each in found] == [
        ["run", "state", "batch_size", "stable_rank_mean", "rank_last"]
    ] * 3
    assert [each["stable_rank_mean"] for each in found] == [
        pytest.approx(4),
        pytest.approx(12),
        None,
    ]
    assert output(capsys, runs, *words).splitlines()[-1].startswith("3 runs; rank: average")
    found = json.loads(output(capsys, runs, "--json", "--columns=train_accuracy"))
    assert [each["train_accuracy"] is None for each in found] == [False, False, True]


def test_what_a_model_does_not_read_is_no_difference(capsys, tmp_path):
    make_run(tmp_path / "a", [16, 9], model="mlp", depth=7)
    make_run(tmp_path / "b", [16, 9], model="resnet18", image_size=32)
    found = json.loads(output(capsys, tmp_path, "--json"))
    assert [(each["model"], each["depth"]) for each in found] == [("mlp", 7), ("resnet18", None)]
    assert "width" not in found[0]
    make_run(tmp_path / "steps/a", [16, 9], momentum=0.9)
    make_run(tmp_path / "steps/b", [16, 9], optimizer="adam")
    found = json.loads(output(capsys, tmp_path / "steps", "--json"))
    assert [each["momentum"] for each in found] == [0.9, None]


def test_time_and_efolds_of_a_record(capsys, tmp_path):
    report_records.write(tmp_path / "a", epochs=20, weight_decay=0.5, batch_size=32, lr=0.1)
    (entry,) = json.loads(output(capsys, tmp_path, "--json"))
    assert entry["seconds"] == 21 * 1.5
    steps = math.ceil(1437 / 32)
    assert entry["efolds"] == pytest.approx(20 * steps * 0.1 * 0.5)


@pytest.mark.parametrize(
    ("optimizer", "has_efolds"), [("adamw", True), ("muon", True), ("adam", False)]
)
def test_efolds_are_those_of_decay_that_shrinks_the_weights_itself(
    optimizer, has_efolds, capsys, tmp_path
):
    config = {"optimizer": optimizer, "lr": 0.1, "momentum": 0.0, "weight_decay": 0.5}
    report_records.write(tmp_path / "a", epochs=20, batch_size=32, milestones=[], **config)
    (entry,) = json.loads(output(capsys, tmp_path, "--json"))
    expected = pytest.approx(20 * math.ceil(1437 / 32) * 0.1 * 0.5) if has_efolds else None
    assert entry["efolds"] == expected
    planned = planned_efolds(
        Config(epochs=20, batch_size=32, train_size=1437, milestones=[], **config)
    )
    assert (None if math.isnan(planned) else planned) == expected


def test_a_wide_terminal_has_room_for_more():
    rows = [make_row(str(n), depth=n, width=n, lr=n / 10) for n in (1, 2)]
    wide, narrow = (table(entries_of(rows), Definition(), width) for width in (100, 50))
    assert "best %" in wide
    assert "best %" not in narrow
    assert max(map(len, narrow.splitlines()[:3])) <= 50
    assert narrow.splitlines()[-1] == "in --csv and --json also: width, lr"


def test_one_run_of_another_loop(capsys, tmp_path):
    make_run(tmp_path / "mine", [16, 9], config={}, accuracy=None)
    lines = output(capsys, tmp_path).splitlines()
    assert lines[1].split() == ["mine", "finished", "1", "16.0", "→", "9.0", "-"]
    assert lines[2].startswith("1 run;")


def test_a_run_without_an_epoch(capsys, tmp_path):
    make_run(tmp_path / "a", [], epochs=4, state="failed")
    assert output(capsys, tmp_path).splitlines()[1].split() == [
        "a",
        "failed",
        "-/4",
        "-",
        "→",
        "-",
        "-",
    ]


def test_an_unknown_name_is_refused_with_the_nearest(capsys, runs):
    assert "'wdecay', did you mean 'weight_decay'?" in output(
        capsys, runs, "--columns=wdecay", code=2
    )
    assert "sort: got 'rank_lst'" in output(capsys, runs, "--sort=rank_lst", code=2)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "which runs? for example: lowrank runs runs"),
        (["nowhere"], "lowrank: nowhere: there is no run record here"),
        (["x", "--cvs"], "unknown flag '--cvs', did you mean 'csv'?"),
        (["x", "--csv", "--json"], "allowed: one of them"),
        (["x", "--group", "--columns=lr"], "allowed: one of --columns and --group"),
        (["x", "--where={lr: [}"], "where"),
        (["x", "--csv=perhaps"], "csv: got 'perhaps'; allowed: True or False"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input(capsys, words, said):
    assert said in output(capsys, *words, code=2)
