"""How a program ends: what is told, and what is known of it afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from lowrank.common import program
from lowrank.common.errors import Failure, InputError, out_of_memory
from lowrank.common.program import exit_code_of


def runs_out():
    with out_of_memory("it does not fit"):
        raise MemoryError


def torch_runs_out():
    with out_of_memory("it does not fit"):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")


def raises(error):
    raise error


@pytest.mark.parametrize(
    ("work", "code", "expected"),
    [
        (runs_out, 1, True),
        (torch_runs_out, 1, True),
        (lambda: raises(MemoryError()), 1, True),
        (lambda: raises(Failure("the disk is full")), 1, False),
        (lambda: raises(InputError("lr: got 'x'")), 2, False),
        (lambda: 0, 0, False),
    ],
    ids=["python", "torch", "uncaught", "failure", "input", "well"],
)
def test_it_is_known_whether_memory_ran_out(work, code, expected):
    assert exit_code_of("x", work) == code
    assert program.memory_ran_out is expected


def test_a_path_that_is_too_long_is_bad_input(capsys):
    assert exit_code_of("x", lambda: Path("a" * 300).read_bytes() and 0) == 2
    assert capsys.readouterr().err.endswith("a: File name too long\n")
    assert exit_code_of("x", lambda: Path("/nowhere/x").read_bytes() and 0) == 1
