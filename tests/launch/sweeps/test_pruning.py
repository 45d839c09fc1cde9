"""Runs that end early: bands against W&B's formula, who goes on against a slow count, a sweep."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest

from lowrank.config.sweepfile.local import bands
from lowrank.launch.sweeps.pruning import Pruning
from tests.launch.sweeps.helpers import TINY, runs, sweep, write_sweep


@pytest.mark.parametrize(
    ("stopping", "expected"),
    [
        ({"min_iter": 3}, [3, 9, 27, 81]),
        ({"min_iter": 4, "eta": 2}, [4, 8, 16, 32]),
        ({"max_iter": 81, "s": 3}, [3, 9, 27]),
        ({"max_iter": 20, "s": 9, "eta": 2}, [1, 2, 5, 10]),  # W&B cuts what is behind the point
    ],
)
def test_bands_are_wandbs(stopping, expected):
    found = bands({"type": "hyperband", **stopping})
    assert found[: len(expected)] == expected
    assert ("max_iter" in stopping) == (found == expected)


@pytest.mark.parametrize("eta", [2, 3, 4])
@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_the_best_of_every_eta_that_reached_a_band_go_on(eta, direction):
    chance = random.Random(eta)
    pruning = Pruning({"min_iter": 2, "eta": eta}, "rank_mean", direction)
    for count in range(8):
        others = [
            {band: chance.random() for band in pruning.bands[: chance.randint(0, 3)]}
            for _ in range(count)
        ]
        for reached in (1, 2, 3):
            own = {band: chance.random() for band in pruning.bands[:reached]}
            last = pruning.bands[reached - 1]
            there = [values[last] for values in others if last in values]
            sign = 1 if direction == "minimize" else -1
            better = sum(sign * value < sign * own[last] for value in there)
            go_on = max(1, (len(there) + 1) // eta)
            assert pruning.ends(own, others) == (better >= go_on)


def test_a_run_counts_with_its_value_at_the_band_or_its_best():
    run = SimpleNamespace(
        epochs=np.arange(8),
        metrics={"rank_mean": np.array([9, 3, np.nan, 5, 6, np.nan, np.nan, 4.0])},
    )
    stopping = {"min_iter": 2, "eta": 3}
    assert Pruning(stopping, "rank_mean", "minimize").values(run) == {2: 5.0, 6: 4.0}
    best = Pruning({**stopping, "strict": False}, "rank_mean", "minimize")
    assert best.values(run) == {2: 3.0, 6: 3.0}
    assert Pruning(stopping, "test_loss", "minimize").values(run) == {}


@pytest.mark.slow
def test_a_run_that_is_worse_ends_early_and_is_done(tmp_path):
    tiny = {**TINY, "epochs": 300, "train_size": 300, "tracking": "disabled"}
    file = str(
        write_sweep(
            tmp_path,
            {"lr": {"values": [0.1, 1e-7]}},
            tiny=tiny,
            metric={"name": "train_loss", "goal": "minimize"},
            early_terminate={"type": "hyperband", "min_iter": 5},
        )
    )
    first = sweep(tmp_path, file)
    assert first.returncode == 0, first.stdout + first.stderr
    found = {run.config["lr"]: run for run in runs(tmp_path).values()}
    good, bad = found[0.1], found[1e-7]
    assert (good.state, good.epochs[-1]) == ("finished", 300)
    assert bad.state == "stopped"
    assert 5 <= bad.epochs[-1] < 300
    assert f"{bad.id} pruned, " in first.stdout
    assert f"{bad.id} is pruned at epoch " in first.stdout
    assert "2 of 2 points done, 1 of them pruned" in first.stdout
    before = bad.path.read_bytes()
    again = sweep(tmp_path, file)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "2 of 2 points are done already" in again.stdout
    assert bad.path.read_bytes() == before
    refused = sweep(tmp_path, file, "--pack=4")
    assert refused.returncode == 2
    assert "pack: got 4; allowed: off, as early_terminate ends single runs" in refused.stderr
