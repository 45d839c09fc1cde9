"""Real sweeps with real processes: faults, kills at random moments, several launchers, PostgreSQL.

What must hold in the end is always the same: every point exactly once in state finished, its record
complete. Faults are made by a train.py that fails where a file tells it to.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import re
import shlex
import signal
import time
from collections import Counter

import psutil
import pytest

from lowrank import cli, load_run
from lowrank.runs.format import RECORD_NAME
from tests.launch.sweeps.helpers import (
    TINY,
    assert_complete,
    kill,
    runs,
    set_fault,
    start,
    sweep,
    workers_of,
    write_sweep,
)

SEEDS = {"seed": {"values": [0, 1, 2, 3, 4, 5]}}
CONFIGS = [{"seed": seed} for seed in range(6)]


def trained_by(directory, run_id):
    """Returns the processes that worked on a run, attempt by attempt."""
    log = (directory / "runs" / "logs" / f"{run_id}.log").read_text()
    return re.findall(r"trained by process (\d+)", log)


def by_seed(found):
    return {run.config["seed"]: run for run in found.values()}


def test_a_sweep_survives_its_runs_and_goes_on_with_what_is_missing(tmp_path):
    file = write_sweep(tmp_path, SEEDS, metric={"name": "rank_mean", "goal": "minimize"})
    set_fault(tmp_path, "seed=1", "raise")
    set_fault(tmp_path, "seed=2", "kill")
    set_fault(tmp_path, "seed=4", "raise", times=99)
    words = [str(file), "--per_gpu=2", "--max_retries=1", "--lr=0.3", "--data_dir=here"]
    first = sweep(tmp_path, *words)
    assert first.returncode == 1, first.stdout + first.stderr
    ended = by_seed(runs(tmp_path))
    assert sorted(ended) == [0, 1, 2, 3, 5]
    assert_complete(runs(tmp_path), [config for config in CONFIGS if config["seed"] != 4])

    # One line a point, and the one that failed for good with its last lines and its log.
    assert len(re.findall(r"^\[\d/6\] \S+ finished, rank_mean ", first.stdout, re.M)) == 5
    listed = first.stdout.partition("failed too often")[2]
    assert "RuntimeError: made to fail" in listed
    assert "5 of 6 points done, 1 failed" in listed
    assert re.search(r"-0004 failed too often, see runs/logs/\S+-0004.log", first.stdout)

    # Recorded: the override, the group, the sweep; offline, ready for `wandb sync`.
    for run in ended.values():
        assert run.config["lr"] == 0.3
        assert run.config["group"] == run.config["sweep"] == "tiny"
        assert run.config["name"] == f"s{run.config['seed']}"
        assert len(list(run.path.parent.glob("wandb/offline-run-*/run-*.wandb"))) == 1

    # Warm: no more processes than slots and deaths; a crash ends its own run only.
    processes = Counter(pid for run in ended.values() for pid in trained_by(tmp_path, run.id))
    assert len(processes) == 3
    assert len(trained_by(tmp_path, ended[1].id)) == len(trained_by(tmp_path, ended[2].id)) == 2
    assert "killed" in first.stdout

    # Started again with one retry more, and the cause gone, it runs what is missing and no more.
    before = {run.id: run.path.read_bytes() for run in ended.values()}
    set_fault(tmp_path, "seed=4", "raise", times=0)
    last = sweep(tmp_path, *words[:2], "--max_retries=2", *words[3:])
    assert last.returncode == 0, last.stdout + last.stderr
    assert_complete(runs(tmp_path), CONFIGS)
    assert {run: runs(tmp_path)[run].path.read_bytes() for run in before} == before
    assert not list((tmp_path / "runs" / ".launchers").iterdir())
    least = min(runs(tmp_path).values(), key=lambda run: run.metrics["rank_mean"][-1])
    table = last.stdout.partition("best of 6 points:\n")[2].splitlines()
    assert table[0].split() == ["run", "rank_mean", "test_accuracy", "seed"]
    rank, accuracy = (f"{least.metrics[n][-1]:.4g}" for n in ("rank_mean", "test_accuracy"))
    assert table[1].split()[1] == rank
    assert [rank, accuracy] in [line.split()[1:3] for line in table[1:6]]

    # What it says last shows these runs.
    (line,) = re.findall("see them with: lowrank (.*)", last.stdout)
    with contextlib.chdir(tmp_path):
        assert cli.main(shlex.split(line)) == 0
    assert all(run in (tmp_path / "report.html").read_text(encoding="utf-8") for run in before)


@pytest.mark.slow
def test_a_warm_run_is_bit_for_bit_that_of_train_py(tmp_path):
    import subprocess
    import sys

    import numpy as np

    from tests.launch.sweeps.helpers import ROOT, environment

    file = write_sweep(tmp_path, SEEDS)
    assert sweep(tmp_path, str(file)).returncode == 0
    warm = by_seed(runs(tmp_path))[5]  # the sixth of its process
    assert (
        len({pid for run in runs(tmp_path).values() for pid in trained_by(tmp_path, run.id)}) == 1
    )
    flags = [f"--{name}={value}" for name, value in {**TINY, "seed": 5}.items()]
    subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *flags, "--run_id=cold", "--tracking=disabled"],
        cwd=tmp_path,
        env=environment(),
        check=True,
    )
    cold = load_run(tmp_path / "runs" / "cold")
    for name in cold.metrics:
        if not name.startswith(("time/", "throughput/")):
            assert np.array_equal(cold.metrics[name], warm.metrics[name], equal_nan=True), name
    for layer in cold.layers:
        assert np.array_equal(cold.spectra[layer.name], warm.spectra[layer.name])


@pytest.mark.slow
def test_death_wins_nothing_a_dead_point_is_told_and_has_no_value(tmp_path):
    tiny = {**TINY, "epochs": 5, "seed": 0}
    metric = {"name": "rank_mean", "goal": "minimize"}
    file = write_sweep(tmp_path, {"lr": {"values": [0.3, 100.0]}}, tiny=tiny, metric=metric)
    done = sweep(tmp_path, str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    ended = {run.config["lr"]: run for run in runs(tmp_path).values()}
    lost_run = ended[100.0]
    assert lost_run.metrics["dead"][-1] == 1  # else this tests nothing
    how = "collapsed" if lost_run.metrics["collapsed"][-1] else "dead"
    since = int(lost_run.epochs[lost_run.metrics["dead"] > 0][0])
    accuracy = lost_run.metrics["train_accuracy"][-1]
    assert f"dead since epoch {since}, train accuracy {accuracy:.3g}" in done.stdout
    assert re.search(rf"{lost_run.id} {how}, \d", done.stdout)
    assert f"2 of 2 points done, 1 of them {how}" in done.stdout
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = f"sqlite:///{tmp_path / 'runs' / 'tiny.sqlite'}"
    study = optuna.load_study(study_name="tiny", storage=storage)
    assert study.best_value == pytest.approx(ended[0.3].metrics["rank_mean"][-1])
    assert sorted(trial.state.name for trial in study.trials) == ["COMPLETE", "PRUNED"]


@pytest.mark.slow
def test_the_environment_is_part_of_what_decides_a_sweep(tmp_path, monkeypatch):
    file = write_sweep(tmp_path, {"seed": {"values": [0, 1]}, "lr": {"value": 0.3}})
    monkeypatch.setenv("LOWRANK_BATCH_SIZE", "64")
    monkeypatch.setenv("LOWRANK_LR", "0.9")  # the file's own value wins
    monkeypatch.setenv("LOWRANK_DATA_DIR", "here")  # of this machine
    first = sweep(tmp_path, str(file))
    assert first.returncode == 0, first.stdout + first.stderr
    assert "LOWRANK_BATCH_SIZE of the environment sets batch_size=64 at every" in first.stdout
    assert {(r.config["batch_size"], r.config["lr"]) for r in runs(tmp_path).values()} == {
        (64, 0.3)
    }
    monkeypatch.delenv("LOWRANK_BATCH_SIZE")
    monkeypatch.setenv("LOWRANK_DATA_DIR", "there")
    (tmp_path / "runs" / next(iter(runs(tmp_path))) / "record.sqlite").unlink()
    second = sweep(tmp_path, str(file))
    assert second.returncode == 2
    assert "was begun differently: environment.batch_size was 64, not absent" in second.stderr
    monkeypatch.setenv("LOWRANK_BATCH_SIZE", "many")
    third = sweep(tmp_path, str(file))
    assert third.returncode == 2
    assert "batch_size: got 'many' from LOWRANK_BATCH_SIZE" in third.stderr


def test_bad_variables_of_wandb_are_told_once_and_end_the_sweep(tmp_path, monkeypatch):
    file = write_sweep(tmp_path, SEEDS)
    monkeypatch.setenv("WANDB_BASE_URL", "localhost:1")
    done = sweep(tmp_path, str(file), "--per_gpu=2")
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.count("WANDB_BASE_URL") == 1
    assert "dies while it starts" not in done.stderr
    assert not runs(tmp_path)


def test_a_foreign_train_py_is_not_run(tmp_path):
    file = write_sweep(tmp_path, SEEDS)
    foreign = "open('was-run', 'w')\ndef main(argv): open('was-run', 'w')\n"
    (tmp_path / "train.py").write_text(foreign)
    done = sweep(tmp_path, str(file))
    assert done.returncode == 2
    assert "train.py is no training of lowrank, as it imports nothing of" in done.stderr
    assert not (tmp_path / "was-run").exists()
    assert not (tmp_path / "runs").exists()
    (tmp_path / "train.py").write_text("this is no Python\n")
    done = sweep(tmp_path, str(file))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_a_sweep_that_is_not_tracked_asks_for_no_upload(tmp_path):
    file = write_sweep(tmp_path, {"seed": {"value": 0}, "tracking": {"value": "disabled"}})
    done = sweep(tmp_path, str(file), "--output_dir=q?x")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "upload" not in done.stdout
    assert sorted(path.name for path in (tmp_path / "q?x").glob("*.sqlite")) == ["tiny.sqlite"]
    assert not (tmp_path / "q").exists()


@pytest.mark.slow
def test_memory_errors_end_their_run_and_replace_its_worker(tmp_path):
    file = write_sweep(tmp_path, SEEDS)
    set_fault(tmp_path, "seed=2", "memory")
    done = sweep(tmp_path, str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    assert_complete(runs(tmp_path), CONFIGS)
    ended = by_seed(runs(tmp_path))
    before, after = trained_by(tmp_path, ended[1].id), trained_by(tmp_path, ended[3].id)
    assert before != after


def is_training(worker):
    """Whether it writes a record: workers that die while they start end the sweep."""
    with contextlib.suppress(psutil.Error):
        return any(file.path.endswith(f"/{RECORD_NAME}") for file in worker.open_files())
    return False


@pytest.mark.slow
def test_workers_and_launchers_killed_at_random_moments_lose_nothing(tmp_path):
    chance = random.Random(7)
    seeds = list(range(10))
    epochs = 60
    tiny = {**TINY, "epochs": epochs, "train_size": 800}
    file = write_sweep(tmp_path, {"seed": {"values": seeds}}, tiny=tiny)
    words = [str(file), "--per_gpu=2", "--max_retries=30"]
    # At a share of the sweep's epochs, not after a time: no machine is too fast or too slow.
    for share in (0.01, 0.1, 0.25, 0.4, 0.55):
        launcher = start(tmp_path, *words)
        until = round((share + chance.uniform(0, 0.1)) * epochs * len(seeds))
        calm = sum(len(run.epochs) for run in runs(tmp_path).values())
        while (done := sum(len(run.epochs) for run in runs(tmp_path).values())) < until:
            assert launcher.poll() is None, (tmp_path / "launcher.log").read_text()
            time.sleep(chance.uniform(0.05, 0.5))
            workers = [each for each in workers_of(launcher.pid) if is_training(each)]
            if workers and done > calm and chance.random() < 0.2:
                kill(chance.choice(workers))
                calm = done + 10
        children = psutil.Process(launcher.pid).children(recursive=True)
        kill(launcher)
        launcher.wait()
        psutil.wait_procs(children, timeout=60)
        assert not any(child.is_running() for child in children)
    assert any(run.state != "finished" for run in runs(tmp_path).values())
    done = sweep(tmp_path, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_complete(runs(tmp_path), [{"seed": seed} for seed in seeds])
    assert len(list((tmp_path / "runs").glob("*-*/record.sqlite"))) == len(seeds)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "sigterm"]
)
def test_a_signal_stops_at_a_checkpoint_and_the_next_start_goes_on(tmp_path, number, code):
    tiny = {**TINY, "epochs": 12, "train_size": 1000}
    file = write_sweep(tmp_path, SEEDS, tiny=tiny)
    launcher = start(tmp_path, str(file), "--per_gpu=2")
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and not any(
        len(r.epochs) > 2 for r in runs(tmp_path).values()
    ):
        time.sleep(0.1)
    launcher.send_signal(number)
    assert launcher.wait(timeout=120) == code
    stopped = [run for run in runs(tmp_path).values() if run.state == "stopped"]
    assert stopped
    done = sweep(tmp_path, str(file), "--per_gpu=2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert_complete(runs(tmp_path), CONFIGS)
    for run in stopped:  # it went on, it did not begin again
        log = (tmp_path / "runs" / "logs" / f"{run.id}.log").read_text()
        assert "going on after epoch" in log


@pytest.mark.slow
def test_one_process_trains_sixty_runs_without_growing(tmp_path):
    file = write_sweep(tmp_path, {"seed": {"values": list(range(60))}}, tiny={**TINY, "epochs": 1})
    launcher = start(tmp_path, str(file))
    sizes: dict[int, int] = {}
    while launcher.poll() is None:
        ended = sum(run.state == "finished" for run in runs(tmp_path).values())
        for worker in workers_of(launcher.pid):
            try:
                sizes[ended] = worker.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        time.sleep(0.2)
    assert launcher.returncode == 0
    early = min(size for ended, size in sizes.items() if 10 <= ended <= 25)
    late = min(size for ended, size in sizes.items() if 45 <= ended < 60)
    # 35 runs: a leak of one figure, model or data set a run would be several times as much.
    assert late - early < 35 * 200_000


def test_a_run_leaves_a_kept_data_set_as_it_was(tmp_path, monkeypatch):
    import train
    from lowrank import data
    from lowrank.data.kept import KEPT

    monkeypatch.setattr(KEPT, "limit", 1)
    digits = data.load_dataset("digits", train_size=64)

    def fingerprint():
        tensors = [t for s in (digits.train, digits.test) for t in (s.images, s.labels)]
        return [hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for tensor in tensors]

    before = fingerprint()
    flags = [f"--{name}={value}" for name, value in TINY.items()]
    assert train.main([*flags, "--tracking=disabled", f"--output_dir={tmp_path}"]) == 0
    assert fingerprint() == before
    again = data.load_dataset("digits", train_size=64)
    assert again is digits
    assert data.load_dataset("digits", train_size=32) is not digits
    KEPT.forget()


@pytest.mark.slow
def test_offline_runs_of_a_sweep_are_uploaded_by_the_command_it_prints(tmp_path, wandb_server):
    import os
    import subprocess
    import sys

    file = write_sweep(tmp_path, {"seed": {"values": [0, 1]}}, project="of-the-file")
    done = sweep(tmp_path, str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("upload them with: ")]
    words = line.removeprefix("upload them with: lowrank ")
    program = f"{sys.executable} -m lowrank {words}"
    environment = {**os.environ, **wandb_server.environment}
    subprocess.run(program, shell=True, cwd=tmp_path, env=environment, check=True, timeout=200)
    assert sorted(run.id for run in wandb_server.runs) == sorted(runs(tmp_path))
    for run in wandb_server.runs:
        assert run.config["sweep"] == "tiny"
        assert (run.details["groupName"], run.project) == ("tiny", "of-the-file")
        assert b"wandb==" in run.files["requirements.txt"]


@pytest.mark.slow
def test_machines_share_a_sweep_through_a_database_and_one_may_die(tmp_path, database):
    machines = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        tiny = {**TINY, "epochs": 4, "train_size": 400}
        file = write_sweep(tmp_path / name, {"seed": {"values": list(range(12))}}, tiny=tiny)
        words = [str(file), f"--storage={database}", "--heartbeat=1", "--per_gpu=1"]
        machines.append(start(tmp_path / name, *words))
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        begun = [len(runs(tmp_path / name)) for name in ("one", "other")]
        if min(begun) >= 2:
            break
        time.sleep(0.1)
    kill(machines[0])
    assert machines[1].wait(timeout=300) == 0, (tmp_path / "other" / "launcher.log").read_text()
    found = [runs(tmp_path / name) for name in ("one", "other")]
    finished = Counter(
        run.config["seed"] for part in found for run in part.values() if run.state == "finished"
    )
    # What the dead machine finished last, and did not live to tell, the other one ran again.
    untold = [seed for seed, count in finished.items() if count > 1]
    assert set(finished) == set(range(12))
    assert len(untold) <= 1
    ids = {run.config["seed"]: {run.id} for run in found[1].values()}
    for run in found[0].values():
        assert ids.setdefault(run.config["seed"], {run.id}) == {run.id}
    assert_complete(
        {**{i: r for i, r in found[0].items() if r.state == "finished"}, **found[1]},
        [{"seed": seed} for seed in range(12)],
    )


@pytest.mark.parametrize(
    "given",
    [
        "by a coupled value",
        *(pytest.param(how, marks=pytest.mark.slow) for how in ("by the file", "by a flag")),
        pytest.param("not at all", marks=pytest.mark.slow),
    ],
)
def test_an_upload_line_is_printed_only_where_there_is_something_to_upload(tmp_path, given):
    parameters = {"seed": {"values": [0]}}
    if given == "by the file":
        parameters["tracking"] = {"value": "disabled"}
    if given == "by a coupled value":
        parameters["config"] = {"values": ["{width: 8, tracking: disabled}"]}
    tiny = {name: value for name, value in TINY.items() if name not in ("tracking", "width")}
    file = write_sweep(tmp_path, parameters, tiny=tiny)
    done = sweep(tmp_path, str(file), *(["--tracking=disabled"] if given == "by a flag" else []))
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if "upload" in line or " sync " in line]
    (directory,) = (path.parent for path in (tmp_path / "runs").glob("*/record.sqlite"))
    tracked = list(directory.glob("wandb/offline-run-*"))
    assert bool(lines) == bool(tracked) == (given == "not at all")
