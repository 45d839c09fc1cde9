"""Agents against a server, with real processes and real kills.

What was trained is what the trainings noted; what was handed out is what the server says.
"""

from __future__ import annotations

import platform
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import lowrank
from lowrank.launch.agents import agent as agent_module
from tests.launch.agents.launching import ROOT, change, make_sweep, noted
from tests.running import wait_until
from tests.wandb_server import State


def test_two_slots_share_a_grid_and_each_point_is_trained_once(launch, wandb_server):
    sweep = make_sweep({"work": ["well"], "number": [1, 2, 3]})
    run = launch(sweep, slots=2)
    assert run.wait() == 0
    points = noted("points")
    assert sorted(number for _, number, *_ in points) == ["1", "2", "3"]
    assert {run_id for run_id, *_ in points} == {each.id for each in wandb_server.runs}
    assert {tuple(rest) for _, _, *rest in points} == {("cpu", "1"), ("cpu", "2")}
    assert len(wandb_server.agents) == 2
    assert run.text.count("finished after") == 3
    assert "3 points done, 0 failed; logs in logs" in run.text
    assert run.tree.alive() == []


@pytest.mark.slow
def test_the_count_is_that_of_all_slots_together(launch, wandb_server):
    sweep = make_sweep({"work": ["well"], "number": list(range(9))})
    assert launch(sweep, slots=2, count=3).wait() == 0
    assert len(noted("points")) == len(wandb_server.runs) == 3


@pytest.mark.slow
def test_a_slot_that_keeps_failing_is_stopped_and_takes_no_more(launch, wandb_server):
    sweep = make_sweep({"number": list(range(9)), "work": ["crash", "fail"]})
    run = launch(sweep, max_failures=2)
    assert run.wait() == 1
    assert len(noted("points")) == len(wandb_server.runs) == 2
    assert "killed by SIGKILL; logs/" in run.text
    assert "stopped after 2 failures in a row. The last lines of its log:" in run.text
    assert "    this is why it fails" in run.text
    assert "0 points done, 2 failed" in run.text


@pytest.mark.slow
def test_one_bad_slot_does_not_eat_the_sweep(launch):
    sweep = make_sweep({"work": ["well"], "number": list(range(7))})
    # As with one broken GPU: whatever the first slot trains fails at once.
    change("work = values", "if threads == '1': sys.exit(1)\nwork = values")
    run = launch(sweep, slots=2, max_failures=2)
    assert run.wait() == 1
    assert "cpu.0: stopped after 2 failures in a row; the others go on" in run.text
    assert "5 points done, 2 failed" in run.text


@pytest.mark.slow
def test_an_agent_that_dies_is_started_again(launch):
    sweep = make_sweep({"work": ["wait", "well"], "number": [1]})
    run = launch(sweep)
    run.wait_for("points")
    (agent,) = run.running("agent.py")
    agent.kill()
    run.wait_for("points", 2)
    assert run.wait() == 1
    assert noted("saved") == [[noted("points")[0][0], str(int(signal.SIGTERM))]]
    assert ": its agent, killed by SIGKILL; " in run.text
    assert "1 point done, 1 failed" in run.text
    left = noted("points")[0][0]
    assert f"the same command goes on with {left}" in run.text


@pytest.mark.slow
def test_a_point_that_ctrl_c_interrupted_goes_on_with_the_next_start(launch, wandb_server):
    sweep = make_sweep({"number": [1, 2, 3], "work": ["wait"]})
    run = launch(sweep)
    run.wait_for("points")
    run.signal(signal.SIGINT)
    assert run.wait() == 130
    first = noted("points")[0][0]
    assert "0 points done, 0 failed, 1 interrupted; logs in logs" in run.text
    assert f"the same command goes on with {first}" in run.text
    change("    time.sleep(600)", "    pass")
    run = launch(sweep)
    assert run.wait() == 0
    assert f"going on with {first}\n" in run.text
    assert "3 points done, 0 failed; logs in logs" in run.text
    # With the same values, before any point that is new, and every point once.
    again = noted("points")[1:]
    assert again[0] == noted("points")[0]
    assert sorted(number for _, number, *_ in again) == ["1", "2", "3"]
    assert {run_id for run_id, *_ in again} == {each.id for each in wandb_server.runs}
    assert not list(Path("logs").glob("*.points"))


