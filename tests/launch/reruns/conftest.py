"""The run that is run again."""

from __future__ import annotations

import pytest

from lowrank.runs.find import load_run
from tests.launch.reruns.helpers import TINY
from train import main


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A finished run of train.py, which no test changes."""
    place = tmp_path_factory.mktemp("originals")
    flags = ("--tracking=disabled", f"--output_dir={place}", "--run_id=a", "--tags=[first]")
    assert main([*TINY, *flags, "--name=one point", "--seed=None", "--device=auto"]) == 0
    return load_run(place / "a")


@pytest.fixture
def work(tmp_path, monkeypatch):
    """An empty working directory."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"
