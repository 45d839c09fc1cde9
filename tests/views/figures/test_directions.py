"""How far directions stay: what is drawn and written against subspaces whose angles are known."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from lowrank import load_run
from lowrank.cli import main
from lowrank.config import Config
from lowrank.measure.directions import Directions
from lowrank.measure.layers import Layer
from lowrank.measure.metrics import measurement_metrics
from lowrank.views.figures import final_figures
from lowrank.views.figures.directions import DirectionsTable, directions_figure
from tests.views.figures.legible import assert_legible, drawn_texts
from tests.views.table.records import begun

LAYERS = [Layer("a", "a", (4, 8)), Layer("b", "b", (3, 4), counted=False)]
SPECTRA = {"a": np.arange(4.0, 0, -1), "b": np.arange(3.0, 0, -1)}


def turned(rows, angle):
    """A direction that turns from the first axis to the second."""
    vector = np.zeros((rows, 1), np.float32)
    vector[:2, 0] = np.cos(angle), np.sin(angle)
    return vector


def run_with(directory, *, directions, epochs=4):
    """A run whose left directions turn by 0.2 an epoch, and whose right ones stay."""
    config = Config(directions=directions, epochs=epochs, measure_every=2)
    with begun(directory, config, LAYERS) as record:
        for epoch in range(epochs + 1):
            row = {"lr_now": 0.1, "dead": 0.0, "train_accuracy": 0.5, "test_accuracy": 0.5}
            if epoch % 2:
                record.append(epoch, row)
                continue
            row |= measurement_metrics(LAYERS, SPECTRA, epsilons=[1e-3, 1e-2])
            kept = {
                layer.name: Directions(turned(rows, 0.2 * epoch), turned(columns, 0.0))
                for layer in LAYERS
                for rows, columns in [layer.shape]
            }
            record.append(epoch, row, SPECTRA, kept if directions else None)
        record.set_state("finished")
    return load_run(directory)


def test_curves_and_map_are_the_overlaps_of_measured_epochs(tmp_path, monkeypatch):
    run = run_with(tmp_path / "a", directions=1)
    table = DirectionsTable.of(run, "title")
    assert table.epochs.tolist() == [0, 2, 4]
    angles = 0.2 * (table.epochs[:, None] - table.epochs)
    np.testing.assert_allclose(table.overlaps["left"][1], np.cos(angles) ** 2, atol=1e-6)
    np.testing.assert_allclose(table.overlaps["right"], 1, atol=1e-6)
    assert table.chance["left"].tolist() == [1 / 4, 1 / 3]
    figure = directions_figure(table)
    curve = figure.axes[0].lines[0]
    np.testing.assert_allclose(curve.get_ydata(), np.cos(0.2 * (4 - table.epochs)) ** 2, atol=1e-6)
    canvas = FigureCanvasAgg(figure)
    assert_legible(drawn_texts(monkeypatch, canvas.draw), canvas)
    assert "direction_overlap" in final_figures(run)


def test_the_command_draws_and_writes_those_of_one_run(tmp_path, capsys):
    run_with(tmp_path / "a", directions=1)
    flags = ["--kind=directions", "--format=png", "--csv", f"--output={tmp_path / 'f'}"]
    assert main(["figures", str(tmp_path / "a"), *flags]) == 0
    assert "overlap of the leading 1 singular directions" in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "f/directions.csv").open(encoding="utf-8")))
    assert len(rows) == 2 * 2 * 6
    (row,) = (r for r in rows if list(r.values())[:4] == ["a", "left", "4", "0"])
    assert float(row["overlap"]) == pytest.approx(np.cos(0.8) ** 2, abs=1e-6)


def test_what_there_is_not_is_said(tmp_path, capsys):
    run = run_with(tmp_path / "a", directions=None)
    assert "direction_overlap" not in final_figures(run)
    flags = ["--kind=directions", f"--output={tmp_path / 'f'}"]
    assert main(["figures", str(tmp_path / "a"), *flags]) == 2
    assert "run a kept no directions; train with --directions" in capsys.readouterr().err
    run_with(tmp_path / "b", directions=1, epochs=6)
    assert main(["figures", str(tmp_path / "a"), str(tmp_path / "b"), *flags]) == 2
    assert "directions are drawn of one run, got 2" in capsys.readouterr().err
    assert main(["figures", str(tmp_path / "b"), *flags, "--by=lr"]) == 2
    assert "are of several runs; allowed: another kind" in capsys.readouterr().err
