"""Online runs of train.py with the real client, against a server on the loopback interface.

What arrived there is compared with the run record: every number, histogram, picture and line, also
after kills and stops; outages and refusals are in test_faults.py. Run with ``pytest
tests/tracking/test_online.py``.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

import lowrank
from lowrank.measure.metrics import HISTOGRAM_EDGES, spectrum_histogram
from tests.running import piped
from train import main

ROOT = Path(__file__).resolve().parent.parent.parent
TINY = ("--train_size=64", "--width=8", "--depth=1", "--threads=1", "--project=ranks")
LONG = ("--epochs=2000", "--train_size=400", "--width=8", "--depth=1", "--threads=1")


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Runs main online with tiny settings in an empty directory; returns the exit code."""
    monkeypatch.chdir(tmp_path)
    return lambda *flags: main([*TINY, "--run_id=a", *flags])


@pytest.fixture
def spawn(tmp_path):
    """Starts train.py as its own process group, which does not outlive the test."""
    processes = []

    def start(*flags):
        words = [sys.executable, str(ROOT / "train.py"), "--project=ranks", "--run_id=a", *flags]
        process = piped(words, tmp_path)
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def assert_arrived(server, run_dir, run_id="a"):
    """Compares all that the server holds of a run with its record."""
    run, record = server.run(run_id), lowrank.load_run(run_dir)
    assert [row["_step"] for row in run.history] == record.epochs.tolist()
    for place, row in enumerate(run.history):
        for name, values in record.metrics.items():
            if np.isfinite(values[place]):
                assert row[name] == values[place], name
            else:
                assert name not in row
        for layer, spectra in record.spectra.items():
            counts = spectrum_histogram(spectra[place], record.config["rank_norm"])
            histogram = row[f"spectrum/{layer}"]
            assert histogram["_type"] == "histogram"
            assert histogram["values"] == counts.tolist()
            np.testing.assert_allclose(histogram["bins"], HISTOGRAM_EDGES)
    latest = server.artifact(f"run-record-{run_id}:latest")
    assert latest.type == "run-record"
    assert latest.files == {"record.sqlite": (run_dir / "record.sqlite").read_bytes()}
    assert run.summary["state"] == record.state
    return run, record


def test_a_run_arrives_whole_and_its_record_is_found_again(wandb_server, train, tmp_path, capsys):
    flags = ("--group=wd", "--tags=[digits, tiny]", "--name=first", "--seed=None")
    assert train("--epochs=2", *flags) == 0
    assert f"W&B: {wandb_server.url}/tester/ranks/runs/a" in capsys.readouterr().out
    run, record = assert_arrived(wandb_server, tmp_path / "runs/a")
    assert (run.state, run.exit_code, run.sweep) == ("finished", 0, None)
    assert run.config == record.config
    assert (
        run.config["seed"] == yaml.safe_load((tmp_path / "runs/a/config.yaml").read_text())["seed"]
    )
    details = {name: run.details[name] for name in ("groupName", "tags", "displayName")}
    assert details == {"groupName": "wd", "tags": ["digits", "tiny"], "displayName": "first"}
    assert {"rank/linear1", "rank@0.01/classifier", "distance/linear1"} <= run.history[1].keys()
    assert "weight matrix" in run.log
    for name in ("rank_heatmap", "spectrum_over_time"):
        assert [name in row for row in run.history] == [False, False, True]
        assert run.files[run.history[2][name]["path"]].startswith(b"\x89PNG")
    assert {metric[5] for name, metric in run.metrics.items() if name != "epoch"}

    again = lowrank.load_run("tester/ranks/a")
    assert again.config == record.config
    for name, values in record.metrics.items():
        np.testing.assert_array_equal(again.metrics[name], values)

    assert train("--epochs=3", *flags) == 0
    run, _ = assert_arrived(wandb_server, tmp_path / "runs/a")
    assert len(wandb_server.runs) == 1
    assert run.sessions == 2
    assert [a.name for a in wandb_server.artifacts("a")] == ["run-record-a:v0", "run-record-a:v1"]


