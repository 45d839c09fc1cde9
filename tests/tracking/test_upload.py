"""`lowrank sync` after whatever became of a run: what the server then holds is the record, once.

Each case is tried on a server that joins the segments of a run and on one that begins a run anew
when a client does not resume it. Run with ``pytest tests/tracking/test_upload.py``.
"""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

import lowrank
from lowrank import cli
from lowrank.tracking import segments
from tests.running import wait_until
from tests.tracking.test_online import TINY, assert_arrived
from train import main

BOTH_SERVERS = pytest.mark.parametrize(
    "wandb_server", [False, True], ids=["joins", "drops"], indirect=True
)


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Runs main offline with tiny settings in a directory; returns the exit code."""
    monkeypatch.chdir(tmp_path)

    def start(*flags, tracking="offline"):
        return main([*TINY, "--run_id=a", f"--tracking={tracking}", *flags])

    return start


FATES = {
    "ended as it should": lambda _log: None,
    "killed when its log had been begun": lambda log: log.write_bytes(log.read_bytes()[:7]),
    "without its head": lambda log: log.write_bytes(bytes(7) + log.read_bytes()[7:]),
    "torn off by a power cut": lambda log: log.write_bytes(log.read_bytes()[:-37]),
    "deleted": lambda log: shutil.rmtree(log.parent.parent),
}


@BOTH_SERVERS
@pytest.mark.parametrize("fate", FATES)
def test_the_printed_line_uploads_every_epoch_of_every_life_once(
    wandb_server, train, tmp_path, capsys, fate
):
    assert train("--epochs=1") == 0
    (first,) = segments.find(tmp_path / "runs/a", "a")
    wait_until(lambda: segments.last_step(first) == 1)  # else the client writes behind the cut
    FATES[fate](first)
    assert train("--epochs=3") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "upload it with: lowrank sync runs/a"
    assert wandb_server.seen == []
    assert cli.main(["sync", "runs/a"]) == 0
    run, record = assert_arrived(wandb_server, tmp_path / "runs/a")
    assert record.epochs.tolist() == [0, 1, 2, 3]
    assert run.summary["rank_mean"] == record.metrics["rank_mean"][-1]
    assert run.config == record.config | {"tracking": "online"}
    assert (run.state, run.exit_code) == ("finished", 0)
    assert "rank_heatmap" in run.history[-1]

    assert cli.main(["sync", "runs"]) == 0
    assert "run a: W&B has it already" in capsys.readouterr().out
    assert assert_arrived(wandb_server, tmp_path / "runs/a")[0].sessions == run.sessions


@BOTH_SERVERS
def test_a_run_that_was_online_first_gets_what_is_missing(wandb_server, train, tmp_path):
    assert train("--epochs=1", tracking="online") == 0
    assert train("--epochs=3") == 0
    assert cli.main(["sync", "runs/a"]) == 0
    run, _ = assert_arrived(wandb_server, tmp_path / "runs/a")
    assert run.sessions == 2


@BOTH_SERVERS
def test_an_offline_run_is_synced_from_another_path_than_it_was_written_to(
    wandb_server, train, tmp_path
):
    assert train("--epochs=2") == 0
    moved = tmp_path / "elsewhere" / "results"
    moved.parent.mkdir()
    (tmp_path / "runs").rename(moved)
    (segment,) = segments.find(moved / "a", "a")
    assert b"staging" not in segment.read_bytes()
    command = [sys.executable, "-m", "wandb", "sync", str(segment.parent)]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=120)
    assert [row["_step"] for row in wandb_server.run("a").history] == [0, 1, 2]
    assert not wandb_server.state.artifacts, "none is begun that cannot be completed"
    downloaded = lowrank.load_run("tester/ranks/a")
    assert downloaded.path.read_bytes() == (moved / "a/record.sqlite").read_bytes()

    assert cli.main(["sync", str(moved)]) == 0
    assert_arrived(wandb_server, moved / "a")


def test_the_line_after_a_failed_upload_uploads_the_rest(wandb_server, train, tmp_path, capsys):
    with wandb_server.outage(404, "file_stream"):
        assert train("--epochs=2", tracking="online") == 0
    out = capsys.readouterr().out
    assert "W&B did not take everything" in out
    assert out.splitlines()[-1] == "upload it with: lowrank sync runs/a"
    assert cli.main(["sync", "runs/a"]) == 0
    assert_arrived(wandb_server, tmp_path / "runs/a")


def test_bad_input_is_told_in_lines(tmp_path, capsys):
    assert cli.main(["sync"]) == 2
    assert cli.main(["sync", "nowhere"]) == 2
    assert cli.main(["sync", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert "which runs?" in told
    assert "'nowhere': there is no such directory" in told
    assert "there is no API key for" in told
