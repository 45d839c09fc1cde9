"""Which run stands for a published point, and what is read of it, against records made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from lowrank import load_run
from lowrank.views.published.comparison import compare, missed
from lowrank.views.published.figures import compared, of_figure
from lowrank.views.published.table import Tolerance, as_markdown, as_text, notes
from lowrank.views.table.fields import settings
from tests.views.published.records import config_of, make

POINT = of_figure("7 B 128")[-1]
FALLING = {0: [83] * 10, 490: list(range(50, 60)), 500: [3] * 10}


@pytest.fixture(scope="module")
def top(tmp_path_factory):
    """Two seeds that stand for a point, one after 250 epochs, one of images in a folder."""
    top = tmp_path_factory.mktemp("published")
    make(top / "a", config_of(POINT), FALLING)
    other = FALLING | {490: list(range(52, 62))}
    make(top / "b", config_of(POINT, seed=1, device="cpu", threads=1), other)
    folder = config_of(POINT, dataset="imagefolder", data_dir="/images", weight_decay=1e-4)
    make(top / "c", folder, FALLING)
    half = {0: [83] * 10, 250: [80] * 10}
    make(top / "d", config_of(POINT, weight_decay=2e-4), half, state="killed")
    return top


def runs(top, names="abcd"):
    return [load_run(top / name) for name in names]


def test_each_setting_that_decides_is_compared(top):
    has = compared(settings(runs(top)[0]))
    assert missed(POINT, has) == {}
    for name, value in has.items():
        assert missed(POINT, {**has, name: "other"}).keys() == {name}, value
    assert missed(POINT, {**has, "momentum": 0.9}, {"momentum": 0.9}) == {}
    assert missed(POINT, has, {"momentum": 0.9}) == {"momentum": 0.0}


def test_values_are_those_after_490_epochs_at_the_figures_epsilon(top):
    comparison = compare([POINT], runs(top, "ab"))
    found = {row.series: row for row in comparison.rows}
    assert [row.series for row in comparison.rows][:2] == ["mean", "layer 1"]
    assert found["mean"].ours == (54.5, 56.5)
    assert found["layer 3"].ours == (53, 55)
    assert found["mean"].mean == 55.5
    assert found["mean"].deviation == pytest.approx(np.sqrt(2))
    assert found["mean"].difference == pytest.approx(55.5 - 53.4)
    assert found["train_accuracy"].ours == (0.75, 0.75)
    # At 1e-3, which was recorded, all count.
    (row, *_) = compare([POINT], runs(top, "a"), epsilon=1e-3).rows
    assert row.ours == (100,)


def test_the_tolerance_is_a_share_of_full_rank(top):
    (mean, *_) = compare([POINT], runs(top, "ab")).rows
    assert Tolerance(rank=2.11).holds(mean)
    assert not Tolerance(rank=2.09).holds(mean)


def test_a_network_without_rank_is_in_no_mean_and_agrees_with_one_that_died(top, tmp_path):
    make(tmp_path / "gone", config_of(POINT, seed=2), FALLING, gone=True)
    (row, *_) = compare([POINT], [*runs(top, "a"), load_run(tmp_path / "gone")]).rows
    assert row.mean == 54.5
    assert len(row.ours) == 2
    (row, *_) = compare([POINT], [load_run(tmp_path / "gone")]).rows
    assert np.isnan(row.mean) and not Tolerance(100).holds(row)
    (died,) = [p for p in of_figure("8 B 4") if p.x == 6e-3]
    make(tmp_path / "died", config_of(died), FALLING, gone=True)
    (row, *_) = compare([died], [load_run(tmp_path / "died")]).rows
    assert Tolerance(0).holds(row)


def test_what_a_reader_must_know_is_told(top):
    comparison = compare(of_figure("7"), runs(top))
    assert notes(comparison) == [
        "not there yet: run d (killed, epoch 250 of 490)",
        "images: run c read the folder /images in place of cifar10; whether it holds the same "
        "images no record says",
        "no run: figure 7, B 32: weight decay 0.0001, 0.0002, 0.0004, 0.0008, 0.006",
        "no run: figure 7, B 128: weight decay 0.0004, 0.0008",
    ]
    text = as_text(comparison, Tolerance())
    assert text.splitlines()[0] == "Figure 7: MLP-BN-10-100, learning rate 0.1; ε = 0.03"
    assert "2 of 10 points have runs; of their 12 values" in text
    page = as_markdown(comparison, Tolerance()).splitlines()
    assert page[2] == "| B 128 | 0.0001 | mean | 80.7 | 54.5 | 1 | -26.2 | no |"
    assert "|  | 0.006 | mean | 53.4 | 55.5 ± 1.4 | 2 | +2.1 | yes |" in page
    assert len(page) == 2 + 12


def test_a_repetition_counts_once(top, tmp_path):
    make(tmp_path / "again", config_of(POINT), FALLING)
    comparison = compare([POINT], [*runs(top, "a"), load_run(tmp_path / "again")])
    assert len(comparison.rows[0].ours) == 1
    assert notes(comparison) == ["left out: run again repeats a, with the same seed"]


def test_runs_that_nearly_stand_for_a_point_are_told_with_what_takes_them(tmp_path):
    make(tmp_path / "m", config_of(POINT, momentum=0.9), FALLING)
    found = [load_run(tmp_path / "m")]
    assert compare([POINT], found).missing[-1] == (
        "other settings: run m at momentum=0.9, not the figure's; compared with "
        "--instead='{momentum: 0.9}'"
    )
    comparison = compare([POINT], found, {"momentum": 0.9})
    assert comparison.rows[0].ours == (54.5,)
    assert "in place of the figure's: momentum=0.9 (0)" in as_text(comparison, Tolerance())
