"""Which figures a sweep asks for: stars, grids, coupled settings and wishes.

The sweeps are those of the paper's experiments, by the values of their settings.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from lowrank.common.errors import InputError
from lowrank.config.sweepfile import load_sweep_file
from lowrank.views.figures.layout import Wishes, curves_layouts, landscape_layouts
from lowrank.views.table.points import Plan, Point, sweep_of

B6 = (4, 8, 16, 32, 64, 128)
W6 = (0, 1e-4, 2e-4, 4e-4, 8e-4, 6e-3)
M5 = (0.001, 0.01, 0.1, 0.5, 1)


def points(cells):
    return [Point(tuple(cell)) for cell in cells]


def stems(fields, cells, **wishes):
    there = points(cells)
    layouts = curves_layouts(fields, there, Wishes(**wishes))
    return [layout.stem for layout in layouts]


def landscapes(fields, cells, **wishes):
    return [layout.stem for layout in landscape_layouts(fields, points(cells), Wishes(**wishes))]


def smoke_cifar10():
    star = [(0.2, w, 16) for w in (0, 1e-3, 2e-3, 4e-3, 8e-3)]
    star += [(lr, 4e-3, 16) for lr in (0.05, 0.1, 0.4)]
    return star + [(0.2, 4e-3, b) for b in (8, 32, 64)]


STAR_FIELDS = ("lr", "weight_decay", "batch_size")


def test_a_star_gives_one_figure_along_each_arm():
    there = points(smoke_cifar10())
    layouts = curves_layouts(STAR_FIELDS, there, Wishes())
    assert [layout.stem for layout in layouts] == [
        "curves-lr", "curves-weight_decay", "curves-batch_size",
    ]  # fmt: skip
    lr, decay, size = layouts
    assert lr.title == "weight decay 0.004, batch size 16"
    assert decay.title == "learning rate 0.2, batch size 16"
    assert size.title == "learning rate 0.2, weight decay 0.004"
    ((_, along),) = decay.panels(there)
    assert sorted(p.values[1] for p in along) == [0, 1e-3, 2e-3, 4e-3, 8e-3]
    assert {(p.values[0], p.values[2]) for p in along} == {(0.2, 16)}
    assert stems(STAR_FIELDS, smoke_cifar10(), by="batch_size") == ["curves-batch_size"]


def test_a_star_has_landscapes_only_on_request():
    assert landscapes(STAR_FIELDS, smoke_cifar10()) == []
    (layout,) = landscape_layouts(
        STAR_FIELDS, points(smoke_cifar10()), Wishes(x="lr", y="weight_decay")
    )
    assert layout.title == "batch size 16"


def test_a_grid_gives_small_multiples_both_ways_and_a_landscape():
    fields, cells = ("lr", "batch_size"), list(product((0.1, 0.5, 1, 2), (4, 8, 16)))
    by_lr, by_size = curves_layouts(fields, points(cells), Wishes())
    assert (by_lr.across.fields, by_lr.by_panel.fields) == (("lr",), ("batch_size",))
    assert (by_size.across.fields, by_size.by_panel.fields) == (("batch_size",), ("lr",))
    titles = [title for title, _ in by_lr.panels(points(cells))]
    assert titles == ["batch size 4", "batch size 8", "batch size 16"]
    assert landscapes(fields, cells) == ["landscape-lr-batch_size"]
    assert landscapes(fields, cells, x="batch_size") == ["landscape-batch_size-lr"]
    assert landscapes(fields, cells, y="lr") == ["landscape-batch_size-lr"]


def test_coupled_settings_are_one():
    pairs = [(0.001, 6e-3), (0.005, 6e-3), (0.01, 4e-4)]
    cells = [(*pair, size) for pair in pairs for size in B6]
    assert stems(STAR_FIELDS, cells) == ["curves-lr+weight_decay", "curves-batch_size"]
    (_, by_size) = curves_layouts(STAR_FIELDS, points(cells), Wishes())
    titles = [title for title, _ in by_size.panels(points(cells))]
    assert titles[0] == "learning rate 0.001, weight decay 0.006"
    assert stems(STAR_FIELDS, cells, by="weight_decay") == ["curves-lr+weight_decay"]
    with pytest.raises(InputError, match="change together"):
        landscapes(STAR_FIELDS, cells, x="lr", y="weight_decay")


def test_three_settings_give_panels_for_the_smallest_and_figures_for_the_rest():
    cells = list(product(M5, B6, W6))
    fields = ("lr", "batch_size", "weight_decay")
    assert stems(fields, cells, by="weight_decay") == [
        f"curves-weight_decay-batch_size={b}" for b in B6
    ]
    assert stems(fields, cells, by="weight_decay", columns="batch_size") == [
        f"curves-weight_decay-lr={lr:g}" for lr in M5
    ]
    assert len(stems(fields, cells)) == 18
    assert landscapes(fields, cells) == [
        "landscape-lr-batch_size", "landscape-lr-weight_decay", "landscape-batch_size-weight_decay",
    ]  # fmt: skip


@pytest.mark.parametrize("letter", ["a", "ü"])
def test_a_file_name_is_as_long_as_file_systems_take_and_still_its_own(letter):
    fields = tuple(f"{letter * 30}{number}" for number in range(9))
    stems = set()
    for last in ("x", "y"):
        named = (*fields[:-1], f"{fields[-1]}{last}")
        cells = [tuple(range(place, place + 9)) for place in range(3)]
        (layout,) = curves_layouts(named, points(cells), Wishes())
        assert len(layout.stem.encode()) == 200 or letter == "ü"
        assert len(f".{layout.stem}.pdf.{'0' * 32}.new".encode()) <= 255
        assert layout.stem.startswith(f"curves-{fields[0]}+{fields[1]}+")
        assert layout.name == f"curves-{'+'.join(named)}"
        stems.add(layout.stem)
    assert len(stems) == 2


def test_a_few_points_of_no_shape_are_curves_of_one_panel():
    constant_bound = [(0.05, 5e-4, 4), (0.05, 1e-3, 8), (0.1, 2.5e-4, 4), (0.1, 5e-4, 8)]
    constant_bound += [(0.1, 1e-3, 16), (0.2, 2.5e-4, 8), (0.2, 5e-4, 16)]
    (layout,) = curves_layouts(STAR_FIELDS, points(constant_bound), Wishes())
    assert layout.across.labels[0] == "0.05, 0.0005, 4"
    assert len(layout.across.levels) == 7
    assert landscapes(STAR_FIELDS, constant_bound) == []


def test_one_run_or_replicates_only_give_one_curve():
    assert stems((), [()]) == ["curves"]
    assert landscapes((), [()]) == []


def test_many_points_of_no_shape_are_refused_with_a_way_out():
    scattered = [(n, n * n % 37, n**3 % 41) for n in range(1, 30)] + [(1, 5, 1)]
    with pytest.raises(InputError, match="neither a grid nor a star: choose with --by and --where"):
        stems(STAR_FIELDS, scattered)


def test_too_many_figures_are_refused():
    cells = list(product(range(6), range(6), range(6), range(6)))
    with pytest.raises(InputError, match=r"this would be \d+ figures of up to 6 panels; allowed"):
        stems(("lr", "momentum", "weight_decay", "batch_size"), cells)


@pytest.mark.parametrize("flag", ["by", "columns", "x", "y"])
def test_a_setting_that_does_not_vary_is_refused_with_the_nearest(flag):
    cells = list(product((1, 2), (3, 4)))
    chosen = curves_layouts if flag in ("by", "columns") else landscape_layouts
    with pytest.raises(InputError) as caught:
        chosen(("lr", "batch_size"), points(cells), Wishes(**{flag: "batchsize"}))
    assert caught.value.lines == [
        f"{flag}: batchsize does not vary over these runs; allowed: lr or batch_size, "
        "did you mean 'batch_size'?"
    ]


def test_names_of_files_hold_no_slashes():
    cells = list(product(("a/b", "c"), (1, 2), (3, 4)))
    for name in stems(("data_dir", "lr", "batch_size"), cells):
        assert "/" not in name


SWEEPS = sorted((Path(__file__).parents[3] / "sweeps").glob("*.yaml"))
FIGURES_OF = {
    "fig01a": ["curves-lr", "curves-weight_decay", "landscape-lr-weight_decay"],
    "fig02": ["curves-lr", "curves-batch_size", "landscape-lr-batch_size"],
    "fig03": ["curves-weight_decay", "curves-batch_size", "landscape-weight_decay-batch_size"],
    "fig04": [
        "curves-lr+weight_decay",
        "curves-batch_size",
        "landscape-lr+weight_decay-batch_size",
    ],
    "fig07": [
        "curves-lr+weight_decay",
        "curves-batch_size",
        "landscape-lr+weight_decay-batch_size",
    ],
    "fig07_momentum": [
        "curves-weight_decay",
        "curves-batch_size",
        "landscape-weight_decay-batch_size",
    ],
    "mlp_bn_constant_bound": ["curves-lr+weight_decay+batch_size"],
    "smoke_cifar10": ["curves-lr", "curves-weight_decay", "curves-batch_size"],
    "vgg16_dropout": ["curves-batch_size"],
}


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_sweep_file_of_the_paper_has_figures_by_default(path):
    file = load_sweep_file(path)
    plan = Plan.of([config.recorded() for config in file.configs()], file.swept)
    sweep = sweep_of([], plan)
    layouts = curves_layouts(sweep.fields, sweep.points, Wishes())
    layouts += landscape_layouts(sweep.fields, sweep.points, Wishes())
    found = [layout.stem for layout in layouts]
    assert len(set(found)) == len(found) > 0
    if path.stem in FIGURES_OF:
        assert found == FIGURES_OF[path.stem]
