"""The points of a sweep as several launchers share them: real files, processes and dead locks.

What must hold is stated without the code: every point is handed out once while its launcher lives,
again after its death, and never after it is done.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections import Counter

import pytest
import yaml

from lowrank.common.errors import InputError
from lowrank.config.sweepfile import load_sweep_file
from lowrank.launch.sweeps.identity import begin
from lowrank.launch.sweeps.points import Ended
from lowrank.launch.sweeps.presence import Presence
from lowrank.launch.sweeps.search import Search
from lowrank.launch.sweeps.storage import file_url, open_storage, without_password
from lowrank.launch.sweeps.study import SweepStudy

HEARTBEAT = 1


def join(directory, *, lrs=(0.1, 0.2, 0.3), method="grid", max_retries=1, **options):
    """Joins a sweep as another launcher does."""
    path = directory / f"{os.getpid()}.yaml"  # launchers may join at one moment
    parameter = {"values": list(lrs)} if method == "grid" else {"min": 0.01, "max": 1.0}
    sweep = {"program": "train.py", "method": method, "parameters": {"lr": parameter}}
    sweep["metric"] = {"name": "rank_mean", "goal": "minimize"}
    path.write_text(yaml.safe_dump(sweep))
    search = Search(load_sweep_file(path), {}, count=options.pop("count", None))
    storage = open_storage(options.pop("url", None) or file_url(directory / "points.sqlite"))
    study, identity, _ = begin(
        storage,
        "a",
        direction="minimize",
        definition=options.pop("definition", {"lrs": list(lrs)}),
        search_seed=options.pop("search_seed", None),
        heartbeat=options.pop("heartbeat", HEARTBEAT),
    )
    presence = options.pop("presence", None) or Presence(directory / "runs")
    joined = SweepStudy(storage, study, identity, search, presence, max_retries)
    joined.fill()
    return joined


def claim(study):
    return next(iter(study.claim(lambda _: True)), None)


def test_each_point_is_handed_out_once_to_whoever_asks(tmp_path):
    one, other = join(tmp_path), join(tmp_path)
    points = [claim(one), claim(other), claim(one)]
    assert sorted(point.values["lr"] for point in points) == [0.1, 0.2, 0.3]
    assert len({point.run_id for point in points}) == 3
    assert claim(other) is None
    for point in points:
        one.finish(point, Ended("finished", 5.0))
    assert claim(other) is None
    assert other.tally().settled


def test_a_failed_point_is_tried_again_up_to_the_limit_and_then_listed(tmp_path):
    study = join(tmp_path, lrs=(0.1,), max_retries=2)
    seen = []
    while (point := claim(study)) is not None:
        seen.append((point.run_id, point.attempt))
        study.finish(point, Ended("failed", why=f"attempt {point.attempt}", log="x.log"))
    assert seen == [(seen[0][0], 1), (seen[0][0], 2), (seen[0][0], 3)]
    tally = study.tally()
    assert tally.settled
    assert tally.failed == {0: Ended("failed", None, "attempt 3", "x.log")}
    more = join(tmp_path, lrs=(0.1,), max_retries=3)
    assert claim(more).attempt == 4


def test_a_stopped_point_is_handed_out_again_and_is_no_failure(tmp_path):
    study = join(tmp_path, lrs=(0.1,), max_retries=0)
    for _ in range(3):
        point = claim(study)
        assert point.attempt == 1
        study.finish(point, Ended("stopped"))
    assert not study.tally().settled


def test_a_collapsed_run_is_done_and_bayesian_search_does_not_see_it(tmp_path, monkeypatch):
    study = join(tmp_path, method="bayes", count=3)
    seen = []
    propose = study.search.propose
    monkeypatch.setattr(
        study.search,
        "propose",
        lambda index, seed, past: (
            seen.append([t.value for t in past]) or propose(index, seed, past)
        ),
    )
    study.finish(claim(study), Ended("collapsed"))
    study.finish(claim(study), Ended("finished", 4.0))
    assert claim(study) is not None
    assert seen == [[], [], [4.0]]
    assert (study.tally().done, study.tally().losses) == (2, {"collapsed": 1})


def test_death_wins_no_search_a_dead_run_is_done_without_a_value(tmp_path):
    study = join(tmp_path, method="bayes", count=2)
    study.finish(claim(study), Ended("dead", why="dead since epoch 3"))
    study.finish(claim(study), Ended("finished", 4.0))
    assert [trial.state.name for trial in study._study.trials] == ["PRUNED", "COMPLETE"]
    with_value = [trial.value for trial in study._study.trials if trial.value is not None]
    assert with_value == [study._study.best_value] == [4.0]
    tally = study.tally()
    assert (tally.done, tally.losses, tally.settled) == (2, {"dead": 1}, True)
    assert tally.lost[0].why == "dead since epoch 3"


def test_a_point_whose_run_someone_still_holds_waits(tmp_path):
    study = join(tmp_path, lrs=(0.1, 0.2))
    first = study.run_id(0)
    assert study.claim(lambda run_id: run_id != first)[0].run_id == study.run_id(1)
    assert study.claim(lambda run_id: run_id != first) == []
    assert not study.tally().settled


def _claim_and_die(directory):
    claim(join(directory, lrs=(0.1,)))
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_dead_launchers_point_is_taken_at_once_by_the_next_on_its_disk(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=_claim_and_die, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    study = join(tmp_path, lrs=(0.1,))
    assert claim(study) is None  # as nobody has looked yet
    study.beat([])
    assert claim(study).attempt == 1


def test_a_silent_launcher_elsewhere_is_taken_for_dead_after_the_grace(tmp_path):
    elsewhere = join(tmp_path, lrs=(0.1, 0.2), presence=Presence(tmp_path / "elsewhere"))
    dead, alive = claim(elsewhere), claim(elsewhere)
    here = join(tmp_path, lrs=(0.1, 0.2))
    deadline = time.monotonic() + 30
    taken = None
    while taken is None and time.monotonic() < deadline:
        assert elsewhere.beat([alive]) == []
        here.beat([])
        taken = claim(here)
        time.sleep(0.2)
    assert taken.run_id == dead.run_id
    assert elsewhere.beat([dead, alive]) == [dead]  # it learns of it when it wakes
    elsewhere.finish(dead, Ended("finished", 1.0))  # and what it says then counts for nothing
    assert here.tally().done == 0
    here.finish(taken, Ended("finished", 2.0))
    assert here.tally().done == 1


def test_a_launcher_that_died_while_it_took_a_point_leaves_it_to_others(tmp_path):
    study = join(tmp_path, lrs=(0.1,))
    storage = study.trials._storage  # the moment between two writes cannot be hit from outside
    trial = storage.get_trial_id_from_study_id_trial_number(study.trials._study_id, 0)
    storage.record_heartbeat(trial)
    import optuna

    storage.set_trial_state_values(trial, state=optuna.trial.TrialState.RUNNING)
    deadline = time.monotonic() + 30
    while (point := claim(study)) is None and time.monotonic() < deadline:
        study.beat([])
        time.sleep(0.2)
    assert point is not None


def _join_and_claim(directory, go, found):
    go.wait()
    study = join(directory, lrs=[n / 100 for n in range(1, 13)])
    while (point := claim(study)) is not None:
        study.finish(point, Ended("finished", 1.0))
        found.put((os.getpid(), point.index, point.run_id))
    found.put(None)


def test_launchers_that_start_at_one_moment_queue_and_take_each_point_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    go, found = context.Event(), context.Queue()
    processes = [
        context.Process(target=_join_and_claim, args=(tmp_path, go, found)) for _ in range(3)
    ]
    for process in processes:
        process.start()
    time.sleep(1)
    go.set()
    ended, taken = 0, []
    while ended < len(processes):
        item = found.get(timeout=120)
        ended += item is None
        taken += [item] if item else []
    for process in processes:
        process.join()
    assert Counter(index for _, index, _ in taken) == dict.fromkeys(range(12), 1)
    study = join(tmp_path, lrs=[n / 100 for n in range(1, 13)])
    assert len(study._study.trials) == 12
    assert len({run_id for *_, run_id in taken}) == 12


def test_a_changed_sweep_under_the_same_name_is_refused_with_the_differences(tmp_path):
    before = {"method": "grid", "parameters": {"lr": {"values": [0.1]}}, "overrides": {}}
    now = {"method": "grid", "parameters": {"lr": {"values": [0.2]}}, "overrides": {"depth": 3}}
    join(tmp_path, definition=before, search_seed=3)
    with pytest.raises(InputError) as refused:
        join(tmp_path, definition=now, search_seed=4)
    text = str(refused.value)
    assert "parameters.lr.values was [0.1], not [0.2]" in text
    assert "overrides.depth was absent, not 3" in text
    assert "search_seed was 3, not 4" in text


def test_random_points_are_the_same_for_every_launcher_and_after_a_restart(tmp_path):
    one = join(tmp_path, method="random", count=4, search_seed=8)
    first = [claim(one), claim(one)]
    other = join(tmp_path, method="random", count=4)
    rest = [claim(other), claim(other)]
    assert claim(one) is None
    alone = join(tmp_path, method="random", count=4, search_seed=8, url=file_url(tmp_path / "b"))
    again = [claim(alone) for _ in range(4)]
    assert [p.values for p in first + rest] == [p.values for p in again]


def test_more_points_are_added_when_a_search_goes_on(tmp_path):
    study = join(tmp_path, method="random", count=2)
    for _ in range(2):
        study.finish(claim(study), Ended("finished", 1.0))
    assert claim(study) is None
    assert claim(join(tmp_path, method="random", count=3)).index == 2


@pytest.mark.parametrize("name", ["q?x", "p%41", "a{b}#c d", "t?uri=true&mode=memory"])
def test_a_folder_of_any_name_holds_the_database_of_its_sweep(tmp_path, name):
    url = file_url(tmp_path / name / "points.sqlite")
    study = join(tmp_path, url=url, lrs=(0.1,))
    study.finish(claim(study), Ended("finished", 1.0))
    assert sorted(path.name for path in (tmp_path / name).iterdir()) == ["points.sqlite"]
    assert join(tmp_path, url=url, lrs=(0.1,)).tally().settled


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("no address", "storage: got 'no address'; allowed: sqlite"),
        ("oracl://x/y", "allowed: sqlite"),
        ("sqlite:////proc/nothing/x.sqlite", "cannot be used: unable to open"),
    ],
)
def test_a_storage_that_cannot_be_is_bad_input(url, message):
    with pytest.raises(InputError, match=message):
        open_storage(url)


@pytest.mark.parametrize(
    ("url", "module", "remedy"),
    [
        ("postgresql://a:secret@h/d", "psycopg", "; pip install 'lowrank[postgres]'"),
        ("mysql://a:secret@h/d", "pymysql", "; pip install 'lowrank[mysql]'"),
        ("mysql+pymysql://a:secret@h/d", "pymysql", "; pip install 'lowrank[mysql]'"),
        ("mysql+mysqldb://a:secret@h/d", "MySQLdb", ""),
    ],
)
def test_a_driver_that_is_not_installed_is_told(monkeypatch, url, module, remedy):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError) as caught:
        open_storage(url)
    shown = url.replace("secret", "***")
    assert caught.value.lines == [f"storage: the driver for {shown} is not installed{remedy}"]


def test_a_password_is_never_shown():
    assert "secret" not in without_password("postgresql+psycopg://a:secret@h:5432/d")
    assert "secret" not in without_password("postgresql+psycopg//a:secret@h:5432/d")
