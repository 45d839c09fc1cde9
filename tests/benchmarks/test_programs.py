"""What the benchmark programs refuse, and how their wrappers and their table do.

That every program runs, `make bench-quick` shows; whether one measures well, only a quiet machine.
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import epoch_cost, images, memory, plain, spectra
from benchmarks.__main__ import CUT_OFF, HERE, PROGRAMS, choose, fill_in, main, run_program
from benchmarks.program import Options, run
from benchmarks.table import load
from benchmarks.timing import Row, Spread
from lowrank.common.errors import Failure, InputError
from lowrank.measure import spectra as spectra_of_measure
from lowrank.measure.matrices import weight_matrices

README = (HERE / "README.md").read_text(encoding="utf-8")
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")


def a_row(ours, target):
    return Row("a", "b", "s", Spread(ours, 0.0, 1), Spread(1.0, 0.0, 1), "share", target)


def test_programs_and_readme_name_each_other():
    files = {path.stem for path in HERE.glob("*.py")}
    assert set(PROGRAMS["cpu"]) <= files
    assert set(PROGRAMS["cuda"]) <= set(PROGRAMS["cpu"])
    assert all(f"- **{name}**: " in README for name in PROGRAMS["cpu"])


def test_programs_are_chosen_by_name_in_the_tables_order():
    assert choose(None, "cuda") == list(PROGRAMS["cuda"])
    assert choose("memory,images", "cpu") == ["images", "memory"]


def test_an_unknown_program_is_refused_with_the_nearest(capsys):
    with pytest.raises(InputError, match="did you mean 'images'"):
        choose("image", "cpu")
    assert main(["--only=image"]) == 2
    assert "only='image' is not known" in capsys.readouterr().err


def test_quick_runs_all_shows_what_fails_and_writes_nothing(monkeypatch, capsys):
    def run_program(name, flags, output):
        assert flags == ["--device=cpu", "--quick"]
        output.write(f"output of {name}")
        return ([], 3) if name == "memory" else ([a_row(1.0, 2.0)], 0)

    monkeypatch.setattr("benchmarks.__main__.run_program", run_program)
    before = (HERE / "results.json").read_bytes()
    assert main(["--quick", "--only=images,packs"]) == 0
    assert "output of" not in capsys.readouterr().out
    assert main(["--quick"]) == 1
    printed = capsys.readouterr().out
    assert printed.count("1 rows in") == len(PROGRAMS["cpu"]) - 1
    assert "output of memory\nmemory: failed with exit code 3" in printed
    assert (HERE / "results.json").read_bytes() == before


def in_table(tmp_path, monkeypatch, found):
    """Lets the programs of a table in a folder find this, and returns how to fill it in."""
    (tmp_path / "README.md").write_text("<!-- written by make bench -->\n<!-- end -->\n")
    monkeypatch.setattr("benchmarks.__main__.HERE", tmp_path)
    monkeypatch.setattr("benchmarks.__main__.run_program", lambda name, *_, **__: found[name])
    return lambda: fill_in(tuple(found), "cuda", ["--device=cuda", "--brief"], 60)


def test_a_program_that_is_cut_off_keeps_its_rows_unless_there_were_more(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("benchmarks.__main__.describe_place", lambda _: "a card")
    rows = [replace(a_row(1.0, 2.0), what=what) for what in ("one", "two")]
    found = {"packs": (rows, 0), "images": (rows[:1], CUT_OFF), "spectra": ([], 3)}
    fill = in_table(tmp_path, monkeypatch, found)
    assert fill() == 1
    told = capsys.readouterr().err
    assert "images had no more time, after 1 rows" in told
    assert "spectra failed with exit code 3, after 0 rows" in told
    stored = load(tmp_path / "results.json")["cuda"]
    assert {name: [row.what for row in of.rows] for name, of in stored.items()} == {
        "images": ["one"],
        "packs": ["one", "two"],
    }
    assert "| one | b |" in (tmp_path / "README.md").read_text()

    found |= {"packs": (rows[1:], CUT_OFF), "images": (rows, 0)}
    assert fill() == 1
    stored = load(tmp_path / "results.json")["cuda"]
    assert [len(stored[name].rows) for name in ("packs", "images")] == [2, 2]

    found["packs"] = ([a_row(3.0, 2.0)], CUT_OFF)  # also where a target is missed
    assert fill() == 1
    assert "packs had no more time, after 1 rows" in capsys.readouterr().err
    assert len(load(tmp_path / "results.json")["cuda"]["packs"].rows) == 2


def test_a_program_writes_each_row_as_it_is_measured(tmp_path):
    file = tmp_path / "rows.json"

    def measure(options):
        assert options.repetitions(7) == 2
        yield a_row(1.0, None)
        assert len(json.loads(file.read_text())) == 1
        yield a_row(1.0, None)

    assert run("name", measure, argv=["--brief", f"--rows={file}"]) == 0
    assert len(json.loads(file.read_text())) == 2


def test_a_program_that_takes_too_long_is_ended():
    assert run_program("images", ["--quick"], seconds=0.01) == ([], CUT_OFF)


def started(program):
    return lambda flags: run("name", program.measure, devices=("cpu", "cuda"), argv=flags)


@without_gpu
@pytest.mark.parametrize(
    "start", [main, started(spectra), started(images)], ids=["all", "spectra", "images"]
)
def test_a_gpu_that_is_not_there_is_refused_in_a_line(start, capsys):
    assert start(["--device=cuda"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("device=cuda is not there: torch sees no CUDA device")


def test_a_program_without_gpu_rows_says_so(capsys):
    assert run("memory", memory.measure, argv=["--device=cuda"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("this is measured on cpu only")


@pytest.mark.parametrize(
    ("ours", "flags", "code"), [(1.0, [], 0), (1.2, [], 1), (1.2, ["--quick"], 0)]
)
def test_a_missed_target_is_exit_code_1_unless_quick(ours, flags, code, capsys):
    asked: list[Options] = []

    def measure(options):
        asked.append(options)
        return [a_row(ours, 1.1)]

    assert run("name", measure, argv=flags) == code
    assert asked == [Options(quick=bool(flags), device="cpu", data_dir=None)]
    verdict = "" if flags else "missed" if ours > 1.1 else "met"
    (line,) = (of for of in capsys.readouterr().out.splitlines() if "≤ 1.1" in of)
    assert line.partition("≤ 1.1")[2].strip() == verdict


def test_a_wrong_rank_count_is_a_failure(monkeypatch):
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4))
    spectra.check_counts(model, "right")
    right = spectra.Watcher.measure

    def wrong(self, epoch):
        measurement = right(self, epoch)
        measurement.spectra["2"][-1] = 0.0
        return measurement

    monkeypatch.setattr(spectra.Watcher, "measure", wrong)
    with pytest.raises(Failure, match=r"wrong, 2: rank 3 at 0\.001, not 4"):
        spectra.check_counts(model, "wrong")


def test_spectra_on_the_device_are_compared_with_those_on_cores(monkeypatch):
    places = []

    def solve(*_, **__):
        places.append(spectra_of_measure.PLACES)

    def here(model):
        del model
        return solve

    monkeypatch.setattr(spectra, "ours_of", here)
    row = spectra.of_places(Options(quick=True, device="cpu", data_dir=None))
    assert places == [spectra_of_measure.PLACES, ("cpu",)]
    assert (row.what, row.baseline) == ("spectra of ResNet-18", "on cores of the CPU")
    assert row.met is None


def test_half_of_the_singular_values_are_made_tiny():
    model = nn.Sequential(nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 7))
    spectra.halve_ranks(model)
    for matrix, kept in zip(weight_matrices(model), (5, 4), strict=True):
        s = np.linalg.svd(matrix.view().double().numpy(), compute_uv=False)
        assert np.sum(s > 1e-6 * s[0]) == kept


def test_losses_equal_those_of_the_plain_loop(capsys):
    options = Options(quick=True, device="cpu", data_dir=None)
    images.check_losses(options, 16, 32, model="mlp", depth=2, width=20)
    assert "within 4 steps" in capsys.readouterr().out


def test_other_losses_than_the_plain_loops_are_a_failure(monkeypatch):
    def slower(network, lr, weight_decay):
        return torch.optim.SGD(network.parameters(), lr=lr / 2, weight_decay=weight_decay)

    monkeypatch.setattr(plain, "sgd", slower)
    options = Options(quick=True, device="cpu", data_dir=None)
    with pytest.raises(Failure, match="losses differ by"):
        images.check_losses(options, 16, 32, model="mlp", depth=2, width=20)


def test_the_epochs_cost_is_taken_from_a_run_of_today():
    # It wraps functions of the trainer by their names and arguments.
    times = epoch_cost.time_run({"model": "mlp", "width": 8, "depth": 2}, 8, 16, 8, 3)
    assert len(times.step) == len(times.whole) == len(times.evaluation) == 3
    assert {name for name, seconds in times.parts.items() if min(seconds) > 0} == {
        "measure", "record", "log", "checkpoint",
    }  # fmt: skip
