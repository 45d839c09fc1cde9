"""``lowrank report`` as its users call it: what is written, what is said, and every bad input.

Run with ``pytest tests/commands/test_report.py``.
"""

from __future__ import annotations

import shutil

import pytest

from lowrank.cli import main
from lowrank.commands.report import Report
from lowrank.common.errors import InputError
from lowrank.views.report.write import write_report
from tests.views.report.records import write


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(capsys, *words, code=0):
    assert main(["report", *map(str, words)]) == code
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return out if code == 0 else err


def test_a_report_is_written_and_named(directory, capsys):
    write(directory / "runs" / "a", sizes=(4,), epochs=1)
    out = said(capsys, "runs")
    size = (directory / "report.html").stat().st_size
    assert out == f"report of 1 run (1 with spectra), {size / 1e6:.1f} MB: report.html\n"


def test_the_page_names_the_command_that_opens_a_run(directory, sweep):
    target = directory / "elsewhere"
    shutil.copytree(sweep, target)
    write_report([target], "report.html")
    assert '"named":"elsewhere/run00"' in (directory / "report.html").read_text("utf-8")


def test_runs_chooses_the_sections(directory, capsys, sweep):
    out = said(capsys, sweep, "--runs=run03,run09", "--output", "chosen.html")
    assert "report of 12 runs (2 with spectra)" in out
    text = (directory / "chosen.html").read_text("utf-8")
    assert text.count('"bound_words"') == 2


def test_the_short_flag_takes_its_file_either_way():
    for words in (["-o", "a.html"], ["-o=a.html"], ["--output=a.html"], ["--output", "a.html"]):
        assert str(Report.read(["runs", *words]).output) == "a.html"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], ["which runs? for example: lowrank report runs"]),
        (
            ["runs", "-o", "report.txt"],
            ["output: got 'report.txt'; allowed: a file that ends with .html"],
        ),
        (["runs", "-o", "no/report.html"], ["output: there is no directory 'no'"]),
        (["runs", "--rnus=a"], ["unknown flag '--rnus=a', did you mean 'runs'?"]),
        (
            ["runs", "--runs"],
            ["runs: no value after --runs; allowed: up to 20 run ids such as a,b"],
        ),
        (
            ["runs", f"--runs={','.join(map(str, range(21)))}"],
            ["runs: got 21; allowed: up to 20 run ids such as a,b"],
        ),
        (["runs", "--open=perhaps"], ["open: got 'perhaps'; allowed: True or False"]),
    ],
    ids=lambda value: " ".join(value)[:40],
)  # fmt: skip
def test_every_mistake_is_a_line(capsys, words, expected):
    assert said(capsys, *words, code=2).splitlines() == [f"lowrank: {line}" for line in expected]


def test_mistakes_are_reported_together():
    with pytest.raises(InputError) as caught:
        Report.read(["--oepn", "-o", "x.txt"])
    assert len(caught.value.lines) == 3


def test_an_empty_directory_is_a_line(directory, capsys):
    (directory / "empty").mkdir()
    (line,) = said(capsys, "empty", code=2).splitlines()
    assert line.startswith("lowrank: empty: there is no run here; allowed: a run directory")


def test_a_missing_path_is_a_line(capsys):
    (line,) = said(capsys, "nowhere", code=2).splitlines()
    assert "nowhere" in line


def test_an_unknown_run_is_a_line_with_the_nearest(capsys, sweep):
    (line,) = said(capsys, sweep, "--runs=run3", code=2).splitlines()
    assert line == "lowrank: runs: no run 'run3' here, did you mean 'run03'?"


def test_a_damaged_record_is_named_and_the_others_are_shown(directory, capsys):
    write(directory / "runs" / "good", sizes=(4,), epochs=1)
    bad = write(directory / "runs" / "bad", sizes=(4,), epochs=1)
    bad.write_bytes(bad.read_bytes()[:-5000])
    first, last = said(capsys, "runs").splitlines()
    assert first.startswith("left out: runs/bad/record.sqlite: the run record is damaged")
    assert last.startswith("report of 1 run")
    assert "the run record is damaged" in (directory / "report.html").read_text("utf-8")


def test_only_damaged_records_are_bad_input(directory, capsys):
    bad = write(directory / "runs" / "bad", sizes=(4,), epochs=1)
    bad.write_bytes(bad.read_bytes()[:100])
    lines = said(capsys, "runs", code=2).splitlines()
    assert lines[-1] == "lowrank: none of the records can be read"


