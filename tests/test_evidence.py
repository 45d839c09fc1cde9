"""The README's evidence, against the numbers of the runs that stand beside its figures.

The trends are computed here anew, with numpy. Run with ``pytest tests/test_evidence.py``.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import re
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

import lowrank
from lowrank.views.published.figures import published

ROOT = Path(__file__).resolve().parent.parent
CSV = ROOT / "docs" / "evidence" / "runs.csv"
GRID = ROOT / "docs" / "evidence" / "landscape.csv"
README = (ROOT / "README.md").read_text(encoding="utf-8")


def read(evidence, text):
    """The results that a file of them holds."""
    readers = {"batch_size": int, "seed": int, "state": str}
    return [
        evidence.Result(**{name: readers.get(name, float)(value) for name, value in row.items()})
        for row in csv.DictReader(text.splitlines())
    ]


def script(name):
    """Loads a script as a module for as long as tests use it."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look their annotations up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[name]


@pytest.fixture(scope="module")
def evidence():
    yield from script("evidence")


@pytest.fixture(scope="module")
def compression(evidence):
    del evidence  # which the script imports
    yield from script("compression")


@pytest.fixture(scope="module")
def optimizers(evidence):
    del evidence  # which the script imports
    yield from script("optimizers")


def ranks(field):
    """Returns value → final ranks of an arm of the star, from the file alone."""
    table = np.genfromtxt(CSV, delimiter=",", names=True, dtype=None, encoding="utf-8")
    others = {"weight_decay": 4e-3, "lr": 0.2, "batch_size": 16}
    del others[field]
    on_arm = np.all([table[name] == value for name, value in others.items()], axis=0)
    return {
        value: table["rank_last"][on_arm & (table[field] == value)]
        for value in np.unique(table[field][on_arm])
    }


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("weight_decay", [0.0, 1e-3, 2e-3, 4e-3, 8e-3]),
        ("lr", [0.05, 0.1, 0.2, 0.4]),
        ("batch_size", [64, 32, 16, 8]),
    ],
)
def test_the_mean_rank_falls_along_every_arm(field, values):
    found = ranks(field)
    assert sorted(found) == sorted(values)
    assert all(len(of_value) >= 3 for of_value in found.values())
    means = [found[value].mean() for value in values]
    assert all(np.diff(means) < 0), means
    assert found[values[-1]].max() < found[values[0]].min()


def test_the_rank_falls_with_weight_decay_at_every_learning_rate_of_the_landscape():
    table = np.genfromtxt(GRID, delimiter=",", names=True, dtype=None, encoding="utf-8")
    for rate in (0.05, 0.1, 0.2, 0.4, 0.8):
        column = np.sort(table[table["lr"] == rate], order="weight_decay")
        assert column["weight_decay"].tolist() == [5e-4, 1e-3, 2e-3, 4e-3, 8e-3]
        known = column["rank_last"][np.isfinite(column["rank_last"])]
        assert len(known) >= 4
        assert (np.diff(known) <= 0).all()
        assert known[-1] < known[0]


def test_the_readme_shows_the_landscape_of_these_runs(evidence):
    results = read(evidence, GRID.read_text(encoding="utf-8"))
    assert len(results) == 25
    assert evidence.landscape_section(results) in README


def test_the_readme_says_how_many_parameters_these_networks_need(compression):
    file = ROOT / "docs" / "evidence" / "compression.csv"
    table = np.genfromtxt(file, delimiter=",", names=True)
    results = [
        compression.Result(decay, energy, int(parameters), int(flops), accuracy)
        for decay, energy, parameters, flops, accuracy in table.tolist()
    ]
    assert compression.section(results) in README
    of_decay, of_none = (np.sort(table[table["weight_decay"] == wd]) for wd in (0.02, 0.0))
    kept = of_decay["energy"] >= 0.9
    assert (of_decay["parameters"][kept][:-1] < of_none["parameters"][kept][:-1]).all()
    for own in (of_decay, of_none):
        assert (own["accuracy"][kept] >= own["accuracy"][-1] - 0.01).all()
        bad = np.flatnonzero(own["accuracy"] < own["accuracy"][-1] - compression.LOSS)
        assert f"{int(own['parameters'][bad[-1] + 1]):,} with" in README


def test_the_page_of_optimisers_has_the_numbers_of_its_runs(optimizers):
    text = (ROOT / "docs" / "evidence" / "optimizers.csv").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "optimizers.md").read_text(encoding="utf-8")
    results = optimizers.from_csv(text)
    assert optimizers.section(results, "").rstrip() in page
    table = np.genfromtxt(
        io.StringIO(text), delimiter=",", names=True, dtype=None, encoding="utf-8"
    )
    counts = {}
    for name in np.unique(table["optimizer"]):
        own = table[table["optimizer"] == name]
        decays = np.unique(own["weight_decay"])
        counts[str(name)] = [int((own["weight_decay"] == decay).sum()) for decay in decays]
        means = [own["rank_mean"][own["weight_decay"] == decay].mean() for decay in decays]
        assert means[-1] < min(means[:-1]) - 5, "with the most decay the lowest rank"
        if name != "muon":  # of which a mild decay changes nothing
            assert (np.diff(means) < 0).all(), "the more decay, the lower the rank"
        for decay, mean in zip(decays, means, strict=True):
            assert f"| {name} | {own['lr'][0]:g} | {decay:g} | " in page
            assert f"| {mean:.1f} ± " in page
    assert counts == {name: [3, 3, 3] for name in ("adam", "adamw", "muon", "sgd")}
    assert optimizers.as_csv(results) == text


def test_without_weight_decay_the_rank_stays():
    assert (ranks("weight_decay")[0.0] >= 98).all()  # of 100