@pytest.mark.slow
def test_a_point_of_a_killed_launcher_goes_on_though_the_sweep_has_no_more(launch, wandb_server):
    sweep = make_sweep({"number": [1], "work": ["wait"]})
    run = launch(sweep, flags=["--gpus=none", "--count=1"])
    run.wait_for("points")
    run.signal(signal.SIGKILL)
    run.wait()
    run.assert_nothing_is_left()
    change("    time.sleep(600)", "    time.sleep(12)")  # more than a heartbeat of the agent
    wandb_server.state.sweeps[sweep.rpartition("/")[2]].state = "FINISHED"
    run = launch(sweep, flags=["--gpus=none"])
    assert run.wait() == 0, run.text
    assert f"ok: sweep: {sweep} is finished; what was interrupted here goes on: " in run.text
    assert "1 point done, 0 failed; logs" in run.text
    first, second = noted("points")
    assert first == second
    assert len(wandb_server.runs) == 1
    assert launch(sweep, flags=["--gpus=none"]).wait() == 2  # nothing is left


@pytest.mark.slow
def test_a_point_whose_agent_died_before_it_began_is_trained(launch):
    sweep = make_sweep({"number": [1], "work": ["well"]})
    agent = Path(agent_module.__file__).read_text(encoding="utf-8")
    taken = "        super()._command_run(command)"
    assert taken in agent
    died = "        if not Path('died').exists():\n            Path('died').touch()\n"
    died += "            os.kill(os.getpid(), signal.SIGKILL)\n"
    Path("agent.py").write_text(agent.replace(taken, died + taken), encoding="utf-8")
    run = launch(sweep, agent="agent.py")
    assert run.wait() == 0, run.text
    assert "the agent failed: killed by SIGKILL" in run.text
    assert "1 point done, 0 failed, agents failed 1 time;" in run.text
    assert len(noted("points")) == 1


@pytest.mark.slow
def test_agents_that_die_as_they_start_are_counted(launch):
    sweep = make_sweep({"number": [1], "work": ["well"]})
    Path("agent.py").write_text("raise SystemExit(7)\n", encoding="utf-8")
    run = launch(sweep, agent="agent.py", max_failures=2)
    assert run.wait() == 1
    assert "0 points done, 0 failed, agents failed 2 times" in run.text


@pytest.mark.slow
def test_points_that_failed_make_exit_code_1_and_are_named_by_the_next_start(launch):
    sweep = make_sweep({"number": [1, 2, 3], "work": ["fail"]})
    run = launch(sweep, count=2)
    assert run.wait() == 1
    assert "0 points done, 2 failed; logs" in run.text
    ids = [run_id for run_id, *_ in noted("points")]
    change("sys.exit(3)", "pass")
    run = launch(sweep)
    assert run.wait() == 0
    named = f"{ids[0]} (exit code 3), {ids[1]} (exit code 3)"
    assert f"failed here before, and not handed out again: {named}" in run.text
    assert "1 point done, 0 failed" in run.text


@pytest.mark.slow
def test_two_launchers_of_one_machine_write_logs_of_their_own(launch):
    sweep = make_sweep({"number": [1, 2], "work": ["wait"]})
    first = launch(sweep)
    first.wait_for("points")
    second = launch(sweep)
    second.wait_for("points", 2)
    logs = sorted(Path("logs").glob("*.log"))
    assert [log.name.removeprefix(platform.node()) for log in logs] == [
        "-2-cpu.0.log",
        "-cpu.0.log",
    ]
    for each in (first, second):
        each.signal(signal.SIGTERM)
        assert each.wait() == 143
        assert "1 interrupted" in each.text
    # Who comes next goes on with the points of both.
    change("    time.sleep(600)", "    pass")
    last = launch(sweep)
    assert last.wait() == 0
    assert "2 points done, 0 failed; logs" in last.text
    assert sorted(noted("points")[:2]) == sorted(noted("points")[2:])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "passed_on", "code"),
    [(signal.SIGINT, signal.SIGINT, 130), (signal.SIGUSR1, signal.SIGTERM, 75)],
    ids=["SIGINT", "SIGUSR1"],
)
def test_a_signal_lets_trainings_save_and_leaves_nothing(launch, number, passed_on, code):
    sweep = make_sweep({"work": ["wait"], "number": [1, 2, 3]})
    run = launch(sweep, slots=2)
    run.wait_for("points", 2)
    run.signal(number)
    assert run.wait() == code
    # Each saved once: a second signal would have cut that short.
    assert sorted(noted("saved")) == sorted([r, str(int(passed_on))] for r, *_ in noted("points"))
    assert run.text.count("interrupted at epoch 0") == 2
    assert "0 points done, 0 failed" in run.text
    assert run.tree.alive() == []