def test_a_damaged_metric_leaves_one_run_out(directory, capsys):
    import sqlite3

    write(directory / "runs" / "good", sizes=(4,), epochs=1)
    bad = write(directory / "runs" / "bad", sizes=(4,), epochs=1)
    with sqlite3.connect(bad) as database:
        database.execute(
            "UPDATE scalars SET value = value + 1 "
            "WHERE metric = (SELECT id FROM metrics WHERE name = 'rank_mean')"
        )
    database.close()
    first, last = said(capsys, "runs").splitlines()
    assert first.startswith(
        "left out: runs/bad/record.sqlite: the run record is damaged (rank_mean"
    )
    assert last.startswith("report of 1 run")


def test_damaged_spectra_cost_a_run_its_section(directory, capsys):
    import sqlite3

    write(directory / "runs" / "good", sizes=(4,), epochs=1)
    bad = write(directory / "runs" / "bad", sizes=(4,), epochs=1)
    with sqlite3.connect(bad) as database:
        database.execute("UPDATE spectra SET crc = crc + 1 WHERE layer = 1")
    database.close()
    first, last = said(capsys, "runs").splitlines()
    assert first.startswith(
        "no spectra: runs/bad/record.sqlite: the run record is damaged (spectrum"
    )
    assert last.startswith("report of 2 runs (1 with spectra)")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"epsilons": [[1]]}, "epsilons must be numbers between 0 and 1, got [[1]]"),
        ({"epsilons": "many"}, "epsilons must be numbers between 0 and 1, got many"),
        ({"rank_norm": "nuclear"}, "rank_norm must be frobenius or spectral, got nuclear"),
    ],
    ids=str,
)
def test_a_configuration_that_means_nothing_here_is_a_line(directory, capsys, config, words):
    write(directory / "runs" / "good", sizes=(4,), epochs=1)
    write(directory / "runs" / "odd", sizes=(4,), epochs=1, changed=config)
    first, last = said(capsys, "runs").splitlines()
    assert first == f"left out: runs/odd/record.sqlite: {words}"
    assert last.startswith("report of 1 run")


@pytest.mark.parametrize("recorded", [0, 1, 3])
def test_a_running_or_killed_run_makes_a_page(directory, capsys, recorded):
    write(directory / "run", epochs=10, recorded=recorded, state="running")
    assert "report of 1 run (1 with spectra)" in said(capsys, "run")


def test_a_record_of_another_loop_makes_a_page(directory, capsys):
    import numpy as np

    from lowrank.measure.layers import Layer
    from lowrank.runs.writer import Record

    (directory / "mine").mkdir()
    layers = (Layer("fc", "fc", (3, 4), None, True),)
    with Record.create(
        directory / "mine" / "record.sqlite",
        run_id="mine",
        config={},
        environment={},
        layers=layers,
    ) as record:
        record.append(0, {"my_score": 1.0}, {"fc": np.ones(3)})
    assert "report of 1 run (1 with spectra)" in said(capsys, "mine")


def test_runs_with_different_layers_share_a_page(directory, capsys):
    write(directory / "runs" / "narrow", sizes=(4,), epochs=1, width=4)
    write(directory / "runs" / "wide", sizes=(8, 8), epochs=2, width=8)
    assert "report of 2 runs (2 with spectra)" in said(capsys, "runs")


def test_an_output_that_is_a_directory_is_a_line(directory, capsys):
    write(directory / "run", sizes=(4,), epochs=1)
    (directory / "report.html").mkdir()
    (line,) = said(capsys, "run", code=2).splitlines()
    assert line == "lowrank: output: cannot write report.html (Is a directory)"
    assert sorted(path.name for path in directory.iterdir()) == ["report.html", "run"]


def test_open_asks_the_browser_and_says_if_there_is_none(directory, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr("webbrowser.open", lambda address: asked.append(address))
    write(directory / "run", sizes=(4,), epochs=1)
    out = said(capsys, "run", "--open")
    assert asked == [(directory / "report.html").as_uri()]
    assert out.splitlines()[-1] == "no browser could be started: open the file in one"


def test_the_help_names_the_flags(capsys):
    assert {"--runs=ID,ID", "--open", "-o,"} <= set(said(capsys, "--help").split())
