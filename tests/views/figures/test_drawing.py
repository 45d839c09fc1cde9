"""Curves and landscapes of a sweep: tables against numpy, drawn artists against tables.

How they look was judged by eye; here no text may overlap text or leave the picture, and no legend
may cover a panel.
"""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import FillBetweenPolyCollection, QuadMesh
from matplotlib.patches import Rectangle

from lowrank.common.errors import InputError
from lowrank.views.figures.as_csv import curves_csv, landscape_csv, scatter_csv
from lowrank.views.figures.curves import curves_figure
from lowrank.views.figures.draw import layouts_of
from lowrank.views.figures.landscape import landscape_figure
from lowrank.views.figures.layout import Wishes, curves_layouts, landscape_layouts
from lowrank.views.figures.scatter import scatter_figure
from lowrank.views.figures.tables import (
    curves_table,
    landscape_table,
    scatter_table,
)
from lowrank.views.table.points import sweep_of
from lowrank.views.table.rows import Definition
from tests.views.figures.legible import assert_legible, drawn_texts
from tests.views.table.records import make_row

LRS, SIZES = (0.1, 0.5, 1.0, 2.0), (4, 8, 16)


def ranks_of(lr, size, seed, epochs=12):
    at = np.arange(epochs + 1)
    return 16 - lr * (16 / size) * (1 - np.exp(-at / 3)) * 1.5 + 0.3 * np.sin(at + seed)


def rows(seeds=3):
    """A grid: at lr 2 and batch 4 all collapse, at lr 1 and batch 4 one seed; one run goes on."""
    found = []
    for number, (lr, size, seed) in enumerate(product(LRS, SIZES, range(seeds))):
        ranks, state, end = ranks_of(lr, size, seed), "finished", "finished"
        if size == 4 and (lr == 2 or (lr == 1 and seed == 1)):
            ranks[5 + seed :] = np.nan
            end = "collapsed" if lr == 2 else "dead"
        if (lr, size, seed) == (0.1, 16, 0):
            ranks, state, end = ranks[:7], "running", "running"
        options = {"lr": lr, "batch_size": size, "seed": seed, "accuracy": 0.5 + 0.1 * seed}
        found.append(make_row(f"r{number}", ranks, state=state, end=end, **options))
    return found


def curves(found, **wishes):
    sweep = sweep_of(found)
    layout = curves_layouts(sweep.fields, sweep.points, Wishes(**wishes))[0]
    return curves_table(sweep.points, layout, Definition())


def landscape(found, epoch=None, **wishes):
    sweep = sweep_of(found)
    layout = landscape_layouts(sweep.fields, sweep.points, Wishes(**wishes))[0]
    return landscape_table(sweep.points, layout, Definition(), epoch)


