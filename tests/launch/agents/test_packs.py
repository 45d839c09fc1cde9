"""Agents of one slot whose points train in one process: a light program, and real trainings.

Agents, server, processes and kills are real. The light program trains a pack as long as its points'
``epochs`` say, in tenths of a second, and as long as there is a file ``hold``.
Run with ``pytest tests/launch/agents/test_packs.py``.
"""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from pathlib import Path

import pytest

import lowrank
from tests.launch.agents.launching import ROOT, make_sweep, noted
from tests.running import wait_until

PROGRAM = """\
# Stands in for lowrank's train.py.
import os, time
from lowrank.common.errors import InputError
from lowrank.common.signals import Interruption
from lowrank.config import Config

def note(file, *words):
    with open(file, "a") as out:
        print(*words, file=out)

def train(requests):
    ids = [request.variables["WANDB_RUN_ID"] for request in requests]
    note("packs", os.getpid(), *ids)
    if 13 in [request.config.seed for request in requests]:
        raise InputError("seed 13 brings bad luck")
    if "large" in [request.config.name for request in requests] and len(ids) > 1:
        raise MemoryError
    for request, run_id in zip(requests, ids):
        note("points", run_id, request.config.lr, request.variables["WANDB_SWEEP_ID"])
        print(f"{run_id}: this is lr={request.config.lr}")
    print("this is everyone's")
    codes = {}
    with Interruption() as interruption, interruption.deferred():
        end = time.monotonic() + max(request.config.epochs for request in requests) / 10
        while (time.monotonic() < end or os.path.exists("hold")) and len(codes) < len(ids):
            time.sleep(0.02)
            for request, run_id in zip(requests, ids):
                number = interruption.signal or request.signal()
                if number and run_id not in codes:
                    note("saved", run_id, int(number), bool(interruption.signal))
                    codes[run_id] = 128 + number
                    request.ended(codes[run_id])
            if "breaks" in [request.config.name for request in requests] and codes:
                raise RuntimeError("a pack broke")
    for run_id in ids:
        if run_id not in codes:
            note("finished", run_id)
    return [codes.get(run_id, 0) for run_id in ids]
"""


TRAIN = (ROOT / "train.py").read_text(encoding="utf-8")
TINY = {"width": [8], "depth": [1], "train_size": [64], "threads": [1]}


