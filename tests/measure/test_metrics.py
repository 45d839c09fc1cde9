"""Metric names against design.md's list, values against closed forms and numpy in float64.

Run with ``pytest tests/measure/test_metrics.py``.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from lowrank.measure.layers import Layer
from lowrank.measure.metrics import (
    HISTOGRAM_EDGES,
    bound_metrics,
    is_hidden,
    measurement_metrics,
    spectrum_histogram,
)

LAYERS = [
    Layer("layers_0", "layers.0", (4, 8), None, True),
    Layer("layers_3", "layers.3", (3, 4), None, True),
    Layer("head", "head", (2, 3), None, False),
]
SPECTRA = {
    "layers_0": np.array([1.0, 0.5, 5e-3, 5e-4]),
    "layers_3": np.array([2.0, 2.0, 2.0]),
    "head": np.array([3.0, 0.0]),
}
PER_LAYER = {"rank", "rank@0.01", "rank@1e-05", "stable_rank", "effective_rank"} | {
    "spectral_norm",
    "frobenius_norm",
}


def measure(spectra=None, **given):
    arguments = {"epsilons": [1e-3, 1e-2, 1e-5]} | given
    return measurement_metrics(LAYERS, SPECTRA | (spectra or {}), **arguments)


def test_the_names_are_those_of_the_design():
    row = measure(distances={"head": 0.25}) | bound_metrics({"layers_0": 7.0})
    assert set(row) == {
        *("rank_mean", "rank_mean_all", "stable_rank_mean", "effective_rank_mean", "collapsed"),
        *("rank_mean@0.01", "rank_mean@1e-05", "distance/head", "rank_bound/layers_0"),
        *(f"{quantity}/{layer.name}" for quantity in PER_LAYER for layer in LAYERS),
    }
    assert row["distance/head"] == 0.25
    assert row["rank_bound/layers_0"] == 7.0
    assert all(type(value) is float for value in row.values())


def test_values_of_spectra_with_a_closed_form():
    row = measure()
    assert [row[f"rank/{layer.name}"] for layer in LAYERS] == [3, 3, 1]
    assert [row[f"rank@0.01/{layer.name}"] for layer in LAYERS] == [2, 3, 1]
    assert [row[f"rank@1e-05/{layer.name}"] for layer in LAYERS] == [4, 3, 1]
    assert (row["rank_mean"], row["rank_mean@0.01"], row["rank_mean@1e-05"]) == (3, 2.5, 3.5)
    assert row["rank_mean_all"] == pytest.approx(7 / 3)
    assert row["stable_rank/layers_3"] == pytest.approx(3)
    assert row["effective_rank/head"] == pytest.approx(1)
    assert row["stable_rank_mean"] == pytest.approx((1.25 + 2.525e-5 + 3) / 2)
    assert row["spectral_norm/head"] == row["frobenius_norm/head"] == 3
    assert row["frobenius_norm/layers_3"] == pytest.approx(math.sqrt(12))
    assert row["collapsed"] == 0


def test_the_spectral_norm_changes_the_ranks_only():
    edge = {"layers_3": np.array([1.0, 1.0, 1.2e-3])}  # 1.2e-3 is above 1e-3 · 1, below 1e-3 · √2
    assert measure(spectra=edge)["rank/layers_3"] == 2
    assert measure(spectra=edge, rank_norm="spectral")["rank/layers_3"] == 3


@pytest.mark.parametrize(
    ("gone", "mean_has_value"), [("layers_3", False), ("head", True)], ids=["hidden", "classifier"]
)
def test_a_collapsed_matrix_has_norms_but_no_rank(gone, mean_has_value):
    row = measure(collapsed={gone: True})
    for quantity in PER_LAYER:
        finite = quantity.endswith("_norm")
        assert math.isfinite(row[f"{quantity}/{gone}"]) == finite, quantity
        assert math.isfinite(row[f"{quantity}/layers_0"]), quantity
    for mean in ("rank_mean", "rank_mean@0.01", "stable_rank_mean", "effective_rank_mean"):
        assert math.isfinite(row[mean]) == mean_has_value, mean
    assert math.isnan(row["rank_mean_all"])
    assert row["collapsed"] == 1


def test_a_matrix_that_is_not_finite_is_collapsed_without_being_named():
    row = measure(spectra={"layers_0": np.full(4, np.nan)})
    assert row["collapsed"] == 1
    assert math.isnan(row["rank/layers_0"])
    assert math.isnan(row["frobenius_norm/layers_0"])
    assert row["rank/layers_3"] == 3


def test_only_rank_is_drawn_per_layer():
    row = measure(distances={"head": 1}) | bound_metrics({"head": 1})
    for name in [*row, "spectrum/head"]:
        hidden = "@" in name or ("/" in name and not name.startswith("rank/"))
        assert is_hidden(name) == hidden, name


@pytest.mark.parametrize(
    "name", ["epoch", "train_loss", "time/spectra", "val/loss", "distance", "spectrum_over_time"]
)
def test_what_is_not_per_layer_is_drawn(name):
    assert not is_hidden(name)


@pytest.mark.parametrize("norm", ["frobenius", "spectral"])
def test_the_histogram_is_numpys(norm):
    s = np.sort(10 ** np.random.default_rng(0).uniform(-6, 0, 200))[::-1]
    logs = np.log10(s / (s[0] if norm == "spectral" else np.linalg.norm(s)))
    expected, edges = np.histogram(logs, bins=64, range=(-8, 0))
    np.testing.assert_array_equal(spectrum_histogram(s, norm), expected)
    np.testing.assert_array_equal(HISTOGRAM_EDGES, edges)
    assert expected.sum() == len(s)


@pytest.mark.parametrize(
    ("s", "bins"),
    [([0.3], {63: 1}), ([1.0, 1e-8, 1e-12, 0.0], {0: 3, 63: 1}), ([1.0, 0.1], {56: 1, 63: 1})],
    ids=["one value is the norm", "small and zero in the first bin", "lower edge belongs to a bin"],
)
def test_the_ends_of_the_histogram(s, bins):
    counts = spectrum_histogram(s, "spectral")
    assert counts is not None
    assert {index: count for index, count in enumerate(counts.tolist()) if count} == bins


@pytest.mark.parametrize("s", [[0.0, 0.0], [np.nan, np.nan], [np.inf, 1.0]], ids=str)
def test_no_histogram_without_a_norm(s):
    assert spectrum_histogram(s) is None


def test_a_parts_mean_is_that_of_its_layers_and_gone_with_one_of_them():
    layers = [replace(layer, part=part) for layer, part in zip(LAYERS, ("a", "b", ""), strict=True)]
    measured = {"epsilons": [1e-3, 1e-2]}
    row = measurement_metrics(layers, SPECTRA, **measured)
    assert {name: row[name] for name in row if "_mean" in name and "/" in name} == {
        "rank_mean/a": 3, "rank_mean/b": 3, "rank_mean@0.01/a": 2, "rank_mean@0.01/b": 3,
    }  # fmt: skip
    row = measurement_metrics(layers, SPECTRA, collapsed={"layers_3": True}, **measured)
    assert math.isnan(row["rank_mean/b"])
    assert row["rank_mean/a"] == 3
    assert not is_hidden("rank_mean/a")
    assert is_hidden("rank_mean@0.01/a")
