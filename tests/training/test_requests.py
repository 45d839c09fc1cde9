"""Command lines of several runs."""

from __future__ import annotations

import pytest

from lowrank.common.errors import InputError
from lowrank.training.requests import split


def test_two_dashes_begin_another_run():
    assert split([]) == [[]]
    assert split(["--lr=0.1"]) == [["--lr=0.1"]]
    assert split(["a", "--", "b", "c", "--", "d"]) == [["a"], ["b", "c"], ["d"]]


@pytest.mark.parametrize(
    ("arguments", "where"),
    [(["--"], "before"), (["--lr=0.1", "--"], "after"), (["--", "--lr=0.1"], "before")],
)
def test_nothing_beside_them_is_refused(arguments, where):
    with pytest.raises(InputError, match=f"--: got nothing {where} it"):
        split(arguments)