@pytest.fixture
def launch(launch, monkeypatch, tmp_path):
    """Starts launchers whose sockets are in a directory of the test."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    return launch


def grid(program=PROGRAM, **parameters):
    sweep = make_sweep(parameters)
    Path("train.py").write_text(program, encoding="utf-8")
    return sweep


def members(launched):
    """Returns the processes that stand for members, by run id."""
    found = {}
    for process in launched.running("member.py"):
        found[process.environ()["WANDB_RUN_ID"]] = process
    return found


@pytest.mark.slow
def test_agents_of_a_slot_train_in_one_process_and_each_point_once(launch, wandb_server, tmp_path):
    sweep = grid(lr=[0.1, 0.2, 0.3, 0.4, 0.5], epochs=[3])
    run = launch(sweep, pack=4)
    assert run.wait() == 0, run.text
    packs = noted("packs")
    assert [len(ids) - 1 for ids in packs] == [4, 1]
    assert len({pid for pid, *_ in packs}) == 1
    points = noted("points")
    assert sorted(float(lr) for _, lr, _ in points) == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert {sweep_id for *_, sweep_id in points} == {sweep.rpartition("/")[2]}
    assert sorted(run_id for run_id, *_ in points) == sorted(each.id for each in wandb_server.runs)
    assert "5 points done, 0 failed; logs in logs" in run.text
    # Each agent's log has what concerns its runs, that of the process has all.
    texts = [log.read_text() for log in sorted(Path("logs").glob("*-cpu.0-*.log"))]
    assert len(texts) == 4
    for run_id, lr, _ in points:
        its = f"{run_id}: this is lr={lr}\n"
        assert sum(its in text for text in texts) == 1
        assert sum(its in log.read_text() for log in Path("logs").glob("*-cpu.0.log")) == 1
    assert all("this is everyone's" in text for text in texts)
    assert run.tree.alive() == []
    assert list((tmp_path / "tmp").glob("lowrank-*")) == []


@pytest.mark.slow
def test_a_member_is_stopped_and_the_others_go_on(launch, wandb_server):
    sweep = grid(lr=[0.1, 0.2, 0.3, 0.4], epochs=[1])
    Path("hold").touch()
    run = launch(sweep, pack=4)
    run.wait_for("points", 4)
    by_server, by_kill, *_ = (run_id for run_id, *_ in noted("points"))
    wandb_server.terminate_run(by_server)
    members(run)[by_kill].kill()
    run.wait_for("saved", 2)
    Path("hold").unlink()
    assert run.wait() == 1, run.text
    ends = sorted([by_server, by_kill])
    assert sorted(noted("saved")) == [[run_id, "15", "False"] for run_id in ends]
    assert len(noted("finished")) == 2
    assert f"run {by_server} stopped early by W&B" in run.text
    assert f"run {by_kill} failed" in run.text
    assert "3 points done, 1 failed" in run.text


@pytest.mark.slow
def test_a_stopped_member_is_answered_before_the_others_end(launch, wandb_server):
    sweep = grid(lr=[0.1, 0.2], epochs=[9000])
    run = launch(sweep, pack=2)
    run.wait_for("points", 2)
    stopped, other = (run_id for run_id, *_ in noted("points"))
    wandb_server.terminate_run(stopped)
    wait_until(lambda: f"run {stopped} stopped early by W&B" in run.text, 60)
    assert list(members(run)) == [other]
    run.signal(signal.SIGTERM)
    assert run.wait() == 143
    log = "".join(log.read_text() for log in Path("logs").glob("*-cpu.0-*.log"))
    assert log.count(f"{stopped}: ended with exit code 143") == 1


@pytest.mark.slow
def test_when_a_pack_breaks_those_that_had_ended_are_not_begun_again(launch, wandb_server):
    sweep = grid(lr=[0.1, 0.2, 0.3, 0.4], epochs=[1], name=["breaks"])
    Path("hold").touch()
    run = launch(sweep, pack=4)
    run.wait_for("points", 4)
    stopped = noted("points")[0][0]
    wandb_server.terminate_run(stopped)
    run.wait_for("saved")
    Path("hold").unlink()
    assert run.wait() == 0, run.text
    assert sorted(map(len, noted("packs"))) == [2, 3, 5]
    assert sum(stopped in ids for _, *ids in noted("packs")) == 1
    assert len(noted("finished")) == 3


@pytest.mark.slow
def test_a_signal_ends_all_members_together_and_leaves_nothing(launch, tmp_path):
    sweep = grid(lr=[0.1, 0.2, 0.3], epochs=[9000])
    run = launch(sweep, pack=3)
    run.wait_for("points", 3)
    run.signal(signal.SIGTERM)
    assert run.wait() == 143
    ids = [run_id for run_id, *_ in noted("points")]
    assert sorted(noted("saved")) == sorted([run_id, "15", "True"] for run_id in ids)
    assert "0 points done, 0 failed, 3 interrupted" in run.text
    assert run.tree.alive() == []
    assert list((tmp_path / "tmp").glob("lowrank-*")) == []


@pytest.mark.slow
def test_when_the_process_dies_its_members_fail_and_go_on_with_the_next_start(launch):
    sweep = grid(lr=[0.1, 0.2, 0.3, 0.4], epochs=[9000])
    run = launch(sweep, pack=2, max_failures=9)
    run.wait_for("points", 2)
    first = [run_id for run_id, *_ in noted("points")]
    os.kill(int(noted("packs")[0][0]), signal.SIGKILL)
    Path("train.py").write_text(PROGRAM.replace("/ 10", "/ 9000"), encoding="utf-8")
    assert run.wait() == 1, run.text
    assert "cpu.0: the process of the pack failed: killed by SIGKILL, perhaps as mem" in run.text
    assert run.text.count(": the process of its pack, killed by SIGKILL: ") == 1
    assert "2 points done, 2 failed" in run.text
    log = "".join(log.read_text() for log in Path("logs").glob("*-cpu.0-*.log"))
    assert log.count("the process that trained this run's pack has died; the run goes on") == 2
    assert launch(sweep, pack=2).wait() == 0
    done = Counter(run_id for (run_id,) in noted("finished"))
    assert len(done) == 4
    assert set(done.values()) == {1}
    assert set(first) < set(done)


@pytest.mark.slow
def test_bad_input_of_one_member_does_not_hurt_the_others(launch, wandb_server):
    sweep = grid(config=["{lr: -1}", "{seed: 13}", "{lr: 0.2}", "{lr: 0.3, width: 7}"], epochs=[2])
    run = launch(sweep, pack=4)
    assert run.wait() == 1, run.text
    assert [float(lr) for _, lr, _ in sorted(noted("points"), key=lambda point: point[1])] == [
        0.2,
        0.3,
    ]
    assert len(noted("finished")) == 2
    assert run.text.count("exit code 2") == 2
    assert "2 points done, 2 failed" in run.text
    texts = "".join(log.read_text() for log in Path("logs").glob("*-cpu.0-*.log"))
    assert "train.py: lr: got '-1' from config of the W&B sweep" in texts
    assert "train.py: seed 13 brings bad luck" in texts
    # What differs in more than numbers is a computation of its own.
    width = {each.id for each in wandb_server.runs if "width" in str(each.config["config"])}
    assert all(width == set(ids) or not width & set(ids) for _, *ids in noted("packs"))


@pytest.mark.slow
def test_a_pack_that_fails_whole_is_one_line_with_its_cause(launch):
    sweep = grid(lr=[0.1, 0.2, 0.3, 0.4], seed=[13])
    run = launch(sweep, pack=4, max_failures=1)
    assert run.wait() == 1, run.text
    failed = [line for line in run.text.splitlines() if " failed after " in line]
    assert len(failed) == 1
    assert "cpu.0: 4 runs failed after " in failed[0]
    assert ": exit code 2 (seed 13 brings bad luck): " in failed[0]
    assert run.text.count("stopped after 1 failures in a row. ") == 1


@pytest.mark.slow
def test_memory_that_runs_out_halves_the_pack_and_loses_nothing(launch):
    sweep = grid(lr=[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8], name=["large"], epochs=[1])
    run = launch(sweep, pack=4)
    assert run.wait() == 0, run.text
    assert [len(ids) - 1 for ids in noted("packs")] == [4, 2, *[1] * 8]
    assert len({run_id for (run_id,) in noted("finished")}) == 8
    assert "8 points done, 0 failed" in run.text
    (log,) = Path("logs").glob("*-cpu.0.log")
    assert log.read_text().count("memory ran out in a pack of ") == 2


@pytest.mark.slow
def test_a_process_that_dies_as_it_starts_stops_its_slot(launch):
    sweep = grid("raise SystemExit(7)\n", lr=[0.1])
    run = launch(sweep, pack=2, max_failures=2)
    assert run.wait() == 1
    assert run.text.count("cpu.0: the process of the pack failed: exit code 7") == 2
    assert "cpu.0: stopped after 2 failures in a row" in run.text
    assert run.tree.alive() == []


@pytest.mark.slow
def test_two_agents_share_a_grid_and_a_killed_ones_points_go_on(launch, wandb_server):
    sweep = grid(lr=[0.1, 0.2, 0.3, 0.4], weight_decay=[0.0, 1e-4, 1e-3], epochs=[1])
    Path("hold").touch()  # what ended as the launcher was killed would be done once more
    flags = ["--gpus=none", "--pack=4", "--stagger=0"]
    first, second = (launch(sweep, flags=[*flags, f"--output_dir={name}"]) for name in "ab")
    wait_until(lambda: len(noted("packs")) >= 2)
    held = set(members(first))
    first.signal(signal.SIGKILL)
    first.wait()
    first.assert_nothing_is_left()
    Path("hold").unlink()
    third = launch(sweep, flags=[*flags, "--output_dir=a"])
    assert second.wait() == 0, second.text
    assert third.wait() == 0, third.text
    assert "going on with " in third.text
    finished = Counter(run_id for (run_id,) in noted("finished"))
    assert set(finished.values()) == {1}
    assert set(finished) == {each.id for each in wandb_server.runs} > held
    assert len(finished) == 12
    values = {
        each.id: (each.config["lr"], each.config["weight_decay"]) for each in wandb_server.runs
    }
    assert len(set(values.values())) == 12


@pytest.mark.slow
def test_real_members_are_runs_of_the_sweep(launch, wandb_server, tmp_path):
    sweep = grid(TRAIN, lr=[0.1, 0.2], seed=[0, 1], epochs=[2], **TINY)
    run = launch(sweep, pack=4)
    assert run.wait() == 0, run.text
    assert "4 points done, 0 failed" in run.text
    runs = wandb_server.runs_of(sweep.rpartition("/")[2])
    assert sorted((each.config["lr"], each.config["seed"]) for each in runs) == [
        (0.1, 0), (0.1, 1), (0.2, 0), (0.2, 1),
    ]  # fmt: skip
    for each in runs:
        recorded = lowrank.load_run(tmp_path / "runs" / each.id)
        assert recorded.state == "finished"
        pack = {n: v for n, v in recorded.environment["pack"].items() if n != "members"}
        assert each.config == recorded.config | {"pack": pack}
        assert recorded.environment["sweep"] == sweep
        assert [row["_step"] for row in each.history] == [0, 1, 2]
        assert (each.state, each.exit_code) == ("finished", 0)
        artifact = wandb_server.artifact(f"run-record-{each.id}:latest")
        assert artifact.files["record.sqlite"] == recorded.path.read_bytes()


@pytest.mark.slow
def test_a_run_that_died_is_told_and_has_no_rank_for_the_search(launch, wandb_server, tmp_path):
    sweep = grid(TRAIN, lr=[0.3, 100.0], epochs=[5], **TINY)
    run = launch(sweep, pack=2)
    assert run.wait() == 0, run.text
    ended = {each.config["lr"]: each for each in wandb_server.runs}
    lost = lowrank.load_run(tmp_path / "runs" / ended[100.0].id)
    assert lost.metrics["dead"][-1] == 1  # else this tests nothing
    since = int(lost.epochs[lost.metrics["dead"] > 0][0])
    assert re.search(rf"run {lost.id} has no rank: .*dead since epoch {since}, train acc", run.text)
    assert f"run {ended[0.3].id} has no rank" not in run.text
    assert "rank_mean" in ended[0.3].summary
    assert "rank_mean" not in ended[100.0].summary
    assert re.search("2 points done, 1 of them (dead|collapsed), 0 failed", run.text)


@pytest.mark.slow
def test_a_stop_from_the_server_ends_one_real_member_and_not_the_others(
    launch, wandb_server, tmp_path
):
    sweep = grid(TRAIN, lr=[0.1, 0.2, 0.3], epochs=[400], **TINY)
    run = launch(sweep, pack=3)
    run_id = wait_until(lambda: list(members(run))[2:])[0]
    wandb_server.wait_until(lambda: any(each.history for each in wandb_server.runs))
    wandb_server.terminate_run(run_id)
    assert run.wait() == 0, run.text
    assert f"run {run_id} stopped early by W&B" in run.text
    assert "3 points done, 0 failed" in run.text
    for each in wandb_server.runs:
        stopped = each.id == run_id
        recorded = lowrank.load_run(tmp_path / "runs" / each.id)
        assert recorded.state == ("stopped" if stopped else "finished")
        assert each.exit_code == (143 if stopped else 0)
        assert [row["_step"] for row in each.history] == recorded.epochs.tolist()
        assert stopped == (len(recorded.epochs) < 401)