def test_the_readme_has_the_table_of_these_runs(evidence):
    results = read(evidence, CSV.read_text(encoding="utf-8"))
    assert len(results) == 33
    assert evidence.table(results) in README
    assert all(evidence.verdict(results, field) in README for field in evidence.NAMES)
    for picture in re.findall(r'src="(docs/evidence/[^"]+)"', README):
        assert (ROOT / picture).read_bytes().startswith(b"\x89PNG")


def test_results_are_read_back_exactly(evidence):
    text = CSV.read_text(encoding="utf-8")
    assert evidence.to_csv([asdict(result) for result in read(evidence, text)]) == text


def test_a_rank_that_does_not_fall_is_told(evidence):
    def results(*ends):
        return [
            evidence.Result(wd, 0.2, 16, 0, "finished", 1.0, 100.0, 99.0, rank, 1.0, 1.0)
            for wd, rank in zip((0.0, 1e-3, 4e-3), ends, strict=True)
        ]

    falls, rises = results(99.0, 98.0, 60.0), results(98.0, 99.0, 60.0)
    assert evidence.verdict(falls, "weight_decay") == (
        "With a stronger weight decay it falls at every step, from 99.0 to 60.0."
    )
    assert evidence.verdict(rises, "weight_decay") == (
        "With a stronger weight decay it does not fall from 0 to 0.001."
    )
    collapsed = results(98.0, 97.0, np.nan)
    assert "does not fall from 0.001 to 0.004" in evidence.verdict(collapsed, "weight_decay")


def test_the_readmes_constants_are_ours():
    (block,) = re.findall(r"<!-- written by make evidence: constants -->(.*?)<!-- end -->", README,
                          flags=re.DOTALL)  # fmt: skip
    rows = [line.strip("| ").split(" | ") for line in block.splitlines() if "---" not in line]
    numbers = [[float(cell) for cell in row[-2:]] for row in rows if row[-1][-1:].isdigit()]
    assert len(numbers) >= 20 + 2 + 9
    for expected, ours in numbers:
        assert abs(expected - ours) <= (2.05 if expected >= 1 else 0.01)
    held = re.findall(r"(\d+) of (\d+) are within", block)
    assert held == [(all_, all_) for _, all_ in held]


def test_the_readmes_published_figure_is_that_of_its_runs():
    (block,) = re.findall(r"<!-- written by make evidence: figure -->(.*?)<!-- end -->", README,
                          flags=re.DOTALL)  # fmt: skip
    rows = list(csv.DictReader((ROOT / "docs/evidence/fig07_b128.csv").open(encoding="utf-8")))
    of_paper = {
        (point.x, series): value
        for point in published() if (point.figure, point.panel) == ("7", "B 128")
        for series, value in point.values.items()
    }  # fmt: skip
    shown = [line.strip("| ").split(" | ") for line in block.splitlines() if line[:1] == "|"][2:]
    assert len(shown) == len(rows) > 0
    for row, cells in zip(rows, shown, strict=True):
        theirs, ours = float(row["published"]), float(row["ours"])
        assert theirs == of_paper[float(row["x"]), row["series"]]
        scale, limit = (100, 0.02) if row["series"].endswith("accuracy") else (1, 5)
        assert cells[-2] == f"{scale * (ours - theirs):+.1f}"
        assert cells[-1] == ("yes" if abs(ours - theirs) <= limit else "no")


def test_a_readme_without_the_place_is_told(evidence):
    page = "a\n<!-- written by make evidence: constants -->\nold\n<!-- end -->\nb\n"
    assert evidence.written(page, "constants", "new\\1").splitlines()[2] == "new\\1"
    with pytest.raises(evidence.InputError, match="no place for the evidence"):
        evidence.written(page, "", "new")


@pytest.mark.slow
def test_one_command_makes_it_anew(evidence, tmp_path):
    (tmp_path / "sweeps").symlink_to(ROOT / "sweeps")
    (tmp_path / "train.py").symlink_to(ROOT / "train.py")
    (tmp_path / "README.md").write_text(
        "before\n<!-- written by make evidence -->\nold\n<!-- end -->\n"
        "<!-- written by make evidence: landscape -->\nold\n<!-- end -->\n"
        "<!-- written by make evidence: constants -->\nold\n<!-- end -->\n"
        "<!-- written by make evidence: figure -->\nold\n<!-- end -->\nafter\n",
        encoding="utf-8",
    )
    tiny = "--dataset=synthetic --train_size=60 --epochs=2 --milestones=[] --depth=1 --width=8"
    assert evidence.main([*tiny.split(), "--image_size=8"], tmp_path, wide=False) == 0
    readme = (tmp_path / "README.md").read_text(encoding="utf-8")
    docs = tmp_path / "docs" / "evidence"
    results = read(evidence, (docs / "runs.csv").read_text(encoding="utf-8"))
    assert readme.startswith("before\n")
    assert "\nold\n" not in readme
    assert readme.count("| ratio of norms |") == 2 + 9
    assert readme.endswith("<!-- end -->\nafter\n")
    assert evidence.table(results) in readme
    assert len(re.findall(r"<img ", readme)) == 3 + 1
    for picture in re.findall(r'src="(docs/evidence/[^"]+)"', readme):
        assert (tmp_path / picture).is_file()
    runs = {
        (r.config["weight_decay"], r.config["lr"], r.config["batch_size"], r.config["seed"]): r
        for r in lowrank.load_sweep(tmp_path / "runs" / "evidence")
    }
    assert len(runs) == len(results) == 33
    for result in results:
        run = runs[result.weight_decay, result.lr, result.batch_size, result.seed]
        assert result.rank_last == run.metrics["rank_mean"][-1]
        assert result.test_accuracy == run.metrics["test_accuracy"][-1]
