"""``lowrank published``: what it prints of records made by hand, and every complaint."""

from __future__ import annotations

import csv
import io

import pytest

from lowrank.cli import main
from lowrank.views.published.figures import FIGURES, of_figure
from tests.views.published.records import config_of, make


@pytest.fixture(scope="module")
def top(tmp_path_factory):
    top = tmp_path_factory.mktemp("runs")
    point = of_figure("9 lr 0.01")[-1]
    make(top / "a", config_of(point), {0: [83] * 10, 490: [82] * 10})
    return top


def output(capsys, *words, code=0):
    assert main(["published", *map(str, words)]) == code
    captured = capsys.readouterr()
    return (captured.out if code == 0 else captured.err).splitlines()


def test_figures_are_listed_with_the_points_that_have_runs(capsys, top):
    lines = output(capsys)
    assert [line.split()[0] for line in lines[1:]] == list(FIGURES)
    counts = {line.split()[0]: line.split()[-1] for line in output(capsys, top)[1:]}
    assert counts.pop("9") == "1"
    assert set(counts.values()) == {"0"}


def test_published_values_are_listed_without_runs(capsys):
    lines = output(capsys, "7 B 128")
    assert len(lines) == 2 + 5
    assert lines[-1].split() == ["0.006", "80.0", "78.0", "41.0", "53.4", "98.4", "51.4"]


def test_a_figure_is_compared(capsys, top):
    lines = output(capsys, 9, top)
    assert lines[2].split() == ["lr", "0.01", "128", "mean", "83.5", "82.0", "1", "-1.5", "yes"]
    assert lines[-1] == "no run: figure 9, lr 0.1: batch size 4, 8, 16, 32, 64, 128"
    assert max(map(len, lines[:8])) <= 80
    wide = output(capsys, 9, top, "--rank_tolerance=1")
    assert wide[2].split()[-1] == "no"


def test_csv_has_every_value_of_the_points_with_runs(capsys, top):
    rows = list(csv.DictReader(io.StringIO("\n".join(output(capsys, 9, top, "--csv")))))
    assert {row["series"]: row["ours"] for row in rows} == {
        "mean": "82.0", "layer 1": "82.0", "layer 3": "82.0", "layer 5": "82.0",
        "train_accuracy": "0.75", "test_accuracy": "0.5",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["11"], "figure: got '11'; there are numbers of 2, 3, 4, 7, 8, 9, 13, 14, 15 or 16"),
        (["7", "--instead={momentun: 0.9}"], "did you mean 'momentum'?"),
        (["7", "--instead={weight_decay: 0}"], "weight_decay is what the figure varies"),
        (["7", "--instead={momentum: [0, 0.9]}"], "instead: momentum takes one value"),
        (["7", "--instead={momentum: x}"], "instead: momentum=x is no value of momentum"),
        (["7", "--csv", "--markdown"], "allowed: one of them"),
        (["7", "nowhere"], "nowhere"),
        (["7", "--rank_tolerance=-1"], "rank_tolerance"),
    ],
)
def test_bad_input_is_told_in_a_line(capsys, words, told):
    (line,) = output(capsys, *words, code=2)
    assert told in line


def test_published_values_are_drawn_beside_curves_of_their_settings(capsys, top, tmp_path):
    words = ["figures", str(top), "--kind=curves", "--published=9", f"--output={tmp_path}/f.png"]
    assert main([*words, "--dpi=50", "--csv"]) == 0
    assert "beside 1 point of the published figure 9; ε = 0.03" in capsys.readouterr().out
    rows = list(csv.DictReader(io.StringIO((tmp_path / "f.csv").read_text())))
    (star,) = [row for row in rows if row["end"] == "published"]
    assert (star["epoch"], star["rank_mean"], star["test_accuracy"]) == ("490", "83.5", "0.4896")
    assert main([*words, "--epsilon=0.001"]) == 2
    assert "figure 9 is at ε = 0.03" in capsys.readouterr().err
