"""A turn in a process of its own: that it is one, keeps its state, and how it ends."""

from __future__ import annotations

import os
import sys

import pytest

from benchmarks.apart import Apart
from lowrank.common.errors import Failure


def counting(path):
    """Writes how often it was called, and by which process."""
    calls = []

    def turn():
        calls.append(None)
        path.write_text(f"{len(calls)} {os.getpid()}")

    return turn


def ending(code):
    return lambda: sys.exit(code)


def test_turns_run_one_after_another_in_one_other_process(tmp_path):
    path = tmp_path / "calls"
    with Apart(counting, path) as turn:
        assert not path.exists()  # only made
        for count in (1, 2):
            turn()
            found, process = map(int, path.read_text().split())
            assert found == count
            assert process != os.getpid()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_a_process_that_ends_is_a_failure():
    with Apart(ending, 7) as turn, pytest.raises(Failure, match="ending: exit code 7"):
        turn()


def test_a_turn_that_cannot_be_made_is_a_failure(capfd):
    with pytest.raises(Failure, match="counting: exit code 1"):
        Apart(counting)
    assert "TypeError" in capfd.readouterr().err
