"""What a test or the client leaves in the environment is not there for the next test's fixtures.

In a pytest of its own, as the client's teardown and the order of fixtures have to be the real ones.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TESTS = """
import os

import pytest


@pytest.fixture(scope="module")
def early():
    return sorted(name for name in os.environ if name.startswith(("WANDB_", "LOWRANK_")))


def test_sets(monkeypatch):
    os.environ["WANDB_PROJECT"] = "of the client"
    monkeypatch.setenv("WANDB_PROJECT", "of the test, which puts the client's back")


def test_finds(early):
    assert early == []
    assert "WANDB_PROJECT" not in os.environ
"""


def test_variables_of_the_caller_and_of_a_test_do_not_reach_the_next(tmp_path):
    (tmp_path / "test_inner.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "tests.conftest"]
    inner = subprocess.run(
        [*command, "--rootdir", str(tmp_path), str(tmp_path)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "WANDB_ENTITY": "of the caller"},
        capture_output=True,
        text=True,
    )
    assert inner.returncode == 0, inner.stdout
    assert "2 passed" in inner.stdout
