"""The table of slots against the terminal's width and a record that a real training wrote."""

from __future__ import annotations

import io
import time

import pytest

import train
from lowrank.config.arguments import parse
from lowrank.launch.agents import status as status_module
from lowrank.launch.agents.status import Point, Row, Status, table


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


def rows():
    config = parse(["--epochs=500"], {})
    started = time.monotonic() - 100
    long = Point("a" * 64, config, 0, started, first_epoch=0, epoch=100, rank_mean=12345.678)
    return [
        Row("gpu10mig3.11", "training", 123, 4, [long]),
        Row("gpu0", "restarting", 0, 0, [Point("ab12cd34", None, 0, started)]),
        Row("gpu1", "stopped", 1, 3, []),
    ]


def test_the_table_fits_80_columns_whatever_is_in_it():
    lines = table(rows()).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[1].split() == [
        *("gpu10mig3.…", "training", "aaaaaaaaa…", "100/500", "12345.7", "123", "4", "6:40")
    ]
    assert lines[2].split() == ["gpu0", "restarting", "ab12cd34", "-", "-", "0", "0", "-"]
    assert lines[-1].split() == ["in", "all", "124", "7"]


def test_after_the_last_epoch_a_point_is_uploading():
    point = Point("a", parse(["--epochs=5"], {}), 0, time.monotonic(), first_epoch=0, epoch=5)
    line = table([Row("gpu0", "training", 0, 0, [point])]).splitlines()[1]
    assert line.split() == ["gpu0", "uploading", "a", "5/5", "-", "0", "0", "0:00"]


def test_the_row_of_a_pack_tells_of_all_its_runs():
    config, started = parse(["--epochs=40"], {}), time.monotonic() - 20
    ranks = (12.5, 90.1, None)  # one has ended by a rule, one has no record yet
    points = [
        Point(f"run{n}", config, 0, started, first_epoch=0, epoch=epoch, rank_mean=rank)
        for n, (epoch, rank) in enumerate(zip((3, 10, None), ranks, strict=True))
    ]
    line = table([Row("gpu0", "training", 4, 1, points)]).splitlines()[1]
    assert line.split() == [
        *("gpu0", "training", "3", "runs", "10/40", "12.5-90.1", "4", "1", "1:00")
    ]


def test_a_point_reads_epoch_and_rank_from_its_record(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ["--epochs=1", "--width=8", "--train_size=60", "--threads=1", "--tracking=disabled"]
    assert train.main([*flags, "--run_id=mine"]) == 0
    point = Point("mine", parse([*flags, "--epochs=3"][1:], {}), 0, time.monotonic() - 10)
    point.look()
    assert (point.epoch, point.first_epoch) == (1, 1)
    assert 0 < point.rank_mean <= 8
    assert point.seconds_left != point.seconds_left  # nothing was trained since it was first seen
    point.first_epoch = 0
    assert point.seconds_left == pytest.approx(20, abs=1)


def test_a_point_without_a_record_is_unknown(tmp_path):
    point = Point("none", parse([f"--output_dir={tmp_path}"], {}), 0, time.monotonic())
    point.look()
    assert point.epoch is None


def test_piped_there_are_only_lines():
    stream = io.StringIO()
    with Status(stream) as status:
        status.show(rows())
        status.line("gpu0: run [bold]x[/] started")
        status.show(rows())
    assert stream.getvalue() == "gpu0: run [bold]x[/] started\n"


def test_piped_a_table_comes_now_and_then(monkeypatch):
    monkeypatch.setattr(status_module, "PIPED_EVERY", 0.0)
    stream = io.StringIO()
    with Status(stream) as status:
        status.show(rows())
    assert stream.getvalue() == f"{table(rows())}\n"


def test_on_a_terminal_the_table_stays_below_the_lines(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with Status(stream) as status:
        status.show(rows())
        status.line("gpu0: run [bold]x[/] started")
    text = stream.getvalue()
    assert "gpu0: run [bold]x[/] started" in text
    assert text.rindex("in all") > text.index("started")
