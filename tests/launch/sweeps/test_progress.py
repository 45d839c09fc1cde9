"""What a person sees of a sweep, on a stream that says it is a terminal, by a clock set by hand."""

from __future__ import annotations

import io
import re

import pytest

from lowrank.launch.sweeps import progress
from lowrank.launch.sweeps.points import Ended, Point, Tally
from lowrank.launch.sweeps.progress import Progress
from tests.views.table.records import make_run


class Terminal(io.StringIO):
    """A stream that says it is one."""

    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def tally(done, failed=()):
    return Tally(size=4, done=done, running=2, failed=dict.fromkeys(failed))


def point(index, run_id):
    return Point(index, run_id, {"lr": 0.1, "seed": index}, trial=index, attempt=1)


def test_piped_each_point_is_a_line_with_the_time_left(tmp_path, clock):
    stream = io.StringIO()
    with Progress(["cpu.0"], ["seed"], "rank_mean", tmp_path, stream) as shown:
        shown.start(tally(1))
        clock[0] += 60
        shown.ended([point(1, "a")], Ended("finished", 12.5), 59.0, tally(2))
        clock[0] += 60
        failed = Ended("failed", why="Traceback\nValueError: made to fail")
        shown.ended([point(2, "b")], failed, 1.0, tally(2, failed=[2]))
    assert stream.getvalue().splitlines() == [
        "1 of 4 points are done already",
        "[2/4] a finished, rank_mean 12.5, 0:59, left 2:00: seed=1",
        "[3/4] b failed, 0:01, left 1:00: seed=2",
        "  attempt 1 of this point, which is not tried again: ValueError: made to fail",
    ]


def test_points_that_failed_as_one_are_one_line_with_the_cause(tmp_path):
    stream = io.StringIO()
    why = "epoch 1\ntrain.py: dataset=mnist cannot be read\ntrain.py: put it there"
    with Progress(["cpu.0"], ["seed"], "rank_mean", tmp_path, stream) as shown:
        shown.ended([point(n, f"a-{n}") for n in range(3)], Ended("failed", why=why), 7.0, tally(0))
    assert stream.getvalue().splitlines() == [
        "[0/4] a-0+2 failed, 0:07, left -: 3 points of one pack",
        "  attempt 1 of these points, which are tried again: dataset=mnist cannot be read",
    ]


def test_the_slot_of_a_pack_tells_of_all_its_runs(tmp_path, clock):
    # One has ended by a rule, another has no record yet: the epoch is that of who goes on.
    make_run(tmp_path / "a", ranks=[16, 12, 9], epochs=8, state="running")
    make_run(tmp_path / "b", ranks=[16, 3], epochs=8, state="collapsed")
    with Progress(["cpu.0"], ["seed"], "rank_mean", tmp_path, Terminal()) as shown:
        clock[0] += 10
        shown.show({"cpu.0": [point(n, run_id) for n, run_id in enumerate("abc")]})
        (task,) = (task for task in shown._below.tasks if task.description == "cpu.0")
    assert (task.completed, task.total) == (2, 8)
    assert task.fields["note"] == "3 runs from a, rank 3.0 to 9.0"


def test_a_terminal_shows_every_slot_and_the_time_left_before_any_point_has_ended(tmp_path, clock):
    # Two of four points are each a quarter through after ten seconds: half a point in ten seconds,
    # and three and a half are left.
    for run_id in "ab":
        make_run(tmp_path / run_id, ranks=[16, 12, 9], epochs=8, state="running")
    stream = Terminal()
    with Progress(["cpu.0", "cpu.1"], ["seed"], "rank_mean", tmp_path, stream) as shown:
        assert {task.total for task in shown._below.tasks} == {None}  # nothing is known yet
        shown.start(tally(0))
        clock[0] += 10
        shown.show({"cpu.0": [point(0, "a")], "cpu.1": [point(1, "b")]})
        shown._below.refresh()
        notes = {task.description: task.fields["note"] for task in shown._below.tasks}
    assert notes["points"].endswith("left 1:10")
    assert notes["cpu.0"] == "a rank_mean 9.0"
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    assert "2/8" in text


def test_what_is_no_longer_known_of_a_slot_is_not_shown(tmp_path, clock):
    make_run(tmp_path / "a", ranks=[16, 12], epochs=8, state="running")
    with Progress(["cpu.0"], ["seed"], "rank_mean", tmp_path, Terminal()) as shown:
        for running, total in (({"cpu.0": [point(0, "a")]}, 8), ({}, None)):
            clock[0] += 10
            shown.show(running)
            assert [t.total for t in shown._below.tasks if t.description == "cpu.0"] == [total]
