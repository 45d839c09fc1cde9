"""A run directory that something goes wrong in: what is removed of it, and what never is.

Run with ``pytest tests/runs/test_directory.py``.
"""

from __future__ import annotations

import shutil

import pytest

from lowrank.common.errors import Failure
from lowrank.config import Config
from lowrank.runs.directory import open_record, open_run_directory


def fail(tmp_path, meanwhile, *, recorded=False):
    """Opens a new run, lets something happen and fails; returns the run directory."""
    requested = Config(run_id="a", output_dir=str(tmp_path))
    with pytest.raises(Failure), open_run_directory(requested) as directory:
        if recorded:
            with open_record(directory, [], {}) as record:
                record.append(0, {"train_loss": 1.0})
        meanwhile(directory)
        raise Failure("there are no images")
    return tmp_path / "a"


def test_a_failing_new_run_leaves_nothing_behind(tmp_path):
    assert not fail(tmp_path, lambda directory: (directory.path / "wandb").mkdir()).exists()


def test_a_failing_run_whose_record_was_moved_away_keeps_its_directory(tmp_path):
    aside = tmp_path / "aside.sqlite"
    path = fail(tmp_path, lambda directory: directory.record.rename(aside), recorded=True)
    assert (path / "config.yaml").exists()


def test_a_directory_that_another_process_began_anew_is_left_alone(tmp_path):
    files = {".lock": "", "config.yaml": "lr: 0.1", "wandb": "its own"}

    def begin_anew(directory):
        shutil.rmtree(directory.path)
        directory.path.mkdir()
        for name, text in files.items():
            (directory.path / name).write_text(text)

    path = fail(tmp_path, begin_anew)
    assert {entry.name: entry.read_text() for entry in path.iterdir()} == files


def test_a_directory_that_holds_what_this_process_did_not_make_is_left_alone(tmp_path):
    path = fail(tmp_path, lambda directory: (directory.path / "notes.txt").write_text("mine"))
    assert (path / "notes.txt").read_text() == "mine"
