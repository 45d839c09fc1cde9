"""Accuracy against rank kept: what is drawn against what was put into a record."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from lowrank import load_run
from lowrank.cli import main
from lowrank.config import Config
from lowrank.measure.layers import Layer
from lowrank.measure.metrics import measurement_metrics
from lowrank.measure.truncation import LADDER
from lowrank.views.figures import final_figures
from lowrank.views.figures.truncation import truncation_figure
from tests.views.figures.legible import assert_legible, drawn_texts
from tests.views.table.records import begun

LAYERS = [Layer("a", "a", (64, 80)), Layer("b", "b", (3, 64), counted=False)]
SPECTRA = {"a": np.linspace(2, 1, 64), "b": np.ones(3)}


def run_with(directory, *, decay, every, epochs=6):
    """A run whose accuracy at share s is s times that of the epoch and weight decay."""
    config = Config(weight_decay=decay, truncation_every=every, epochs=epochs)
    with begun(directory, config, LAYERS) as record:
        for epoch in range(epochs + 1):
            row = {"lr_now": 0.1, "dead": 0.0, "train_accuracy": 0.5, "test_accuracy": 0.5}
            row |= measurement_metrics(LAYERS, SPECTRA, epsilons=[1e-3, 1e-2])
            for kept in LADDER if every and epoch % every == 0 else ():
                row[kept.mean_rank] = float(kept.rank(SPECTRA["a"]))
                row[kept.accuracy] = kept.amount * (epoch + 1) / 10 - decay
            record.append(epoch, row, SPECTRA)
        record.set_state("finished")
    return load_run(directory)


def test_every_truncated_epoch_has_a_curve_over_the_ranks_kept(tmp_path, monkeypatch):
    run = run_with(tmp_path / "a", decay=0.0, every=3)
    figure = truncation_figure(run)
    curves = [line for line in figure.axes[0].lines if line.get_linestyle() == "-"]
    assert len(curves) == 3
    ranks = np.sort([kept.rank(SPECTRA["a"]) for kept in LADDER])
    for curve, epoch in zip(curves, (0, 3, 6), strict=True):
        np.testing.assert_allclose(curve.get_xdata(), ranks / 64)
        assert curve.get_ydata().max() == pytest.approx(10 * (epoch + 1))
    canvas = FigureCanvasAgg(figure)
    assert_legible(drawn_texts(monkeypatch, canvas.draw), canvas)
    assert "accuracy_by_rank" in final_figures(run)


def test_a_run_without_has_no_picture(tmp_path):
    assert truncation_figure(run := run_with(tmp_path / "a", decay=0.0, every=None)) is None
    assert "accuracy_by_rank" not in final_figures(run)


def test_figures_draws_accuracies_by_the_value_of_a_setting(tmp_path, capsys):
    for decay in (0.0, 0.01):
        run_with(tmp_path / f"runs/{decay}", decay=decay, every=2)
    words = ["figures", str(tmp_path / "runs"), f"--output={tmp_path}", "--format=png", "--csv"]
    assert main([*words, "--kind=truncation", "--dpi=50"]) == 0
    assert "test accuracy at lower ranks by weight decay (epoch 6), 2 runs" in (
        capsys.readouterr().out
    )
    lines = (tmp_path / "truncation-weight_decay.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * 7
    assert lines[-1].startswith(",0.01,1,1,69")
    assert main([*words, "--kind=truncation", "--epoch=3"]) == 2
    assert "no network was truncated at epoch 3" in capsys.readouterr().err


def test_a_network_truncated_before_its_last_epoch_is_of_that_epoch(tmp_path, capsys):
    run_with(tmp_path / "runs/a", decay=0.0, every=4)
    words = ["figures", str(tmp_path / "runs"), f"--output={tmp_path}", "--format=png"]
    assert main([*words, "--kind=truncation", "--dpi=50"]) == 0
    assert "test accuracy at lower ranks (epoch 4), 1 run" in capsys.readouterr().out
