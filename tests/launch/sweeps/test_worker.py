"""What a warm process says of a run that has ended, against a main like that of train.py."""

from __future__ import annotations

import pytest

from lowrank.common.errors import Failure, out_of_memory
from lowrank.common.program import exit_code_of
from lowrank.launch.sweeps.worker import run


def runs_out():
    with out_of_memory("batch_size=64 does not fit"):
        raise MemoryError


def fails():
    raise Failure("the disk is full")


@pytest.mark.parametrize(("work", "spent"), [(runs_out, True), (fails, False), (lambda: 0, False)])
def test_a_process_in_which_memory_ran_out_is_spent(work, spent):
    # train.py's main tells such an end in a line and returns 1: no exception comes out of it.
    answered = run(lambda _: exit_code_of("train.py", work), [])
    assert answered["spent"] is spent


def test_a_process_in_which_a_program_of_its_own_ran_out_of_memory_is_spent():
    def main(_argv):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    error = "RuntimeError: DefaultCPUAllocator: can't allocate memory"
    assert run(main, []) == {
        "code": 1,
        "error": error,
        "spent": True,
        "memory": True,
    }
