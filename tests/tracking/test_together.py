"""Several runs tracked at once in one process, each as what its own W&B variables say.

With the real client, offline and against a server on the loopback interface. Run with
``pytest tests/tracking/test_together.py``.
"""

from __future__ import annotations

import psutil
import pytest
import wandb
import yaml

from lowrank.common.client import client_settings
from lowrank.common.errors import InputError
from lowrank.config.arguments import parse
from lowrank.runs.environment import describe_environment
from lowrank.tracking import segments
from lowrank.tracking.account import follow_client
from lowrank.tracking.tracker import start_tracking
from tests.running import wait_until
from tests.segments import inspect, records

IDS = ("a", "b", "c")


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Starts the tracker of a member, as a client's agent asks for it; returns it and its words."""
    monkeypatch.chdir(tmp_path)

    def begin(run_id, sweep="", *flags, **options):
        path = tmp_path / f"{run_id}.yaml"
        lr = f"{IDS.index(run_id) + 1}e-3"
        path.write_text(yaml.safe_dump({"wandb_version": 1, "lr": {"value": lr}}))
        variables = {"WANDB_RUN_ID": run_id, "WANDB_SWEEP_PARAM_PATH": str(path)}
        if sweep:
            names = ("WANDB_ENTITY", "WANDB_PROJECT", "WANDB_SWEEP_ID")
            variables |= dict(zip(names, ("tester", f"project-{run_id}", sweep), strict=True))
        config = follow_client(parse([*flags, f"--name={run_id}s"], variables), variables)
        said = []
        tracker = start_tracking(
            config.recorded(),
            run_dir=tmp_path / "runs" / run_id,
            run_id=run_id,
            resumed=options.pop("resumed", False),
            environment=describe_environment(device="cpu", threads=1, argv=[], variables=variables),
            say=said.append,
            variables=variables,
            **options,
        )
        return tracker, said

    return begin


def log(trackers, epoch, first=0):
    for number, tracker in enumerate(trackers, first):
        tracker.log(epoch, {"rank_mean": 10.0 * number + epoch}, {})
        tracker.write(f"{IDS[number]} has epoch {epoch}\n")


def test_offline_each_has_rows_values_and_sweep_of_its_own(start, tmp_path):
    trackers = [start(name, f"sweep-{name}", "--tracking=offline")[0] for name in IDS]
    for epoch in range(3):
        log(trackers, epoch)
    for number in (1, 0, 2):
        trackers[number].finish(tmp_path / "no record", "finished")
    for number, name in enumerate(IDS):
        (segment,) = segments.find(tmp_path / "runs" / name, name)
        summary = inspect(segment.parent, "--summary")
        assert (summary["run_id"], summary["project"]) == (name, f"project-{name}")
        assert (summary["config"]["lr"], summary["config"]["name"]) == (
            (number + 1) / 1000,
            f"{name}s",
        )
        (run,) = records(segment.parent, "run")[:1]
        assert run["sweep_id"] == f"sweep-{name}"
        assert summary["summary"]["rank_mean"] == 10 * number + 2


def test_online_they_go_on_ends_and_texts_apart(start, wandb_server, tmp_path):
    names = [wandb.sweep(grid(), entity="tester", project=f"project-{name}") for name in IDS[:2]]
    trackers = [start(name, sweep)[0] for name, sweep in zip(IDS, names, strict=False)]
    trackers.append(start("c", "", "--project=other")[0])  # of no sweep, beside runs of two
    log(trackers, 0)
    trackers[0].finish(tmp_path / "no record", "failed", exit_code=1)
    for epoch in (1, 2):
        log(trackers[1:], epoch, first=1)
    trackers[0] = start("a", names[0], resumed=True)[0]
    assert trackers[0].last_epoch == 0
    for tracker in trackers:
        tracker.finish(tmp_path / "no record", "finished")
    runs = [wandb_server.run(name) for name in IDS]
    assert [run.sweep for run in runs] == [*names, None]
    assert [run.project for run in runs] == ["project-a", "project-b", "other"]
    assert [run.config["lr"] for run in runs] == [0.001, 0.002, 0.003]
    assert [[row["_step"] for row in run.history] for run in runs] == [[0], [0, 1, 2], [0, 1, 2]]
    texts = [[line.partition(" ")[2] for line in run.log.splitlines()] for run in runs[1:]]
    assert texts == [[f"{name} has epoch {epoch}" for epoch in range(3)] for name in IDS[1:]]
    assert [run.exit_code for run in runs] == [0, 0, 0]


def grid():
    return {"method": "grid", "parameters": {"lr": {"values": [0.1, 0.2]}}}


@pytest.mark.slow
def test_a_stop_reaches_the_run_that_is_meant(start, wandb_server, tmp_path):
    stopped = []
    trackers = [start(name, "", stop=lambda name=name: stopped.append(name))[0] for name in IDS]
    wandb_server.stop_run("b")
    log(trackers, 0)
    wait_until(lambda: stopped, 60)
    for tracker in trackers:
        tracker.finish(tmp_path / "no record", "finished")
    assert stopped == ["b"]


def test_when_the_clients_process_dies_each_says_so_and_another_can_begin(start, tmp_path):
    begun = [start(name, "", "--tracking=offline") for name in IDS]
    (core,) = [p for p in psutil.Process().children() if "wandb-core" in p.name()]
    core.kill()
    for tracker, said in begun:
        tracker.finish(tmp_path / "no record", "finished")
        assert "W&B did not take the end of the run" in said[-1]
    start("a", "", "--tracking=offline")[0].finish(tmp_path / "no record", "finished")


def test_bad_variables_are_those_of_one_member():
    with pytest.raises(InputError, match="WANDB_RESUME=true"):
        client_settings({"WANDB_RESUME": "true"})
    assert client_settings({"WANDB_RESUME": "must"}).resume == "must"
    assert client_settings({}).resume is None
