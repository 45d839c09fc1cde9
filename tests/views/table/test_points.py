"""Points of a sweep: which runs are replicates, which settings vary, and what is missing.

Rows are made without records.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np

from lowrank.config import Config
from lowrank.views.table.factors import centre, factors_of, grid, is_grid
from lowrank.views.table.fields import settings, varied
from lowrank.views.table.points import Plan, sweep_of
from tests.views.table.records import make_row


def grid_rows(seeds=(0, 1), **values):
    names = list(values)
    return [
        make_row(f"r{number}", seed=seed, **dict(zip(names, point, strict=True)))
        for number, (*point, seed) in enumerate(product(*values.values(), seeds))
    ]


def plan_of(swept, **values):
    names = list(values)
    configs = [
        Config(**dict(zip(names, point, strict=True))).recorded()
        for point in product(*values.values())
    ]
    return Plan.of(configs, swept)


def test_runs_that_differ_in_seed_place_and_tracking_are_one_point():
    other = {"seed": 1, "output_dir": "elsewhere", "group": "g", "tags": ["x"], "threads": 3}
    other |= {
        "device": "cpu",
        "data_dir": "d",
        "name": "n",
        "measure_every": 2,
        "on_collapse": "stop",
    }
    sweep = sweep_of([make_row("a", seed=0), make_row("b", **other)])
    assert sweep.fields == ()
    (point,) = sweep.points
    assert [row.id for row in point.rows] == ["a", "b"]
    assert sweep.lines == []


def test_settings_that_vary_come_in_the_order_of_the_configuration():
    rows = [
        make_row("a", batch_size=8, lr=0.1, momentum=0.9),
        make_row("b", batch_size=16, lr=0.2, precision="bf16"),
    ]
    assert varied([settings(row) for row in rows]) == ("lr", "momentum", "batch_size", "precision")


def test_image_folders_are_told_apart_by_their_place():
    rows = [make_row(name, dataset="imagefolder", data_dir=name) for name in "ab"]
    assert sweep_of(rows).fields == ("data_dir",)


def test_a_record_too_old_to_have_a_setting_has_its_default():
    old = make_row("a", seed=0)
    del old.config["weight_norm"]
    assert sweep_of([old, make_row("b", seed=1)]).fields == ()


def test_runs_of_other_loops_are_no_replicates():
    bare = [replace(make_row(name), config={}) for name in "ab"]
    assert sweep_of(bare).fields == ("run",)
    assert len(sweep_of(bare).points) == 2
    told_apart = [replace(row, config={"width": n}) for n, row in enumerate(bare)]
    assert sweep_of(told_apart).fields == ("width",)


def test_the_same_seed_twice_counts_once_and_the_finished_run_is_kept():
    rows = [
        make_row("failed", [16, 9], state="failed", lr=0.2),
        make_row("whole", lr=0.2),
        make_row("other", lr=0.3),
    ]
    sweep = sweep_of(rows)
    assert [row.id for row in sweep.rows] == ["whole", "other"]
    assert sweep.lines == [
        "left out: run failed (failed) repeats whole (finished), with the same seed"
    ]


def test_collapsed_dead_and_unfinished_runs_are_named():
    rows = [
        make_row("a", [16, np.nan, np.nan], end="collapsed", lr=0.1),
        make_row("b", [16, 9, np.nan], end="dead", lr=0.2),
        make_row("c", [16, 9], state="killed", lr=0.3),
        make_row("d", [], state="running", lr=0.4),
    ]
    assert sweep_of(rows).lines == [
        "collapsed since epoch 1: run a (lr=0.1 seed=0)",
        "dead since epoch 2: run b (lr=0.2 seed=0)",
        "not finished, killed: run c (lr=0.3 seed=0), last epoch measured: 1",
        "not finished, running: run d (lr=0.4 seed=0), last epoch measured: none",
    ]


def test_holes_of_a_grid_are_named_and_seeds_that_most_points_have():
    rows = grid_rows(lr=[0.1, 0.2, 0.3], batch_size=[8, 16])
    kept = [row for row in rows if row.id not in ("r2", "r3", "r7")]
    assert sweep_of(kept).lines == [
        "missing: lr=0.1 batch_size=16 (seeds 0, 1)",
        "missing: lr=0.2 batch_size=16, seed 1",
    ]
    assert sweep_of(rows).lines == []


def test_a_star_and_coupled_settings_have_no_holes():
    star = [make_row(f"{lr}", lr=lr) for lr in (0.1, 0.2, 0.3, 0.4)]
    star += [make_row(f"b{b}", lr=0.2, batch_size=b) for b in (4, 8, 32)]
    assert sweep_of(star).lines == []
    coupled = [
        make_row(f"{lr}{size}", lr=lr, weight_decay=decay, batch_size=size)
        for lr, decay in ((0.001, 6e-3), (0.005, 6e-3), (0.01, 4e-4))
        for size in (4, 8)
    ]
    sweep = sweep_of(coupled)
    assert sweep.lines == []
    assert sweep_of(coupled[1:]).lines == ["missing: lr=0.001 weight_decay=0.006 batch_size=4"]


def test_a_sweep_file_says_what_is_missing_where_nothing_ran_yet():
    plan = plan_of(["lr", "seed"], lr=[0.1, 0.2, 0.3], seed=[0, 1])
    rows = [make_row("a", lr=0.1, seed=0), make_row("b", lr=0.1, seed=1)]
    rows += [make_row("c", lr=0.2, seed=1), make_row("stray", lr=7.0)]
    sweep = sweep_of(rows, plan)
    assert sweep.fields == ("lr",)
    assert [point.values for point in sweep.points] == [(0.1,), (0.2,), (0.3,)]
    assert sweep.lines == [
        "left out: run stray is at no point of the sweep (lr=7)",
        "missing: lr=0.2, seed 0",
        "missing: lr=0.3 (seeds 0, 1)",
    ]


def test_a_sweep_file_without_seeds_wants_one_run_of_any_seed():
    plan = plan_of(["lr", "batch_size"], lr=[0.1, 0.2], batch_size=[4, 8])
    rows = [
        make_row("a", lr=0.1, batch_size=4, seed=5),
        make_row("b", lr=0.2, batch_size=8, seed=6),
    ]
    assert sweep_of(rows, plan).lines == [
        "missing: lr=0.1 batch_size=8",
        "missing: lr=0.2 batch_size=4",
    ]


def test_factors_follow_from_the_points():
    rank_bound = [(0.01, 0.5, b, w) for b, w in product((1, 4), (50, 100))]
    rank_bound += [(0.1, 0.05, b, w) for b, w in product((1, 4), (50, 100))]
    found = factors_of(["lr", "weight_decay", "batch_size", "width"], rank_bound)
    assert [factor.fields for factor in found] == [
        ("lr", "weight_decay"),
        ("batch_size",),
        ("width",),
    ]
    assert found[0].labels == ["0.01, 0.5", "0.1, 0.05"]
    assert found[0].title(1) == "learning rate 0.1, weight decay 0.05"
    assert sorted(grid(found)) == sorted(rank_bound)
    assert is_grid(found, rank_bound[:4] + rank_bound[6:])


def test_grid_star_and_neither():
    cells = list(product((1, 2, 3), (4, 5, 6)))
    factors = factors_of(["lr", "batch_size"], cells)
    assert is_grid(factors, cells)
    assert centre(factors, cells) is None
    cross = [(2, 4), (2, 5), (2, 6), (1, 5), (3, 5)]
    assert centre(factors, cross) == (1, 1)
    assert not is_grid(factors, cross)
    diagonal = [(1, 4, 1), (2, 5, 1), (3, 6, 2), (1, 5, 2), (2, 6, 3), (3, 4, 3)]
    scattered = factors_of(["lr", "batch_size", "width"], diagonal)
    assert not is_grid(scattered, diagonal)
    assert centre(scattered, diagonal) is None
