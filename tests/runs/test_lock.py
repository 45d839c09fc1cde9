"""Locks of run directories where the file system has none.

Run with ``pytest tests/runs/test_lock.py``.
"""

from __future__ import annotations

import errno
import os

import pytest

from lowrank.common.errors import InputError
from lowrank.runs.lock import lock


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS], ids=errno.errorcode.get)
def test_a_file_system_without_locks_is_said_to_be_one(tmp_path, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(InputError, match=r"has no locks, .*choose another output_dir") as told:
        lock(tmp_path / "a")
    assert "make room" not in str(told.value)
