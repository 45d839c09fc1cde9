"""``lowrank runs``: what it prints of records whose content is known."""

from __future__ import annotations

import csv
import io
import json

import pytest

from lowrank.cli import main
from lowrank.views.table.listing import entries_of, table
from lowrank.views.table.rows import Definition
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
        ["run", "state", "lr", "decay", "seed", "epoch", "rank", "test", "%"],
        ["a", "finished", "0.1", "0.001", "0", "2/2", "16.0", "→", "4.0", "36.4"],
        ["b", "collapsed", "0.2", "0.001", "3", "2/2", "16.0", "→", "-", "10.0"],
        ["c", "failed", "0.2", "0", "0", "1/1", "16.0", "→", "12.0", "-"],
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
    fields = {*entries_of(rows)[0]} - {"run", "state", "epoch", "epochs", "rank_first", "rank_last"}
    fields -= {"test_accuracy", "path"}
    assert shown + len(left_out.partition(": ")[2].split(", ")) == len(fields) == 9


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


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "which runs? for example: lowrank runs runs"),
        (["nowhere"], "lowrank: nowhere: there is no run record here"),
        (["x", "--cvs"], "unknown flag '--cvs', did you mean 'csv'?"),
        (["x", "--csv", "--json"], "allowed: one of them"),
        (["x", "--csv=perhaps"], "csv: got 'perhaps'; allowed: True or False"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input(capsys, words, said):
    assert said in output(capsys, *words, code=2)
