"""Runs that were lost, against records made by hand: epochs, accuracies and names are known."""

from __future__ import annotations

from lowrank import load_run
from lowrank.runs.lost import lost
from tests.views.table.records import make_run


def of(directory):
    return lost(load_run(directory))


def test_a_run_that_lives_is_not_lost(tmp_path):
    make_run(tmp_path / "a", ranks=[16, 12, 9])
    assert of(tmp_path / "a") is None


def test_a_dead_run_says_since_when_and_with_what_accuracy(tmp_path):
    make_run(tmp_path / "a", ranks=[16, 3, 2, 1], accuracy=0.1, dead_from=2)
    found = of(tmp_path / "a")
    # make_run's training accuracy at epoch e is 0.1 + 0.05 (1 - exp(-e / 5)): 0.12256 at 3.
    assert found == ("dead", 2, "dead since epoch 2, train accuracy 0.123")


def test_a_collapsed_run_names_its_matrices_and_counts_as_collapsed_also_if_it_is_dead(tmp_path):
    make_run(tmp_path / "a", ranks=[16, 3, 2, 1], collapsed_from=3, dead_from=2)
    found = of(tmp_path / "a")
    assert (found.how, found.since) == ("collapsed", 3)
    assert found.text.startswith("collapsed since epoch 3: linear1, linear2, head; dead since ")


def test_an_epoch_that_was_not_measured_says_nothing(tmp_path):
    make_run(tmp_path / "a", ranks=[16, 12, 9, 8], dead_from=3, measure_every=3)
    assert of(tmp_path / "a").since == 3
