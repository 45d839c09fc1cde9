"""Launchers that end with the test."""

from __future__ import annotations

import pytest

from tests.launch.agents.launching import Launch


@pytest.fixture
def launch(wandb_server, monkeypatch, tmp_path):
    """Starts launchers in an empty directory and leaves no process."""
    del wandb_server
    monkeypatch.chdir(tmp_path)
    started = []

    def start(*arguments, **options):
        started.append(Launch(*arguments, **options))
        return started[-1]

    yield start
    for each in started:
        each.tree.kill()
        each.process.wait()
