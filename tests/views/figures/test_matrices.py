"""Spectra and norm ratios: tables against numbers made step by step, artists against tables."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from lowrank import load_run
from lowrank.cli import main
from lowrank.common.errors import InputError
from lowrank.config import Config
from lowrank.measure.layers import Layer
from lowrank.measure.metrics import measurement_metrics
from lowrank.runs.writer import Record
from lowrank.views.figures.draw import layouts_of
from lowrank.views.figures.layout import Wishes
from lowrank.views.figures.lines import lines_figure
from lowrank.views.figures.matrices import lines_csv, ratio_table, spectra_table
from lowrank.views.table.matrices import pure_decay
from lowrank.views.table.points import sweep_of
from lowrank.views.table.rows import Definition, read_rows
from tests.views.figures.legible import assert_legible, drawn_texts
from tests.views.table.records import begun, make_run

LAYERS = [Layer("a", "a", (4, 6)), Layer("b", "b", (3, 4)), Layer("c", "c", (2, 3), counted=False)]
SPECTRA = {"a": [4.0, 2.0, 1.0, 0.5], "b": [3.0, 2.0, 1.0], "c": [1.0, 1.0]}
STEPS = 7  # 20 examples in batches of 3


def shrinking(directory, *, decay, by_step=1.0, dataset_size=20):
    """A run whose matrices shrink in each step by μ·wd and, b only, by a factor of its own."""
    fields = {"weight_decay": decay, "lr": 0.5, "batch_size": 3, "epochs": 6, "milestones": [4]}
    config = Config(train_size=dataset_size, gamma=0.1, **fields)
    sizes = dict.fromkeys(SPECTRA, 1.0)
    with begun(directory, config, LAYERS) as record:
        for epoch in range(7):
            rate = 0.5 if epoch < 4 else 0.05
            for _ in range(STEPS if epoch else 0):
                sizes = {n: s * (1 - rate * decay) for n, s in sizes.items()}
                sizes["b"] *= by_step
            spectra = {name: sizes[name] * np.array(values) for name, values in SPECTRA.items()}
            row = {"lr_now": rate, "dead": 0.0}
            row |= measurement_metrics(LAYERS, spectra, epsilons=[1e-3, 1e-2])
            record.append(epoch, row, spectra)
        record.set_state("finished")
    return directory


@pytest.fixture(scope="module")
def top(tmp_path_factory):
    top = tmp_path_factory.mktemp("shrinking")
    shrinking(top / "weak", decay=0.01)
    shrinking(top / "strong", decay=0.1, by_step=0.99)
    return top


def swept(top):
    rows, _ = read_rows([load_run(path) for path in sorted(top.iterdir())], Definition())
    return sweep_of(rows)


def tables(top, kind, **options):
    sweep = swept(top)
    (layout,) = layouts_of(sweep, (kind,), Wishes())
    if kind == "spectra":
        return spectra_table(sweep.points, layout, Definition(), **options)
    return ratio_table(sweep.points, layout, **options)


def test_ratios_of_norms_beside_pure_decay(top):
    table = tables(top, "ratio", layer="a", every=2)
    assert table.labels == ["0.01", "0.1"]
    for line, decay in zip(table.lines, (0.01, 0.1), strict=True):
        assert line.x.tolist() == [2, 4, 6]
        within = [0.5, 0.5, 0.5, 0.05, 0.05, 0.05]
        left = [
            np.prod([(1 - rate * decay) ** STEPS for rate in within[k : k + 2]]) for k in (0, 2, 4)
        ]
        np.testing.assert_allclose(line.decay, left, rtol=1e-13)
        np.testing.assert_allclose(line.mean, left, rtol=1e-12)
    strong = tables(top, "ratio", every=2).lines[1]  # the mean over a and b
    np.testing.assert_allclose(strong.mean, strong.decay * (1 + 0.99**14) / 2, rtol=1e-12)
    with pytest.raises(InputError, match="every: no network has norms 9 epochs"):
        tables(top, "ratio", every=9)


def test_what_is_derived_has_no_pure_decay_and_no_spectrum_where_there_was_none(
    tmp_path, monkeypatch
):
    update = Layer("a_update", "a", (4, 6), counted=False, kind="update")
    monkeypatch.setitem(globals(), "LAYERS", [LAYERS[0], update])
    spectra = {"a": SPECTRA["a"], "a_update": SPECTRA["a"], "b": SPECTRA["b"]}
    monkeypatch.setitem(globals(), "SPECTRA", spectra)
    monkeypatch.setattr(Record, "append", without_update(Record.append))
    shrinking(tmp_path / "a", decay=0.1)
    (line,) = tables(tmp_path, "ratio", layer="a_update", every=2).lines
    assert np.isnan(line.decay).all()
    assert np.isfinite(tables(tmp_path, "ratio", layer="a", every=2).lines[0].decay).all()
    assert tables(tmp_path, "spectra", layer="a_update", epoch=1).lines
    with pytest.raises(InputError, match="no network has a spectrum of a_update at epoch 0"):
        tables(tmp_path, "spectra", layer="a_update", epoch=0)


def without_update(append):
    """Returns what appends to a record, but no update at epoch 0, where there was none."""

    def changed(record, epoch, row, spectra):
        own = {layer.name: spectra[layer.name] for layer in LAYERS}
        if not epoch:
            own["a_update"] = np.full(4, np.nan)
        append(record, epoch, row, own)

    return changed


def test_pure_decay_is_claimed_for_plain_sgd_only(top):
    run = load_run(top / "weak")
    assert pure_decay(run, 0, 1) == pytest.approx((1 - 0.005) ** STEPS, rel=1e-13)
    for other in ({"momentum": 0.9}, {"optimizer": "adam"}, {"train_size": None}):
        run.config.update({"dataset": "imagefolder", **other})
        assert np.isnan(pure_decay(run, 0, 1))
        run.config.update({"momentum": 0.0, "optimizer": "sgd", "train_size": 20})


def test_spectra_are_means_over_seeds(tmp_path):
    for seed, rank in enumerate((4, 9)):
        make_run(tmp_path / f"s{seed}", [16, rank], seed=seed, weight_decay=1e-3)
    make_run(tmp_path / "gone", [16, 2], weight_decay=1e-2, collapsed_from=1)
    table = tables(tmp_path, "spectra", layer="linear1")
    (line,) = table.lines
    first = 1 / np.sqrt([4.0, 9.0])
    assert line.seeds == 2
    assert line.mean[0] == pytest.approx(first.mean(), rel=1e-9)
    assert line.deviation[0] == pytest.approx(first.std(ddof=1), rel=1e-9)
    assert line.x.tolist() == list(range(1, 17))
    assert table.is_logarithmic
    assert not tables(tmp_path, "spectra", layer="head", epoch=0).is_logarithmic
    with pytest.raises(InputError, match="layer: no run has 'linear9'"):
        tables(tmp_path, "spectra", layer="linear9")
    with pytest.raises(InputError, match="at epoch 7"):
        tables(tmp_path, "spectra", epoch=7)


@pytest.mark.parametrize("kind", ["spectra", "ratio"])
def test_lines_are_drawn_and_can_be_read(top, kind, monkeypatch):
    table = tables(top, kind, **({"every": 2} if kind == "ratio" else {}))
    figure = lines_figure(table)
    (axes,) = figure.axes
    drawn = {tuple(line.get_ydata()) for line in axes.lines}
    assert {tuple(line.mean) for line in table.lines} <= drawn
    canvas = FigureCanvasAgg(figure)
    assert_legible(drawn_texts(monkeypatch, canvas.draw), canvas)
    rows = list(csv.DictReader(io.StringIO(lines_csv(table))))
    assert len(rows) == sum(len(line.x) for line in table.lines)
    assert ("decay" in rows[0]) == (kind == "ratio")


def test_the_command_draws_both(top, tmp_path, capsys):
    words = ["figures", str(top), f"--output={tmp_path}", "--format=png", "--dpi=50"]
    assert main([*words, "--kind=spectra"]) == 0
    assert "spectra-weight_decay.png: spectrum of b, last epoch by weight decay; ε = 0.001" in (
        capsys.readouterr().out
    )
    assert main([*words, "--kind=ratio", "--every=3"]) == 0
    assert "norm ratio over 3 epochs by weight decay (mean over" in capsys.readouterr().out
    for bad in (
        ["--layer=a"], ["--every=2", "--kind=spectra"], ["--kind=ratio", "--epoch=1"],
        ["--kind=spectra", "--metric=train_loss"], ["--kind=ratio", "--epsilon=0.1"],
    ):  # fmt: skip
        assert main([*words, *bad]) == 2
