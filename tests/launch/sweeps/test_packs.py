"""Packs of a sweep: how points are grouped, taken by several launchers, trained, and never lost.

What must hold of the grouping is stated without it: every point in one pack, of its own kind, of
no more than so many, whatever is done. Real sweeps are those of `test_sweep`, in packs.
"""

from __future__ import annotations

import re
import signal
import time
from collections import Counter

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowrank.launch.logs import last_lines
from lowrank.launch.sweeps import study as study_module
from lowrank.launch.sweeps.packs import Packs, form
from lowrank.launch.sweeps.points import Ended
from lowrank.launch.sweeps.worker import estimate, run
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
from tests.launch.sweeps.test_study import join
from tests.running import differences

LR, SEED, WIDTH = [0.05, 0.1, 0.2], [0, 1], [4, 8]
GRID = {"lr": {"values": LR}, "seed": {"values": SEED}, "width": {"values": WIDTH}}
POINTS = [{"lr": r, "seed": s, "width": w} for r in LR for s in SEED for w in WIDTH]
KINDS = st.dictionaries(st.integers(0, 60), st.sampled_from([None, "a", "b", "c"]))
SIZES = st.fixed_dictionaries(dict.fromkeys("abc", st.integers(1, 9)))


@given(KINDS, SIZES, st.none() | st.integers(1, 20))
def test_every_point_is_in_one_pack_with_its_like(kinds, sizes, block):
    packs = form(kinds, sizes.__getitem__, block)
    assert sorted(number for pack in packs for number in pack) == sorted(kinds)
    for pack in packs:
        (kind,) = {kinds[number] for number in pack}
        assert len(pack) <= (1 if kind is None else sizes[kind])
        assert list(pack) == sorted(pack)
        assert block is None or len({number // block for number in pack}) == 1
    assert packs == sorted(packs)


@given(KINDS, SIZES)
def test_packs_are_no_more_than_needed_and_do_not_depend_on_an_order(kinds, sizes):
    packs = form(kinds, sizes.__getitem__)
    assert packs == form(dict(reversed(kinds.items())), sizes.__getitem__)
    for kind, count in Counter(kind for kind in kinds.values() if kind).items():
        of_kind = [pack for pack in packs if kinds[pack[0]] == kind]
        assert len(of_kind) == -(-count // sizes[kind])


def test_points_of_one_kind_are_those_that_differ_in_numbers_only(tmp_path):
    study = packed(tmp_path, 4, lrs=(0.1, 0.2, 0.3, 0.4, 0.5))
    assert [[p.index for p in study.claim(free)] for _ in range(3)] == [[0, 1, 2, 3], [4], []]


def free(_run_id):
    return True


def packed(directory, size, **options):
    """Joins a sweep as a launcher does that packs points."""
    study = join(directory, **options)
    study.packs = Packs(study.search, size)
    return study


def finish(study, points, outcome="finished"):
    for point in points:
        study.finish(point, Ended(outcome, 1.0 if outcome == "finished" else None))


LRS = tuple(n / 100 for n in range(1, 9))


def test_what_is_left_of_a_pack_is_taken_together_and_the_rest_is_told(tmp_path):
    study = packed(tmp_path, 4, lrs=LRS)
    first = study.claim(free)
    assert study.mates(first) == []
    finish(study, first[:1])
    finish(study, first[1:], "stopped")
    other = study.claim(free)  # what waited longer
    assert [point.index for point in other] == [4, 5, 6, 7]
    again = packed(tmp_path, 4, lrs=LRS).claim(free)
    assert [point.index for point in again] == [1, 2, 3]
    assert [how for _, how in study.mates(again)] == ["done"]


def test_a_failed_member_is_tried_again_without_the_others(tmp_path):
    study = packed(tmp_path, 8, lrs=LRS)
    points = study.claim(free)
    finish(study, points[1:])
    finish(study, points[:1], "failed")
    (point,) = study.claim(free)
    assert (point.index, point.attempt) == (0, 2)


def test_a_launcher_that_loses_the_first_point_of_a_pack_takes_another(tmp_path, monkeypatch):
    one, other = packed(tmp_path, 4, lrs=LRS), packed(tmp_path, 4, lrs=LRS)
    take, raced = one.trials.take, []

    def late(number):
        if not raced:  # between what was seen and what is taken
            raced.append(other.claim(free))
        return take(number)

    monkeypatch.setattr(one.trials, "take", late)
    assert [point.index for point in one.claim(free)] == [4, 5, 6, 7]
    assert [point.index for point in raced[0]] == [0, 1, 2, 3]


def test_a_torn_pack_is_taken_last_and_not_while_another_launcher_takes_it(tmp_path, monkeypatch):
    one, other = packed(tmp_path, 4, lrs=LRS), packed(tmp_path, 4, lrs=LRS)
    now = [0.0]
    monkeypatch.setattr(study_module.time, "monotonic", lambda: now[0])
    held = {one.run_id(0), one.run_id(1)}
    is_free = lambda run_id: run_id not in held  # noqa: E731
    assert [point.index for point in one.claim(is_free)] == [4, 5, 6, 7]
    assert one.claim(is_free) == []
    held.remove(one.run_id(1))  # who ends them is still at it
    now[0] += study_module.TORN
    assert one.claim(is_free) == []
    now[0] += study_module.TORN
    torn = one.claim(is_free)
    assert [point.index for point in torn] == [1, 2, 3]
    assert [how for _, how in one.mates(torn)] == ["elsewhere"]
    assert other.claim(free) == []
    now[0] += study_module.TORN
    assert [point.index for point in other.claim(free)] == [0]


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_a_search_asks_for_a_block_at_once_that_a_later_start_completes(tmp_path, method):
    study = packed(tmp_path, 4, method=method, count=10, search_seed=3)
    study._queue(0, {})  # and here it was killed
    again = packed(tmp_path, 4, method=method, count=10)
    first, second, last = (again.claim(free) for _ in range(3))
    assert [len(points) for points in (first, second, last)] == [4, 4, 2]
    assert [point.index for point in first] == [0, 1, 2, 3]
    assert len({point.values["lr"] for point in (*first, *second, *last)}) == 10
    assert again.claim(free) == []


def test_halves_are_for_all_launchers_and_at_most_once_for_a_size(tmp_path):
    one, other = packed(tmp_path, 8, lrs=LRS), packed(tmp_path, 8, lrs=LRS)
    points = one.claim(free)
    finish(one, points, "stopped")
    assert one.limit_size(points, 4) == other.limit_size(points, 4) == 4
    assert [len(study.claim(free)) for study in (one, other, one)] == [4, 4, 0]


def test_auto_spreads_points_over_slots_and_every_launcher_keeps_to_it(tmp_path):
    study = packed(tmp_path, "auto", lrs=LRS)
    (kind,) = study.undecided()
    study.decide(study.undecided(), {kind: 100}, 3)
    assert study.undecided() == {}
    other = packed(tmp_path, "auto", lrs=LRS)
    assert other.undecided() == {}
    assert [len(other.claim(free)) for _ in range(3)] == [3, 3, 2]
    (tmp_path / "b").mkdir()
    search = packed(tmp_path / "b", "auto", method="random", count=10, search_seed=1)
    assert list(search.undecided()) == ["all"]
    search.decide(search.undecided(), {"all": 4}, 1)
    assert len(search.claim(free)) == 4


def test_a_worker_estimates_what_fits_and_says_that_memory_ran_out():
    kinds = {"small": ["--width=8"], "large": ["--width=20000"], "bad": ["--width=none"]}
    members = estimate(kinds, 1)["members"]
    assert members["small"] == 64
    assert members["large"] < 64
    assert members["bad"] == 1

    def runs_out(_argv):
        raise MemoryError

    assert run(runs_out, [])["memory"] is True


def test_dry_run_shows_packs_and_who_trains_alone_and_why(tmp_path, capsys, monkeypatch):
    from lowrank.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    parameters = {"lr": {"values": [0.1, 0.2, 0.3]}, "augment": {"values": [False, True]}}
    tiny = {"dataset": "cifar10", "model": "convnet", "epochs": 1}
    file = write_sweep(tmp_path, parameters, tiny=tiny)
    words = ["sweep", str(file), "--gpus=none", "--dry_run"]
    assert main([*words, "--pack=2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "sweep tiny: 6 points in 2 packs and 3 alone, grid"
    columns = [re.split(r"  +", line.strip())[1] for line in lines[1:7]]
    assert columns == ["pack", "pack", "pack", "alone", "alone", "alone"]
    numbers = [
        re.match(r" +\d+  pack +(\d+)  e-folds +\S+  python train.py ", line)[1]
        for line in lines[1:4]
    ]
    assert numbers == ["0", "0", "1"]
    assert lines[7].startswith("3 points train alone: augment=True: crops and flips")
    assert main([*words, "--pack=auto"]) == 0
    assert "6 points in 1 pack and 3 alone" in capsys.readouterr().out
    assert main(words) == 0  # off on a CPU
    assert "pack" not in capsys.readouterr().out
    assert main([*words, "--pack=some"]) == 2
    assert "pack: got 'some'; allowed: auto, off, or a whole" in capsys.readouterr().err


def trained_by(directory, name):
    log = (directory / "runs" / "logs" / f"{name}.log").read_text()
    return re.findall(r"trained by process (\d+)", log)


def logs(directory):
    """Returns the names of the logs of packs and runs."""
    found = (directory / "runs" / "logs").glob("*.log")
    return sorted(path.stem for path in found if not path.stem.startswith("worker"))


def test_the_last_lines_of_a_member_are_its_own_where_others_went_on(tmp_path):
    log = tmp_path / "a+1.log"
    log.write_text("run a: before\nrun b: batch_size does not fit\n" + "run a: epoch\n" * 9999)
    assert last_lines(log, 0, 8, "run b") == ["run b: batch_size does not fit"]
    assert last_lines(log, 0, 2, "run c") == last_lines(log, 0, 2) == ["run a: epoch"] * 2


@pytest.mark.slow
def test_a_packed_grid_trains_each_point_once_and_says_how(tmp_path):
    file = write_sweep(tmp_path, GRID)
    done = sweep(tmp_path, str(file), "--pack=4", "--per_gpu=2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert_complete(runs(tmp_path), POINTS)
    assert done.stdout.startswith("sweep tiny: 12 points in 4 packs, grid, on cpu.0, cpu.1\n")
    assert len(re.findall(r"^\[\d+/12\] \S+ (finished|dead), ", done.stdout, re.M)) == 12
    assert "bits may differ" not in done.stdout
    (prefix,) = {run_id[:-5] for run_id in runs(tmp_path)}
    packs = ("0000+3", "0001+3", "0008+1", "0009+1")
    assert logs(tmp_path) == [f"{prefix}-{pack}" for pack in packs]
    for each in runs(tmp_path).values():
        assert len(list(each.path.parent.glob("wandb/offline-run-*/run-*.wandb"))) == 1
    before = {run_id: found.path.read_bytes() for run_id, found in runs(tmp_path).items()}
    again = sweep(tmp_path, str(file), "--pack=4")
    assert again.returncode == 0
    assert {run_id: found.path.read_bytes() for run_id, found in runs(tmp_path).items()} == before


@pytest.mark.slow
def test_auto_asks_the_worker_what_fits(tmp_path):
    file = write_sweep(tmp_path, {"seed": {"values": list(range(6))}}, tiny={**TINY, "epochs": 1})
    done = sweep(tmp_path, str(file), "--pack=auto", "--per_gpu=2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\n2 packs, as memory allows\n" in done.stdout
    assert_complete(runs(tmp_path), [{"seed": seed} for seed in range(6)])
    assert [name[-2:] for name in logs(tmp_path)] == ["+2", "+2"]


@pytest.mark.slow
def test_memory_that_runs_out_halves_the_pack_and_is_no_failure(tmp_path):
    file = write_sweep(tmp_path, {"seed": {"values": list(range(8))}}, tiny={**TINY, "epochs": 1})
    set_fault(tmp_path, "seed=5", "memory", times=2)
    done = sweep(tmp_path, str(file), "--pack=8", "--max_retries=0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert_complete(runs(tmp_path), [{"seed": seed} for seed in range(8)])
    told = re.findall(r"memory ran out in a pack of (\d).* in packs of (\d)", done.stdout)
    assert told == [("8", "4"), ("4", "2")]
    assert "failed" not in done.stdout.replace("no failure", "")
    assert "bits may differ" not in done.stdout


@pytest.mark.slow
def test_a_member_that_kills_its_worker_is_found_and_the_others_are_done(tmp_path):
    file = write_sweep(tmp_path, {"seed": {"values": list(range(4))}}, tiny={**TINY, "epochs": 1})
    set_fault(tmp_path, "seed=2", "kill", times=99)
    done = sweep(tmp_path, str(file), "--pack=4", "--max_retries=1")
    assert done.returncode == 1, done.stdout + done.stderr
    assert_complete(runs(tmp_path), [{"seed": seed} for seed in (0, 1, 3)])
    assert "3 of 4 points done, 1 failed" in done.stdout
    assert "the worker died again in a pack of 4" in done.stdout


def whole_and_once(directory, points):
    """Asserts that each point was run, and as one run."""
    assert_complete(runs(directory), points)
    assert len(list((directory / "runs").glob("*-*/record.sqlite"))) == len(points)


def wait_for(directory, launcher, epochs):
    """Waits until so many epochs are recorded in all."""
    while sum(len(found.epochs) for found in runs(directory).values()) < epochs:
        assert launcher.poll() is None, (directory / "launcher.log").read_text()
        time.sleep(0.1)


@pytest.mark.slow
def test_a_packed_sweep_whose_workers_and_launchers_are_killed_loses_nothing(tmp_path):
    epochs = 30
    tiny = {**TINY, "epochs": epochs, "train_size": 640}
    points = [{"lr": r, "seed": s} for r in (0.05, 0.1) for s in range(4)]
    parameters = {"lr": {"values": [0.05, 0.1]}, "seed": {"values": list(range(4))}}
    file = write_sweep(tmp_path, parameters, tiny=tiny)
    words = [str(file), "--per_gpu=2", "--pack=4", "--max_retries=9"]

    for share in (0.1, 0.5):
        launcher = start(tmp_path, *words)
        wait_for(tmp_path, launcher, round(share * epochs * len(points)))
        while not (workers := workers_of(launcher.pid)):
            time.sleep(0.1)
        kill(workers[0])
        wait_for(tmp_path, launcher, round((share + 0.2) * epochs * len(points)))
        children = psutil.Process(launcher.pid).children(recursive=True)
        kill(launcher)
        launcher.wait()
        psutil.wait_procs(children, timeout=60)
        assert not any(child.is_running() for child in children)
    assert any(found.state != "finished" for found in runs(tmp_path).values())
    done = sweep(tmp_path, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    whole_and_once(tmp_path, points)


@pytest.mark.slow
def test_a_pack_that_was_killed_ends_bitwise_also_beside_a_member_that_ended_before(tmp_path):
    tiny = {**TINY, "epochs": 40, "train_size": 640, "on_collapse": "stop", "seed": 3}
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    files = {}
    for place in (whole, torn):
        place.mkdir()
        files[place] = write_sweep(place, {"lr": {"values": [0.05, 1000.0, 0.1]}}, tiny=tiny)
    assert sweep(whole, str(files[whole]), "--pack=3").returncode == 0
    launcher = start(torn, str(files[torn]), "--pack=3")
    wait_for(torn, launcher, 30)
    (worker,) = workers_of(launcher.pid)
    kill(worker)
    assert launcher.wait(timeout=300) == 0, (torn / "launcher.log").read_text()
    log = (torn / "launcher.log").read_text()
    assert "again" in log
    assert "bits may differ" not in log
    found, expected = (sorted(runs(place).values(), key=lambda r: r.id) for place in (torn, whole))
    assert [run.state for run in expected] == ["finished", "collapsed", "finished"]
    for one, other in zip(found, expected, strict=True):
        assert one.state == other.state
        assert differences(one.path.parent, other.path.parent) == []


@pytest.mark.slow
def test_two_launchers_share_packs_and_a_signal_to_one_stops_its_own(tmp_path):
    tiny = {**TINY, "epochs": 12, "train_size": 640}
    file = write_sweep(tmp_path, {**GRID, "lr": {"values": [0.05, 0.1]}}, tiny=tiny)
    points = [point for point in POINTS if point["lr"] < 0.2]
    launchers = [start(tmp_path, str(file), "--pack=2", "--heartbeat=2") for _ in range(2)]
    wait_for(tmp_path, launchers[0], epochs=12)
    launchers[0].send_signal(signal.SIGINT)
    assert launchers[0].wait(timeout=120) == 130
    assert launchers[1].wait(timeout=300) == 0, (tmp_path / "launcher.log").read_text()
    whole_and_once(tmp_path, points)
    log = (tmp_path / "launcher.log").read_text()
    for run_id in runs(tmp_path):
        assert len(re.findall(rf"{run_id} (finished|dead)", log)) == 1