@pytest.mark.slow
def test_real_trainings_checkpoint_and_their_progress_is_known(launch, wandb_server, tmp_path):
    fixed = {"epochs": [2000], "width": [8], "depth": [2], "train_size": [60], "threads": [1]}
    sweep = make_sweep({"lr": [0.1, 0.2], **fixed})
    shutil.copy(ROOT / "train.py", "train.py")  # what a server names lies below this directory
    run = launch(sweep, slots=2)
    wandb_server.wait_until(
        lambda: len(wandb_server.runs) == 2 and all(len(r.history) > 2 for r in wandb_server.runs),
        200,
    )
    run.signal(signal.SIGTERM)
    assert run.wait() == 143
    assert run.tree.alive() == []
    for each in wandb_server.runs:
        recorded = lowrank.load_run(tmp_path / "runs" / each.id)
        assert recorded.state == "stopped"
        assert (tmp_path / "runs" / each.id / "checkpoint.pt").exists()
        assert each.exit_code == 143
        assert [row["epoch"] for row in each.history] == recorded.epochs.tolist()
        rank = recorded.metrics["rank_mean"][-1]
        interrupted = f"run {each.id} interrupted at epoch {recorded.epochs[-1]}, "
        assert f"{interrupted}rank_mean {rank:.1f}" in run.text


@pytest.mark.slow
def test_a_second_signal_kills(launch):
    sweep = make_sweep({"work": ["wait"], "number": [1]})
    change("    sys.exit(128 + number)", "    time.sleep(600)")
    run = launch(sweep)
    run.wait_for("points")
    run.signal(signal.SIGTERM)
    run.wait_for("saved")
    run.signal(signal.SIGTERM)
    assert run.wait() == 143
    assert run.tree.alive() == []


@pytest.mark.slow
def test_when_the_launcher_is_killed_trainings_save_and_nothing_is_left(launch):
    sweep = make_sweep({"work": ["wait"], "number": [1, 2]})
    run = launch(sweep, slots=2)
    run.wait_for("points", 2)
    run.signal(signal.SIGKILL)
    run.wait()
    run.assert_nothing_is_left()
    assert len(noted("saved")) == 2


@pytest.mark.slow
def test_when_the_launcher_is_killed_at_any_moment_nothing_is_left(launch):
    sweep = make_sweep({"work": ["well"], "number": list(range(50))})
    moments = random.Random(0)
    for _ in range(5):
        run = launch(sweep, slots=2)
        time.sleep(moments.uniform(0, 9))
        run.signal(signal.SIGKILL)
        run.wait()
        run.assert_nothing_is_left()


@pytest.mark.slow
def test_whatever_of_a_slot_is_killed_the_sweep_goes_on(launch, wandb_server):
    sweep = make_sweep({"work": ["well"], "number": list(range(8))})
    change("work = values", "time.sleep(1)\nwork = values")
    run = launch(sweep, slots=2, max_failures=9)
    moments = random.Random(1)
    run.wait_for("points")
    for program in ("train.py", "processes.py", "agent.py", "train.py"):
        wait_until(lambda program=program: run.kill_one(program))
        time.sleep(moments.uniform(1, 3))
    assert run.wait() == 1
    assert len(wandb_server.runs) == 8
    assert {number for _, number, *_ in noted("points")} == set("01234567")
    assert run.tree.alive() == []


@pytest.mark.slow
def test_stopping_by_the_server_is_no_failure(launch, wandb_server):
    sweep = make_sweep({"work": ["wait"], "number": [1]})
    run = launch(sweep, max_failures=1)
    run.wait_for("points")
    wandb_server.terminate_run(noted("points")[0][0])
    assert run.wait() == 0
    assert "stopped early by W&B" in run.text
    assert "1 point done, 0 failed" in run.text


@pytest.mark.slow
def test_a_sweep_that_is_deleted_stops_the_slot(launch, wandb_server):
    sweep = make_sweep({"work": ["well"], "number": [1]})
    wandb_server.state.sweeps.clear()
    run = launch(sweep, max_failures=1)
    assert run.wait() == 1
    assert "the agent failed" in run.text
    assert noted("points") == []


@pytest.mark.slow
def test_a_server_that_is_killed_and_comes_back_loses_no_point(launch, monkeypatch, tmp_path):
    state, out = tmp_path / "state", tmp_path / "server.out"

    def serve(port):
        with out.open("wb") as file:
            command = [sys.executable, "-m", "tests.wandb_server", f"--port={port}"]
            server = subprocess.Popen([*command, f"--state={state}"], cwd=ROOT, stdout=file)
        wait_until(out.read_text)
        return server

    server = serve(0)
    url = out.read_text().strip()
    port = url.rpartition(":")[2]
    monkeypatch.setenv("WANDB_BASE_URL", url)
    try:
        sweep = make_sweep({"work": ["well"], "number": list(range(6))})
        run = launch(sweep, slots=2)
        run.wait_for("points")
        moments = random.Random(2)
        for _ in range(3):
            time.sleep(moments.uniform(1, 5))
            server.kill()
            server.wait()
            time.sleep(moments.uniform(0, 3))
            server = serve(port)
        assert run.wait() == 0
    finally:
        server.kill()
        server.wait()
    assert len(State(state).runs) == 6
    assert sorted(number for _, number, *_ in noted("points")) == list("012345")
