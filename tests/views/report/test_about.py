"""The head of the page: what runs have in common, against what their records were given.

Run with ``pytest tests/views/report/test_about.py``.
"""

from __future__ import annotations

from lowrank import load_run
from lowrank.views.report.about import about
from lowrank.views.table.rows import Definition, read_rows
from tests.views.report.records import ENVIRONMENT, write


def head(paths):
    runs = [load_run(path) for path in paths]
    rows, _ = read_rows(runs, Definition())
    found = about(runs, rows)
    return found["name"], dict(found["facts"])


def test_what_varies_makes_a_question_where_no_sweep_file_has_one(tmp_path):
    varied = {
        "a": {}, "b": {"lr": 0.2}, "c": {"batch_size": 8}, "d": {"seed": 1},
        "e": {"momentum": 0.5}, "f": {"width": 7}, "g": {"epochs": 2},
    }  # fmt: skip
    of = {n: write(tmp_path / n, sizes=(4,), **{"epochs": 1, **v}) for n, v in varied.items()}

    def question(names):
        runs = [load_run(of[name]) for name in names]
        return about(runs, read_rows(runs, Definition())[0])["question"]

    assert question("ab") == "How do ranks depend on learning rate?"
    assert question("abcd") == "How do ranks depend on learning rate and batch size?"
    assert question("ad") == "How far do ranks differ between seeds?"
    assert question("a") == ""
    assert question("abcefg").endswith("and 2 further settings?")


def test_shared_settings_that_have_an_effect_are_named_with_sweep_and_commits(tmp_path):
    changed = {"commit": "b" * 40, "diff": "+ a line", "sweep": "me/mine/abc"}
    paths = [
        write(tmp_path / "a", sizes=(4,), epochs=1, model="mlp", sweep="mine", lr=0.1),
        write(tmp_path / "b", sizes=(4,), epochs=1, model="mlp", sweep="mine", lr=0.2,
              environment={**ENVIRONMENT, **changed}),
    ]  # fmt: skip
    name, facts = head(paths)
    assert name == "mine"
    assert facts["Model"] == "mlp, depth 5, width 100, activation relu, BatchNorm"
    assert facts["Data"] == "digits"
    assert "momentum 0, weight decay 0.0005, batch size 16, epochs 1," in facts["Fixed"]
    assert not any(word in facts["Fixed"] for word in ("learning rate", "gamma", "seed"))
    assert facts["Commit"] == "c0ffeec0ff, bbbbbbbbbb with uncommitted changes"


def test_other_models_and_loops_have_what_they_share(tmp_path):
    nets = [write(tmp_path / m, sizes=(4,), epochs=1, model=m) for m in ("mlp", "vgg11")]
    name, facts = head(nets)
    assert name == ""
    assert "vit" not in facts["Model"]
    assert facts["Model"].startswith("depth 5")  # which one of them reads
    own = [
        write(tmp_path / f"own{n}", sizes=(4,), epochs=1, changed={"tempo": 3, "model": None})
        for n in range(2)
    ]
    assert "tempo 3" in head(own)[1]["Fixed"]