def test_pictures_arrive_while_a_run_goes_on(wandb_server, train):
    def drawn():
        rows = wandb_server.run("a").history
        return [
            row["epoch"] for row in rows if {"rank_heatmap", "spectrum_over_time"} <= row.keys()
        ]

    assert train("--epochs=5", "--figures_every=2") == 0
    assert drawn() == [2, 4, 5]
    assert train("--epochs=6", "--figures_every=3") == 0  # the last epoch, at which both are due
    assert drawn() == [2, 4, 5, 6]


def wait_for_row(server, number):
    def arrived():
        rows = [run.lines.get("wandb-history.jsonl", []) for run in server.runs]
        return rows and len(rows[-1]) > number

    server.wait_until(arrived)


@pytest.mark.slow
def test_a_killed_run_goes_on_as_the_same_run_with_every_epoch_once(wandb_server, spawn, tmp_path):
    process = spawn(*LONG)
    wait_for_row(wandb_server, 10)
    process.kill()
    process.wait()
    held = len(wandb_server.run("a").history)
    again = spawn(*LONG)
    wait_for_row(wandb_server, held + 5)
    os.killpg(again.pid, signal.SIGINT)  # Ctrl-C reaches wandb-core, too
    output, _ = again.communicate(timeout=180)
    assert again.returncode == 128 + signal.SIGINT, output
    run, record = assert_arrived(wandb_server, tmp_path / "runs/a")
    assert (record.state, run.state, run.exit_code) == ("stopped", "failed", 130)
    assert run.sessions == 2
    assert len(wandb_server.runs) == 1


@pytest.mark.slow
def test_a_stop_from_the_server_ends_a_run_cleanly(wandb_server, spawn, tmp_path):
    process = spawn(*LONG)
    wait_for_row(wandb_server, 3)
    wandb_server.stop_run("a")
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert "SIGINT: saved epoch" in output
    _, record = assert_arrived(wandb_server, tmp_path / "runs/a")
    assert record.state == "stopped"


def sync(output, directory):
    """Runs the line that a run printed last."""
    line = output.splitlines()[-1]
    words = shlex.split(line.removeprefix("upload it with: "))
    assert words[:2] == ["lowrank", "sync"]
    words = [sys.executable, "-m", *words]
    result = subprocess.run(words, cwd=directory, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr


def test_an_offline_segment_continues_an_online_one(wandb_server, train, tmp_path, capsys):
    assert train("--epochs=1") == 0
    assert train("--epochs=3", "--tracking=offline") == 0
    sync(capsys.readouterr().out, tmp_path)
    run, _ = assert_arrived(wandb_server, tmp_path / "runs/a")
    assert run.sessions == 2


def test_offline_segments_become_one_run(wandb_server, train, tmp_path, capsys):
    assert train("--epochs=1", "--tracking=offline") == 0
    assert train("--epochs=3", "--tracking=offline") == 0
    assert wandb_server.seen == []
    sync(capsys.readouterr().out, tmp_path)
    run, _ = assert_arrived(wandb_server, tmp_path / "runs/a")
    assert run.state == "finished"


def test_no_upload_of_a_directory_is_advised_that_is_not_there(wandb_server, train, capsys):
    """A run that fails before it records anything leaves none, and W&B has not even its end."""
    with wandb_server.outage(404, "file_stream"):
        assert train("--dataset=imagefolder", "--data_dir=nowhere") == 2
    out = capsys.readouterr().out
    assert "W&B did not take everything" in out
    assert "sync" not in out
    assert not Path("runs/a").exists()


@pytest.mark.usefixtures("train")
@pytest.mark.parametrize(
    "path", ["tester/my ranks/a", "tester/my ranks/runs/a", "URL/tester/my%20ranks/runs/a?nw=x"]
)
def test_a_run_of_a_project_with_spaces_is_found_by_path_and_address(wandb_server, tmp_path, path):
    flags = [flag for flag in TINY if not flag.startswith("--project=")]
    assert main([*flags, "--run_id=a", "--epochs=0", "--project=my ranks"]) == 0
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    found = lowrank.load_run(path.replace("URL", wandb_server.url))
    assert found.config["project"] == "my ranks"
