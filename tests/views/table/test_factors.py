"""What varies over a sweep, against sweeps whose shape is known by how they were made."""

from __future__ import annotations

from itertools import product

from lowrank.views.table.factors import factors_of

FIELDS = ("lr", "weight_decay", "batch_size")


def fields_of(points):
    return [factor.fields for factor in factors_of(FIELDS, points)]


def test_some_pairs_each_with_everything_else_are_one_factor():
    # Fig. 7's: all weight decays at one rate, further rates at one weight decay.
    pairs = [*((0.1, w) for w in range(6)), (0.01, 2), (0.5, 2)]
    points = [(*pair, batch) for pair, batch in product(pairs, (4, 8, 16))]
    assert fields_of(points) == [("lr", "weight_decay"), ("batch_size",)]
    assert fields_of(points[:-1]) == [(name,) for name in FIELDS], "one is missing"


def test_grids_and_stars_keep_their_factors():
    assert fields_of(list(product((1, 2), (3, 4), (5, 6)))) == [(name,) for name in FIELDS]
    star = [(1, 1, 1), (0, 1, 1), (2, 1, 1), (1, 0, 1), (1, 2, 1), (1, 1, 0), (1, 1, 2)]
    assert fields_of(star) == [(name,) for name in FIELDS]
