"""Statistics and verdicts of benchmark rows against numbers worked out by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.timing import Row, Spread, faster, interleaved, number, spread


def row(ours, theirs, kind, target, unit="s"):
    baseline = None if theirs is None else spread(theirs)
    return Row("ours", "theirs", unit, spread(ours), baseline, kind, target)


def test_a_spread_is_median_and_median_absolute_deviation():
    values = np.random.default_rng(0).lognormal(size=25)
    median = np.median(values)
    found = spread(list(values))
    assert found.median == pytest.approx(median)
    assert found.deviation == pytest.approx(np.median(np.abs(values - median)))
    assert found.count == 25


def test_one_slow_repetition_moves_the_median_little():
    assert spread([1.0, 1.0, 1.0, 1.0, 60.0]) == Spread(1.0, 0.0, 5)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.00123, "0.00123"), (0.5, "0.5"), (12.345, "12.3"), (123.4, "123"), (54321.0, "54,321")],
)
def test_numbers_have_three_digits_or_all_before_the_point(value, text):
    assert number(value) == text


def test_the_ratio_of_times_is_that_of_the_medians():
    found = row([1.0, 2.0, 9.0], [9.0, 10.0, 11.0], "speedup", 5)
    assert found.ratio == 5.0
    assert found.met
    assert found.verdict() == "met"
    assert (found.demand, found.shown_ratio()) == ("≥ 5×", "5×")


def test_a_miss_by_a_hair_does_not_read_as_the_target():
    found = row([1.0], [3.998], "speedup", 4)
    assert (found.shown_ratio(), found.verdict()) == ("3.998×", "missed")


def test_of_rates_the_larger_one_is_faster():
    found = row([300.0], [100.0], "speedup", 4, unit="images/s")
    assert found.ratio == pytest.approx(3.0)
    assert found.verdict() == "missed"


@pytest.mark.parametrize(("ours", "verdict"), [(1.09, "met"), (1.1, "met"), (1.11, "missed")])
def test_a_share_is_at_most_its_target(ours, verdict):
    found = row([ours], [1.0], "share", 1.1)
    assert found.ratio == pytest.approx(ours)
    assert found.verdict() == verdict
    assert found.demand == "≤ 1.1"


@pytest.mark.parametrize(("ours", "verdict"), [(0.4, "met"), (0.6, "missed")])
def test_without_a_baseline_ours_itself_is_judged(ours, verdict):
    found = row([ours], None, "absolute", 0.5)
    assert found.ratio is None
    assert found.verdict() == verdict
    assert found.demand == "≤ 0.5 s"
    assert found.shown_ratio() == ""


def test_where_nothing_is_demanded_nothing_is_judged():
    found = row([1.0], [2.0], "speedup", None)
    assert found.met is None
    assert (found.demand, found.verdict()) == ("", "")


def test_rates_come_from_the_work_of_a_repetition():
    times = {"ours": [0.5, 0.25, 0.5], "theirs": [2.0, 2.0, 2.0]}
    found = faster("a", "b", times, 4, work=100, unit="images/s")
    assert (found.ours.median, found.theirs.median, found.ratio) == (200.0, 50.0, 4.0)


def test_turns_alternate_and_warm_ups_do_not_count():
    order = []
    turns = {name: lambda name=name: order.append(name) for name in ("a", "b")}
    times = interleaved(turns, 3, warmups=2)
    assert order == ["a", "b"] * 5
    assert {name: len(of) for name, of in times.items()} == {"a": 3, "b": 3}


def test_seconds_are_those_of_torchs_clock_which_waits_for_a_gpu(monkeypatch):
    ticks = iter([10.0, 12.5])
    monkeypatch.setattr("torch.utils.benchmark.timer", lambda: next(ticks))
    assert interleaved({"a": lambda: None}, 1, warmups=0) == {"a": [2.5]}


@pytest.mark.parametrize("theirs", [None, [2.0, 3.0]])
def test_a_row_survives_json(theirs):
    found = row([1.0, 2.0, 4.0], theirs, "share", 1.5)
    assert Row.from_json(json.loads(json.dumps(found.to_json()))) == found