def test_a_curve_is_mean_and_sample_deviation_over_finished_seeds():
    table = curves(rows())
    (_, panel) = table.panels[1]  # batch size 8
    for lr, curve in zip(LRS, panel, strict=True):
        seeds = np.array([ranks_of(lr, 8, seed) for seed in range(3)])
        np.testing.assert_allclose(curve.mean.rank, seeds.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(curve.deviation.rank, seeds.std(axis=0, ddof=1), rtol=1e-9)
        rising = 1 - 0.5 ** (np.arange(13) + 1)
        test = np.outer([0.5, 0.6, 0.7], rising)
        np.testing.assert_allclose(curve.mean.test_accuracy, test.mean(axis=0))
        np.testing.assert_allclose(curve.mean.train_accuracy, test.mean(axis=0) + 0.05)
        np.testing.assert_allclose(curve.deviation.test_accuracy, test.std(axis=0, ddof=1))
        assert (curve.seeds, curve.lone) == (3, ())


def test_a_network_that_collapsed_died_or_goes_on_is_in_no_mean():
    table = curves(rows())
    title, panel = table.panels[0]
    assert title == "batch size 4"
    some, none = panel[2], panel[3]
    assert some.seeds == 2
    assert [(lone.run_id, lone.end) for lone in some.lone] == [("r19", "dead")]
    left = np.array([ranks_of(1.0, 4, seed) for seed in (0, 2)])
    np.testing.assert_allclose(some.mean.rank, left.mean(axis=0), rtol=1e-12)
    assert (none.seeds, none.mean, len(none.lone)) == (0, None, 3)
    goes_on = table.panels[2][1][0]
    assert (goes_on.seeds, goes_on.lone[0].end) == (2, "running")
    assert len(goes_on.mean.epochs) == 13


def test_drawn_curves_bands_and_marks_are_those_of_the_table():
    table = curves(rows())
    figure = curves_figure(table)
    panels = figure.axes[0::2], figure.axes[1::2]
    for above, below, (title, found) in zip(*panels, table.panels, strict=True):
        assert above.get_title() == title
        drawn = [np.asarray(line.get_ydata(), float) for line in above.lines]
        accuracies = [np.asarray(line.get_ydata(), float) for line in below.lines]
        bands = [c for c in above.collections if isinstance(c, FillBetweenPolyCollection)]
        whole = [curve for curve in found if curve.mean is not None]
        for curve, band in zip(whole, bands, strict=True):
            assert any(np.array_equal(y, curve.mean.rank) for y in drawn)
            for values in (curve.mean.test_accuracy, curve.mean.train_accuracy):
                assert any(np.array_equal(y, 100 * values) for y in accuracies)
            low, high = (
                curve.mean.rank - curve.deviation.rank,
                curve.mean.rank + curve.deviation.rank,
            )
            edge = band.get_paths()[0].vertices[:, 1]
            assert (edge.min(), edge.max()) == pytest.approx((low.min(), high.max()))
        ends = [line for line in above.lines if line.get_linestyle() == "None"]
        lone = [one for curve in found for one in curve.lone]
        for line, one in zip(ends, lone, strict=True):
            last = np.flatnonzero(np.isfinite(one.series.rank))[-1]
            assert line.get_xydata().tolist() == [[last, one.series.rank[last]]]
            assert line.get_marker() == ("o" if one.end == "running" else "x")
        assert above.get_ylim()[0] == 0


def test_curves_at_full_rank_have_room_below_the_frame():
    above = curves_figure(curves(rows())).axes[0]
    full = max(float(np.nanmax(np.asarray(line.get_ydata(), float))) for line in above.lines)
    assert above.get_ylim()[1] > 1.02 * full


def test_curves_have_their_own_colours_and_markers():
    figure = curves_figure(curves(rows(), by="lr"))
    whole = [line for line in figure.axes[2].lines if line.get_linewidth() == 1.3]
    assert (
        len({line.get_color() for line in whole}) == len({line.get_marker() for line in whole}) == 4
    )
    top, key = figure.legends
    assert top.get_title().get_text() == "learning rate"
    assert [text.get_text() for text in top.get_texts()] == ["0.1", "0.5", "1", "2"]
    assert {text.get_text() for text in key.get_texts()} == {
        "test", "train", "full rank (16)", "collapsed or dead: no rank from there on",
        "not finished",
        "± sd over 2 to 3 seeds",
    }  # fmt: skip


def test_accuracies_that_are_missing_have_no_panel():
    bare = make_row("a")
    bare.train_accuracy[:] = bare.test_accuracy[:] = np.nan
    assert len(curves_figure(curves([bare])).axes) == 1


def random_points(count=30):
    """Log-uniform learning rates, uniform momenta; one network collapsed, one goes on."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(count):
        lr, momentum = 10 ** rng.uniform(-3, 0), rng.uniform(0, 0.95)
        ranks = np.linspace(16, 16 - 10 * lr, 5)
        end = {3: "collapsed", 5: "running"}.get(number, "finished")
        if end == "collapsed":
            ranks[2:] = np.nan
        options = {"lr": lr, "momentum": momentum, "seed": number, "accuracy": 0.5 + lr / 4}
        state = "running" if end == "running" else "finished"
        found.append(make_row(f"r{number}", ranks, state=state, end=end, **options))
    return found


def scattered():
    sweep = sweep_of(random_points())
    return scatter_table(sweep.points, sweep.fields, Definition())


def test_random_points_are_drawn_against_each_setting_and_not_as_coupled():
    found = random_points()
    sweep = sweep_of(found)
    (layout,) = layouts_of(sweep, ("curves", "landscape"), Wishes())
    assert layout.kind == "scatter"
    table = scattered()
    assert list(table.fields) == ["lr", "momentum"]
    figure = scatter_figure(table)
    left, right, bar = figure.axes
    assert (left.get_xscale(), right.get_xscale()) == ("log", "linear")
    assert bar.get_ylabel() == "test accuracy (%)"
    whole = [row for row in found if row.end == "finished"]
    drawn = sorted(map(tuple, left.collections[0].get_offsets().tolist()))
    wanted = sorted((row.config["lr"], row.ranks[-1]) for row in whole)
    np.testing.assert_allclose(drawn, wanted)
    (gone,) = [line for line in left.lines if line.get_marker() == "x"]
    assert gone.get_xdata().tolist() == [found[3].config["lr"]]
    lines = list(csv.DictReader(io.StringIO(scatter_csv(table))))
    assert {line["run"]: line["rank_mean"] for line in lines}["r3"] == ""
    assert len(lines) == 30


def test_many_values_have_a_colour_bar_and_no_legend():
    figure = curves_figure(curves(random_points(), by="lr"))
    assert [legend.get_title().get_text() for legend in figure.legends] == [""]  # marks and lines
    bar = figure.axes[-1]
    assert (bar.get_ylabel(), bar.get_yscale()) == ("learning rate", "log")


def test_noise_is_no_contrast_and_accuracy_and_deviation_stand_beside_the_ranks():
    rng = np.random.default_rng(0)
    noisy = [
        make_row(f"{lr}{w}{s}", [16.0, 16 - 0.4 * rng.random()], lr=lr, weight_decay=w, seed=s)
        for lr, w, s in product((0.1, 0.2, 0.4), (0, 1e-3), range(3))
    ]
    table = landscape(noisy)
    ranks, accuracies, bar, _ = landscape_figure(table).axes
    colours = next(c for c in ranks.collections if isinstance(c, QuadMesh))
    low, high = colours.get_clim()
    drawn = np.asarray(colours.get_array())
    assert np.ptp(drawn) < 0.15 * (high - low)
    assert bar.get_ylabel() == "average rank (ε = 0.001)"
    (cells,) = table.panels
    found = {text.get_text() for text in ranks.texts}
    assert f"±{cells.deviation[0, 0]:.2g}" in found
    mesh = next(c for c in accuracies.collections if isinstance(c, QuadMesh))
    np.testing.assert_allclose(np.asarray(mesh.get_array()), 100 * cells.accuracy)


def test_any_metric_takes_the_place_of_the_rank():
    definition = replace(Definition(), metric="my_metric")
    row = make_row("a")
    row.train_accuracy[:] = row.test_accuracy[:] = np.nan
    sweep = sweep_of([row])
    (layout,) = curves_layouts(sweep.fields, sweep.points, Wishes())
    table = curves_table(sweep.points, layout, definition)
    (axes,) = curves_figure(table).axes
    assert axes.get_ylabel() == "my metric"
    head = curves_csv(table).splitlines()[0].split(",")
    assert "my_metric" in head
    assert len(head) == len(set(head))


def test_cells_are_means_at_the_last_epoch():
    table = landscape(rows())
    (cells,) = table.panels
    assert (table.x, table.y) == ("learning rate", "batch size")
    assert table.x_labels == ["0.1", "0.5", "1", "2"]
    for (y, size), (x, lr) in product(enumerate(SIZES), enumerate(LRS)):
        seeds = [s for s in range(3) if not (size == 4 and (lr == 2 or (lr == 1 and s == 1)))]
        seeds = [s for s in seeds if (lr, size, s) != (0.1, 16, 0)]
        last = [ranks_of(lr, size, seed)[-1] for seed in seeds]
        assert cells.seeds[y, x] == len(last)
        assert cells.collapsed[y, x] == (3 if (lr, size) == (2, 4) else int((lr, size) == (1, 4)))
        assert cells.unfinished[y, x] == int((lr, size) == (0.1, 16))
        if last:
            assert cells.rank[y, x] == pytest.approx(np.mean(last))
            assert cells.deviation[y, x] == pytest.approx(np.std(last, ddof=1))
        else:
            assert np.isnan([cells.rank[y, x], cells.deviation[y, x]]).all()


def test_cells_at_an_earlier_epoch_count_the_networks_that_had_a_rank_then():
    (cells,) = landscape(rows(), epoch=5).panels
    assert cells.seeds[0, 3] == 2  # the first of three had collapsed
    assert cells.collapsed[0, 3] == 1
    assert cells.rank[0, 3] == pytest.approx(np.mean([ranks_of(2, 4, s)[5] for s in (1, 2)]))
    assert cells.seeds[2, 0] == 3  # the running one was there already


def test_drawn_cells_numbers_and_hatches_are_those_of_the_table():
    table = landscape(rows())
    (cells,) = table.panels
    figure = landscape_figure(table)
    axes, _, bar, _ = figure.axes
    (mesh,) = [c for c in axes.collections if isinstance(c, QuadMesh)]
    drawn = np.ma.filled(np.ma.asarray(mesh.get_array(), float), np.nan)
    np.testing.assert_array_equal(drawn, cells.rank)
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    texts = {place: text for place, text in texts.items() if not text.startswith("±")}
    assert texts == {
        (x + 0.5, y + 0.5): f"{cells.rank[y, x]:.1f}"
        for y, x in np.argwhere(np.isfinite(cells.rank))
    }
    (hatched,) = [p for p in axes.patches if isinstance(p, Rectangle) and p.get_hatch()]
    assert hatched.get_xy() == (3, 0)
    crosses = [tuple(line.get_xydata()[0]) for line in axes.lines if line.get_marker() == "x"]
    assert sorted(crosses) == [(2.85, 0.82), (3.5, 0.5)]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["4", "8", "16"]
    assert bar.get_ylabel() == "average rank (ε = 0.001)"


def test_a_cell_of_unfinished_runs_and_one_without_runs_are_white():
    found = [r for r in rows(1) if r.config["lr"] < 2 and r.id != "r4"]
    axes, *_ = landscape_figure(landscape(found)).axes
    circles = [line for line in axes.lines if line.get_marker() == "o"]
    assert [line.get_xydata().tolist() for line in circles] == [[[0.5, 2.5]]]
    key = [text.get_text() for text in axes.figure.legends[0].get_texts()]
    assert key == ["not finished", "no run"]


def test_contours_go_through_the_points_and_need_two_values():
    found = rows(1)
    axes, *_ = landscape_figure(landscape(found), contours=True).axes
    (dots,) = [line for line in axes.lines if line.get_marker() == "."]
    (cells,) = landscape(found).panels
    assert len(dots.get_xydata()) == np.isfinite(cells.rank).sum()
    assert not any(isinstance(c, QuadMesh) for c in axes.collections)
    flat = replace(landscape(found), y_labels=["4"])
    with pytest.raises(InputError, match="two values or more of each"):
        landscape_figure(flat, contours=True)


def test_csv_holds_what_is_drawn():
    table = curves(rows())
    lines = list(csv.DictReader(io.StringIO(curves_csv(table))))
    at = [
        line for line in lines if line["panel"] == "batch size 8" and line["learning rate"] == "1"
    ]
    curve = table.panels[1][1][2]
    for name, values in (("rank_mean", curve.mean.rank), ("rank_mean_std", curve.deviation.rank),
                         ("test_accuracy", curve.mean.test_accuracy)):  # fmt: skip
        assert [float(line[name]) for line in at] == values.tolist()
    assert [line["epoch"] for line in at] == [str(epoch) for epoch in range(13)]
    lone = [line for line in lines if line["run"] == "r19"]
    assert {line["end"] for line in lone} == {"dead"}
    assert [line["rank_mean"] for line in lone][6:] == [""] * 7

    (cells,) = landscape(rows()).panels
    found = list(csv.DictReader(io.StringIO(landscape_csv(landscape(rows())))))
    assert len(found) == 12
    for line, (y, x) in zip(found, np.ndindex(3, 4), strict=True):
        rank = cells.rank[y, x]
        assert line["rank_mean"] == ("" if np.isnan(rank) else repr(float(rank)))
        assert line["seeds"] == str(int(cells.seeds[y, x]))
        assert line["collapsed_or_dead"] == str(int(cells.collapsed[y, x]))


def eight_long_values():
    values = (1e-05, 0.00025, 0.0005, 0.001, 0.0125, 0.1, 0.5, 1.0)
    return [make_row(f"r{v}", 16 - np.arange(500) / 60, weight_decay=v) for v in values]


def pairs():
    coupled = ((0.001, 6e-3), (0.005, 6e-3), (0.01, 4e-4))
    return [
        make_row(f"{lr}{b}", lr=lr, weight_decay=w, batch_size=b)
        for (lr, w), b in product(coupled, (4, 8, 16, 32, 64, 128))
    ]


def three_settings():
    return [
        make_row(f"{lr}{w}{b}", lr=lr, weight_decay=w, batch_size=b)
        for lr, w, b in product((0.1, 0.2, 0.4), (0, 1e-3, 2e-3), (4, 8))
    ]


FIGURES = {
    "3 settings": lambda: curves_figure(curves(three_settings(), by="lr")),
    "landscape of 3": lambda: landscape_figure(landscape(three_settings(), y="lr")),
    "one run": lambda: curves_figure(curves([make_row("a")])),
    "one epoch": lambda: curves_figure(curves([make_row("a", [16.0])])),
    "2 values": lambda: curves_figure(curves([make_row("a"), make_row("b", lr=0.2)])),
    "8 values 500 epochs": lambda: curves_figure(curves(eight_long_values())),
    "3 panels": lambda: curves_figure(curves(rows())),
    "4 panels": lambda: curves_figure(curves(rows(), by="batch_size")),
    "long titles": lambda: curves_figure(curves(pairs(), by="batch_size")),
    "6 panels": lambda: curves_figure(curves(pairs(), by="lr")),
    "all collapsed": lambda: curves_figure(
        curves([make_row("a", [16.0, np.nan, np.nan], end="collapsed")])
    ),
    "landscape": lambda: landscape_figure(landscape(rows())),
    "contours": lambda: landscape_figure(landscape(rows()), contours=True),
    "landscape of pairs": lambda: landscape_figure(landscape(pairs(), x="lr")),
    "random points": lambda: scatter_figure(scattered()),
    "random curves": lambda: curves_figure(curves(random_points(), by="lr")),
    "wide labels": lambda: landscape_figure(landscape(pairs(), x="batch_size")),
}


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_overlaps_or_leaves_the_picture(monkeypatch, name):
    figure = FIGURES[name]()
    canvas = FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    texts = drawn_texts(monkeypatch, canvas.draw)
    if name == "contours":  # its labels are turned, and their boxes are not
        texts = [text for text in texts if text.get_rotation() in (0.0, 90.0)]
    assert_legible(texts, canvas)
    for legend in figure.legends:
        box = legend.get_window_extent()
        assert not any(box.overlaps(axes.get_window_extent()) for axes in figure.axes)


@pytest.mark.parametrize(
    ("configs", "name"),
    [
        ([{}, {}], "setting run"),
        ([{"end": 1, "seed": 0}, {"end": 2, "seed": 0}], "setting end"),
        ([{"seed": 0}, {"seed": 1}], "run"),
    ],
    ids=["by run", "by a setting named as a column", "by nothing"],
)
def test_no_column_of_a_csv_file_is_there_twice(configs, name):
    found = [replace(make_row(f"r{n}"), config=config) for n, config in enumerate(configs)]
    head = next(csv.reader(io.StringIO(curves_csv(curves(found)))))
    assert len(set(head)) == len(head)
    assert head[1] == name


def test_a_setting_named_as_another_column_of_points_is_said_to_be_one():
    table = replace(scattered(), fields=["end", "lr"])
    head = next(csv.reader(io.StringIO(scatter_csv(table))))
    assert head[:4] == ["run", "setting end", "lr", "end"]
