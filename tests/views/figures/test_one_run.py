"""Figures: what is drawn against the tables given, layout against the rendered positions.

How they look was judged by eye; here text must not overlap text, nothing may leave the picture,
and drawing must neither import pyplot nor change matplotlib's settings.
Run with ``pytest tests/views/figures/test_one_run.py``.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lowrank.common.quantities import CHANGES, PRODUCTS
from lowrank.measure.layers import Layer
from lowrank.views.figures import (
    RankTable,
    final_figures,
    rank_curves,
    rank_heatmap,
    spectrum_over_time,
)
from lowrank.views.figures.one_run import WHAT
from tests.views.figures.legible import assert_legible, drawn_texts


def table(layers=5, epochs=60, collapsed=()):
    """Ranks that fall with depth; the layers in `collapsed` have none from the middle on."""
    full = np.resize([64.0, 100.0, 100.0, 256.0, 10.0], layers)
    at = np.arange(epochs + 1.0)
    share = 1 - np.outer(np.linspace(0.1, 0.9, layers), 1 - np.exp(-at / 20))
    ranks = np.round(full[:, None] * share)
    ranks[list(collapsed), (epochs + 1) // 2 :] = np.nan
    names = [f"layer{index // 3 + 1}_{index % 3}_downsample_0" for index in range(layers)]
    accuracy = 0.95 - 0.85 * np.exp(-at / 5)
    return RankTable("with weight decay", at, names, full, ranks, ranks.mean(0), accuracy, accuracy)


def spectra(table):
    """Geometric spectra, steeper with time."""
    return {
        name: np.where(
            np.isnan(ranks)[:, None],
            np.nan,
            np.exp(-np.outer(1 + table.epochs / 30, np.arange(full)) / 10),
        )
        for name, full, ranks in zip(table.layers, table.full_ranks, table.ranks, strict=True)
    }


def draw(kind, data):
    if kind == "heatmap":
        return rank_heatmap(data)
    if kind == "curves":
        return rank_curves([data])
    if kind == "two runs":
        return rank_curves([data, data])
    return spectrum_over_time(data.epochs, spectra(data), epsilons=(1e-3, 1e-2))


@pytest.mark.parametrize("kind", ["heatmap", "curves", "two runs", "spectra"])
@pytest.mark.parametrize(
    "data",
    [table(), table(54, 500, [20]), table(1, 0), table(5, 60, range(5))],
    ids=["5 layers", "54 layers 500 epochs", "1 layer 1 epoch", "all collapsed"],
)
def test_no_text_overlaps_or_leaves_the_picture(monkeypatch, kind, data):
    canvas = FigureCanvasAgg(draw(kind, data))
    assert_legible(drawn_texts(monkeypatch, canvas.draw), canvas)


def test_the_heat_map_shows_shares_in_network_order():
    data = table(5, 60, [2])
    axes, bar = rank_heatmap(data).axes
    (mesh,) = axes.collections
    cells: Any = np.ma.filled(np.ma.asarray(mesh.get_array(), dtype=float), np.nan)
    np.testing.assert_array_equal(cells, data.ranks / data.full_ranks[:, None])
    assert [label.get_text() for label in axes.get_yticklabels()] == data.labels
    assert axes.yaxis_inverted()
    assert "epoch" in axes.get_xlabel()
    assert "collapsed" in axes.get_xlabel()
    assert bar.get_ylabel() == "rank / full rank"


def test_curves_are_the_ranks_and_collapse_is_marked():
    data = table(5, 60, [2])
    figure = rank_curves([data])
    upper, lower = figure.axes[:2]
    lines = [np.asarray(line.get_ydata(), dtype=float) for line in upper.lines]
    for ranks in data.ranks:
        assert any(np.array_equal(y, ranks, equal_nan=True) for y in lines)
    (cross,) = [line for line in upper.lines if line.get_marker() == "x"]
    np.testing.assert_array_equal(cross.get_xydata(), [[29, data.ranks[2, 29]]])
    legend = upper.get_legend()
    assert legend is not None
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == [*data.labels, "mean of hidden layers"]
    test = np.asarray(lower.lines[1].get_ydata(), dtype=float)
    np.testing.assert_allclose(test, 100 * data.test_accuracy)
    assert upper.get_title() == "with weight decay: test accuracy 95.0 %"


def test_spectra_are_normalised_and_dense_at_the_start():
    data = table(3, 400)
    figure = spectrum_over_time(data.epochs, spectra(data), epsilons=(1e-2,))
    first = figure.axes[0]
    curve = next(line for line in first.lines if len(line.get_xdata()) > 2)
    drawn = np.asarray(curve.get_ydata(), dtype=float)
    start = next(iter(spectra(data).values()))[0]
    np.testing.assert_allclose(drawn, np.maximum(start / np.linalg.norm(start), 1e-2 / 300))
    labels = [label.get_text() for label in figure.axes[-1].get_yticklabels()]
    assert labels == ["0", "6", "25", "56", "100", "156", "225", "306", "400"]


@pytest.mark.parametrize("epochs", [0, 1, 2, 7], ids="{} epochs".format)
def test_short_runs_show_every_epoch_once(epochs):
    data = table(2, epochs)
    figure = spectrum_over_time(data.epochs, spectra(data))
    labels = [label.get_text() for label in figure.axes[-1].get_yticklabels()]
    assert len(set(labels)) == len(labels)
    assert labels[0] == "0"
    assert labels[-1] == str(epochs)


def test_the_last_rows_figures_come_from_a_record():
    data = table(3, 4)
    layers = [
        Layer(name, name, (int(full), 300), None, True)
        for name, full in zip(data.layers, data.full_ranks, strict=True)
    ]
    gap = np.array([0.0, np.nan, 0.0, 0.0, 0.0])  # epoch 1 was not measured
    metrics = {f"rank/{name}": ranks for name, ranks in zip(data.layers, data.ranks, strict=True)}
    metrics |= {"collapsed": gap, "rank_mean": data.mean}
    metrics |= {"train_accuracy": data.train_accuracy, "test_accuracy": data.test_accuracy}
    run: Any = SimpleNamespace(
        has_directions=False,
        id="abc",
        epochs=np.arange(5),
        config={"epsilons": [1e-3], "rank_norm": "frobenius"},
        layers=layers,
        derived=(),
        metrics=metrics,
        times=np.arange(5.0),
        over_time=metrics.__getitem__,
        spectra=spectra(data),
    )
    figures = final_figures(run)
    assert set(figures) == {"rank_heatmap", "spectrum_over_time"}
    assert all(isinstance(figure, Figure) for figure in figures.values())
    assert RankTable.of(run).epochs.tolist() == [0, 2, 3, 4]
    assert RankTable.of(run).title == "abc"  # of another's loop, of which nothing is known
    run.config |= {"model": "mlp", "dataset": "digits", "lr": 0.1, "batch_size": 8, "seed": 0}
    title = final_figures(run)["rank_heatmap"].axes[0].get_title()
    assert title.startswith("mlp on digits lr=0.1 batch_size=8 seed=0: rank of every")
    labels = [
        label.get_text() for label in figures["spectrum_over_time"].axes[-1].get_yticklabels()
    ]
    assert labels == ["0", "2", "3", "4"]
    run.layers, run.derived = layers[:1], [replace(each, kind="change") for each in layers[1:]]
    figures = final_figures(run)
    assert set(figures) == {"rank_heatmap", "spectrum_over_time", "rank_heatmap_change"}
    for name, own in (("", run.layers), ("_change", run.derived)):
        rows = figures[f"rank_heatmap{name}"].axes[0].get_yticklabels()
        expected = [f"{each.name} ({min(each.shape)})" for each in own]
        assert [row.get_text() for row in rows] == expected
    assert "rank of the change since" in figures["rank_heatmap_change"].axes[0].get_title()
    assert list(WHAT) == ["weight", *PRODUCTS, *CHANGES]


def test_ranks_within_epochs_are_drawn_between_them_and_accuracies_from_end_to_end():
    data = table(layers=2, epochs=4)
    between = np.sort(np.concatenate([data.epochs, data.epochs[:-1] + 0.25]))
    at_ends = between == np.round(between)
    accuracy = np.where(at_ends, 0.5, np.nan)
    ranks = np.resize(np.arange(9.0), (2, 9))
    data = replace(data, epochs=between, ranks=ranks, mean=ranks[0], train_accuracy=accuracy,
                   test_accuracy=accuracy)  # fmt: skip
    figure = rank_curves([data])
    assert figure.axes[0].lines[0].get_xdata().tolist() == between.tolist()
    assert figure.axes[1].lines[0].get_xdata().tolist() == [0, 1, 2, 3, 4]
    assert np.isfinite(figure.axes[1].lines[0].get_ydata()).all()


def test_drawing_leaves_matplotlibs_state_alone():
    script = """
import sys, matplotlib
before = matplotlib.rcParams.copy()  # as a dict it would import pyplot
from tests.views.figures.legible import assert_legible, drawn_texts
from tests.views.figures.test_one_run import draw, table
for kind in ("heatmap", "two runs", "spectra"):
    draw(kind, table()).savefig(sys.stdout.buffer, format="png")
assert matplotlib.rcParams.copy() == before
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
