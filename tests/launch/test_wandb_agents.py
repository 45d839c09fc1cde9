"""`wandb sweep` and `wandb agent`, unmodified, drive train.py against a server on the loopback.

Checked is what arrived there: which point ran where and how often, and how it ended.
Run with ``pytest tests/launch/test_wandb_agents.py``, with ``-m slow`` for what takes longer.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

import lowrank
from tests.running import piped

ROOT = Path(__file__).resolve().parent.parent.parent
TRAIN = str(ROOT / "train.py")
BIN = Path(sys.executable).parent
TINY = {"train_size": 64, "width": 8, "depth": 1, "epochs": 1, "threads": 1}
LONG = TINY | {"train_size": 400, "epochs": 2000}


def processes_in(directory):
    """Returns id and command of the processes that work in a directory."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if (path / "cwd").readlink() == directory:
                found[int(path.name)] = (path / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
    return found


@pytest.fixture
def wandb(tmp_path):
    """Starts the wandb command in an empty directory; ends what it started with the test."""
    environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    del environment["WANDB_SILENT"]
    processes = []

    def start(*words):
        process = piped([sys.executable, "-m", "wandb", *words], tmp_path, env=environment)
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
    for number in processes_in(tmp_path):  # an agent's children are groups of their own
        os.kill(number, signal.SIGKILL)
    for process in processes:
        process.communicate()


@pytest.fixture
def sweep(wandb, wandb_server, tmp_path):
    """Makes a grid with `wandb sweep`; returns the sweep and its path for `wandb agent`."""

    def make(fixed, **axes):
        parameters = {name: {"value": value} for name, value in fixed.items()}
        parameters |= {name: {"values": values} for name, values in axes.items()}
        program = {"program": TRAIN, "method": "grid", "project": "ranks"}
        text = yaml.safe_dump(program | {"parameters": parameters})
        (tmp_path / "sweep.yaml").write_text(text)
        output, _ = wandb("sweep", "sweep.yaml").communicate(timeout=180)
        path = re.search(r"wandb agent (\S+)", output)[1]
        return wandb_server.state.sweeps[path.split("/")[-1]], path

    return make


def finish(process, code=0):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == code, output
    assert "Traceback" not in output, output
    return output


def rows(run):
    return run.lines.get("wandb-history.jsonl", [])


@pytest.mark.slow
def test_two_agents_share_a_grid_and_bad_points_do_not_end_them(
    wandb_server, sweep, wandb, tmp_path
):
    good = ["{lr: 1e-3, weight_decay: 6e-3}", "{lr: 0.2, weight_decay: 0}"]
    bad = ["{dataset: imagefolder, data_dir: nowhere}", "{lr: -1}"]
    fixed = TINY | {"seed": None, "batch_norm": False, "epsilons": [0.01, 0.1]}
    made, path = sweep(fixed, config=[bad[0], good[0], bad[1], good[1]])
    agents = [wandb("agent", path) for _ in range(2)]
    outputs = [finish(agent) for agent in agents]
    assert "lr: got '-1' from config of the W&B sweep" in "".join(outputs)

    runs = wandb_server.runs_of(made.id)
    assert [run.config["config"] for run in runs] == [bad[0], good[0], bad[1], good[1]]
    assert len({run.agent for run in runs}) == len(wandb_server.agents) == 2
    assert all(agent.heartbeats > 2 for agent in wandb_server.agents)
    assert all(run.sweep == made.id and run.project == "ranks" for run in runs)
    ends = [(run.state, run.exit_code, run.sessions) for run in runs]
    ran = ("finished", 0, 1)
    assert ends == [("failed", 2, 1), ran, ("pending", None, 0), ran]
    for run, values in zip((runs[1], runs[3]), ((1e-3, 6e-3), (0.2, 0)), strict=True):
        assert (run.config["lr"], run.config["weight_decay"]) == values
        assert run.config["batch_norm"] is False
        assert run.config["epsilons"] == [0.01, 0.1]
        assert isinstance(run.config["seed"], int)
        record = lowrank.load_run(tmp_path / "runs" / run.id)
        assert record.config == {n: v for n, v in run.config.items() if n != "config"}
        assert [row["epoch"] for row in run.history] == [0, 1]
        artifact = wandb_server.artifact(f"run-record-{run.id}:latest")
        assert artifact.files["record.sqlite"] == (record.path).read_bytes()


@pytest.mark.slow
def test_an_agents_count_is_kept(wandb_server, sweep, wandb):
    made, path = sweep(TINY, lr=[0.1, 0.2, 0.3])
    finish(wandb("agent", "--count=2", path))
    assert [run.config["lr"] for run in wandb_server.runs_of(made.id)] == [0.1, 0.2]
    finish(wandb("agent", "--count=2", path))
    runs = wandb_server.runs_of(made.id)
    assert [(run.config["lr"], run.state) for run in runs] == [
        (lr, "finished") for lr in (0.1, 0.2, 0.3)
    ]


@pytest.mark.slow
def test_early_termination_ends_a_run_cleanly_and_the_agent_goes_on(
    wandb_server, sweep, wandb, tmp_path
):
    made, path = sweep(LONG, epochs=[2000, 1])
    agent = wandb("agent", path)
    wandb_server.wait_until(lambda: any(len(rows(run)) > 5 for run in wandb_server.runs))
    stopped = wandb_server.runs_of(made.id)[0]
    wandb_server.terminate_run(stopped.id)
    output = finish(agent)
    saved = re.search(r"SIGTERM: saved epoch (\d+), step (\d+)", output)
    assert saved
    assert [(run.state, run.exit_code) for run in wandb_server.runs_of(made.id)] == [
        ("failed", 128 + signal.SIGTERM),
        ("finished", 0),
    ]
    record = lowrank.load_run(tmp_path / "runs" / stopped.id)
    assert record.state == stopped.summary["state"] == "stopped"
    assert [row["epoch"] for row in stopped.history] == record.epochs.tolist()
    checkpoint = torch.load(tmp_path / "runs" / stopped.id / "checkpoint.pt", weights_only=True)
    assert [checkpoint[name] for name in ("epoch", "step")] == [int(n) for n in saved.groups()]
    # At step 0 the epoch had been trained and not measured, which the next start does.
    assert record.epochs[-1] == checkpoint["epoch"] - (checkpoint["step"] == 0)
    artifact = wandb_server.artifact(f"run-record-{stopped.id}:latest")
    assert artifact.files["record.sqlite"] == record.path.read_bytes()


@pytest.mark.slow
def test_a_killed_run_of_a_sweep_goes_on_as_the_same_run_of_the_sweep(
    wandb_server, sweep, wandb, tmp_path
):
    made, path = sweep(LONG, lr=[0.1])
    agent = wandb("agent", path)
    wandb_server.wait_until(lambda: any(len(rows(run)) > 5 for run in wandb_server.runs))
    trains = {n: words for n, words in processes_in(tmp_path).items() if words[1:2] == [TRAIN]}
    ((child, words),) = trains.items()
    os.kill(child, signal.SIGKILL)
    finish(agent)
    (run,) = wandb_server.runs_of(made.id)
    held = len(run.history)
    environment = os.environ | {
        "WANDB_SWEEP_ID": made.id,
        "WANDB_RUN_ID": run.id,
        "WANDB_PROJECT": "ranks",
    }
    command = [sys.executable, *words[1:-1]]
    again = subprocess.Popen(command, cwd=tmp_path, env=environment)
    wandb_server.wait_until(lambda: len(rows(run)) > held + 5)
    again.terminate()
    assert again.wait(timeout=180) == 143
    assert wandb_server.runs_of(made.id) == [run]
    assert run.sessions == 2
    record = lowrank.load_run(tmp_path / "runs" / run.id)
    assert [row["epoch"] for row in run.history] == record.epochs.tolist()


@pytest.mark.slow
def test_a_killed_agents_run_ends_well_and_another_agent_takes_the_rest(wandb_server, sweep, wandb):
    made, path = sweep(LONG, epochs=[150, 2, 1])
    first = wandb("agent", path)
    wandb_server.wait_until(lambda: any(len(rows(run)) > 5 for run in wandb_server.runs))
    first.kill()
    finish(wandb("agent", path))
    runs = wandb_server.runs_of(made.id)
    wandb_server.wait_until(lambda: runs[0].state == "finished", seconds=180)
    assert [(run.config["epochs"], run.state, run.sessions) for run in runs] == [
        (epochs, "finished", 1) for epochs in (150, 2, 1)
    ]


@pytest.mark.slow
def test_an_outage_of_a_minute_loses_nothing_of_agent_and_run(wandb_server, sweep, wandb, tmp_path):
    made, path = sweep(TINY, epochs=[1000, 1])
    agent = wandb("agent", path)
    wandb_server.wait_until(lambda: any(len(rows(run)) > 2 for run in wandb_server.runs))
    with wandb_server.outage("refuse"):
        assert len(rows(wandb_server.runs[0])) < 1000
        time.sleep(60)
    finish(agent)
    runs = wandb_server.runs_of(made.id)
    assert [run.state for run in runs] == ["finished", "finished"]
    for run in runs:
        record = lowrank.load_run(tmp_path / "runs" / run.id)
        assert [row["epoch"] for row in run.history] == record.epochs.tolist()
        artifact = wandb_server.artifact(f"run-record-{run.id}:latest")
        assert artifact.files["record.sqlite"] == record.path.read_bytes()
