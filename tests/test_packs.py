"""Packs of train.py: each member is a run, and no fault of one changes a bit of another.

Every record is compared bit for bit with that of the same pack which met no fault. Kills are
SIGKILL in processes of their own, at moments that are named or drawn. What a pack computes is
compared with its runs alone in `tests.training.test_pack`. Run with ``pytest tests/test_packs.py``.
"""

from __future__ import annotations

import random
import re
import shutil
import signal
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import lowrank
from lowrank.cli import main as lowrank_command
from lowrank.common.errors import Failure
from lowrank.config.arguments import parse
from lowrank.runs import checkpoints
from lowrank.training.members import close_all
from lowrank.training.requests import Request
from tests import faults
from tests.running import MEASURED, TINY, Training, differences, is_timing, last_epoch, wait_until
from tests.segments import inspect, records, segments
from tests.test_train import assert_each_epoch_once
from train import main, train

EPOCHS = 4
OWN = {
    "a": (),
    "b": ("--lr=0.2", "--weight_decay=0.01"),
    "c": ("--seed=3", "--momentum=0.9", "--schedule=constant"),
}
"""What is each member's own."""
IDS = "abc"


def of_member(name, *flags):
    """Returns the arguments of one member; flags come instead of equal ones."""
    usual = (*TINY, *MEASURED, f"--epochs={EPOCHS}", "--tracking=disabled", f"--run_id={name}")
    usual += OWN[name]
    names = {flag.partition("=")[0] for flag in flags}
    return [*(flag for flag in usual if flag.partition("=")[0] not in names), *flags]


def words(*flags, ids=IDS, own=None):
    """Returns the arguments of a pack."""
    members = [of_member(name, *flags, *(own or {}).get(name, ())) for name in ids]
    return [word for member in members for word in ("--", *member)][1:]


def start(directory, *flags, ids=IDS, own=None, prepare=None):
    """Starts a small pack in a process of its own."""
    return Training(directory, *words(*flags, ids=ids, own=own), prepare=prepare)


def finish(directory, *flags, **options):
    """Runs a small pack to its end; returns what it printed."""
    training = start(directory, *flags, **options)
    assert training.wait() == 0, training.text
    return training.text


def assert_same(directory, expected, ids=IDS):
    """Compares every member's record bit for bit, and the weights that are left."""
    for name in ids:
        assert differences(directory / "runs" / name, expected / "runs" / name) == [], name
        states = [checkpoints.load(d / f"runs/{name}/checkpoint.pt") for d in (directory, expected)]
        for weight, values in states[0]["model"].items():
            assert torch.equal(values, states[1]["model"][weight]), (name, weight)


def state_of(directory, name):
    return lowrank.load_run(directory / "runs" / name).state


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The working directory of the pack, which met no fault."""
    directory = tmp_path_factory.mktemp("undisturbed")
    finish(directory)
    return directory


# -- Members are runs


def test_each_member_is_a_run_like_any_other(tmp_path, undisturbed):
    for name in IDS:
        finish(tmp_path, ids=name)
        packed, alone = undisturbed / "runs" / name, tmp_path / "runs" / name
        assert {f.name for f in packed.iterdir()} == {f.name for f in alone.iterdir()}
        assert (packed / "config.yaml").read_text() == (alone / "config.yaml").read_text()
        member, run = lowrank.load_run(packed), lowrank.load_run(alone)
        assert (member.id, member.state, member.layers) == (name, "finished", run.layers)
        assert member.epochs.tolist() == run.epochs.tolist()
        assert set(member.metrics) == set(run.metrics)
        for quantity in (n for n in run.metrics if not is_timing(n)):
            values = member.metrics[quantity]
            assert np.isfinite(values).tolist() == np.isfinite(run.metrics[quantity]).tolist()
        for layer, spectra in run.spectra.items():
            assert member.spectra[layer][0].tobytes() == spectra[0].tobytes(), "initialisation"
        states = [checkpoints.load(place / "checkpoint.pt") for place in (packed, alone)]
        assert states[0].keys() == states[1].keys()
        assert states[0]["config"] == states[1]["config"]
        assert f"--run_id={name}" in member.environment["command"]
        assert " -- " not in member.environment["command"]


def test_record_and_wandb_name_the_pack_and_each_has_its_own_segment(tmp_path):
    finish(tmp_path, "--tracking=offline")
    for index, name in enumerate(IDS):
        run_dir = tmp_path / "runs" / name
        pack = {"id": "a+2", "size": 3, "index": index}
        run = lowrank.load_run(run_dir)
        assert run.environment["pack"] == pack | {"members": list(IDS)}
        (segment,) = segments(run_dir)
        summary = inspect(segment, "--summary")
        assert summary["config"]["pack"] == pack
        assert summary["config"]["lr"] == run.config["lr"]
        assert {"rank_heatmap", "spectrum_over_time"} <= summary["summary"].keys()
        assert_each_epoch_once(run_dir)
        assert (segment / "files/record.sqlite").read_bytes() == run.path.read_bytes()


def test_each_log_page_has_the_lines_of_its_run(tmp_path):
    finish(tmp_path, "--tracking=offline")
    for name in IDS:
        (segment,) = segments(tmp_path / "runs" / name)
        text = "".join(record["line"] for record in records(segment, "output_logger"))
        run = lowrank.load_run(tmp_path / "runs" / name)
        assert "a pack of 3 runs" in text
        assert re.findall(r"^ +(\d)/4 ", text, flags=re.MULTILINE) == list("01234")
        for loss in run.metrics["test_loss"]:
            assert f" {loss:.4g} " in text
        assert "a: " not in text
        assert "rank: min" not in text


def test_runs_report_and_figures_take_members_like_any_run(undisturbed, tmp_path, capsys):
    shutil.copytree(undisturbed / "runs", tmp_path / "runs")
    place = str(tmp_path / "runs")
    assert lowrank_command(["runs", place]) == 0
    shown = capsys.readouterr().out
    assert re.findall(r"^([abc]) +finished", shown, flags=re.MULTILINE) == list(IDS)
    assert lowrank_command(["report", place, "-o", str(tmp_path / "report.html")]) == 0
    assert (tmp_path / "report.html").stat().st_size > 10_000
    assert lowrank_command(["figures", place, f"--output={tmp_path / 'figures'}"]) == 0
    assert list((tmp_path / "figures").iterdir())


def test_the_terminal_shows_a_line_per_epoch_and_at_last_one_per_run(tmp_path):
    text = finish(tmp_path, "--tracking=offline")
    lines = text.splitlines()
    assert lines[0] == "mlp of 1,546 parameters, a pack of 3 runs, on cpu with 1 thread"
    assert [line for line in lines if re.match("[abc]: ", line)] == [
        "a: lr=0.1 schedule=milestones momentum=0.0 weight_decay=0.0005 seed=0",
        "b: lr=0.2 schedule=milestones momentum=0.0 weight_decay=0.01 seed=0",
        "c: lr=0.1 schedule=constant momentum=0.9 weight_decay=0.0005 seed=3",
    ]
    ranks = np.array([lowrank.load_run(tmp_path / f"runs/{n}").metrics["rank_mean"] for n in IDS])
    (head,) = [place for place, line in enumerate(lines) if "rank: min" in line]
    for epoch in range(EPOCHS + 1):
        cells = lines[head + 1 + epoch].split()
        assert cells[0] == f"{epoch}/{EPOCHS}"
        assert len(lines[head + 1 + epoch]) == len(lines[head]) == 78
        of = ranks[:, epoch]
        assert cells[4:7] == [f"{value:.1f}" for value in (of.min(), of.mean(), of.max())]
    table = lines[head + 1 + EPOCHS + 2 :]
    # Beside the numbers, five settings would take 84 columns.
    assert table[0].split() == ["run", "train", "acc", "test", "acc", "rank_mean"]
    assert [line.split()[0] for line in table[1:7:2]] == list(IDS)
    assert table[2] == "  lr=0.1 schedule=milestones momentum=0 weight_decay=0.0005 seed=0"
    assert table[7:] == [
        "runs a b c finished: runs/a runs/b runs/c",
        "see them with: lowrank report runs/a runs/b runs/c -o report.html",
        "upload them with: lowrank sync runs/a runs/b runs/c",
    ]


# -- The same numbers again


def test_the_same_pack_again_is_bitwise_the_same(tmp_path, undisturbed):
    finish(tmp_path)
    assert_same(tmp_path, undisturbed)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 75)]
)
def test_a_pack_that_a_signal_stopped_within_an_epoch_goes_on_bitwise(
    tmp_path, undisturbed, number, code
):
    moment = faults.kill_at("lowrank.training.console.Console.stepped", 6, number=number)
    training = start(tmp_path, prepare=moment)
    assert training.wait() == code, training.text
    for name in IDS:
        state = checkpoints.load(tmp_path / f"runs/{name}/checkpoint.pt")
        assert (state["epoch"], state["step"]) == (1, 2)
        assert state_of(tmp_path, name) == "stopped"
    (line,) = [line for line in training.text.splitlines() if line.startswith("go on with: ")]
    assert line.count(" -- ") == 2
    finish(tmp_path)
    assert_same(tmp_path, undisturbed)


STEPS = {
    "checkpoint": "lowrank.training.member.Member._save",
    "record": "lowrank.runs.writer.Record.append",
    "log": "lowrank.training.member.Member._log",
}


@pytest.mark.parametrize("member", range(3))
@pytest.mark.parametrize("what", STEPS)
def test_a_kill_before(what, member, tmp_path, undisturbed):
    """Members then stand in different epochs: some have recorded this one, some not."""
    training = start(tmp_path, prepare=faults.kill_at(STEPS[what], 2 * 3 + member + 1))
    assert training.wait() == -signal.SIGKILL, training.text
    recorded = [1 + (index < member + (what == "log")) for index in range(3)]
    assert [last_epoch(tmp_path / "runs" / name) for name in IDS] == recorded
    finish(tmp_path)
    assert_same(tmp_path, undisturbed)


def test_members_that_stand_in_different_epochs_may_be_killed_again(tmp_path, undisturbed):
    for moment in (
        faults.kill_at(STEPS["record"], 8),
        faults.kill_at("lowrank.training.console.Console.stepped", 3),
        faults.kill_at("lowrank.training.console.Console.stepped", 6, number=signal.SIGTERM),
        faults.kill_at(STEPS["log"], 2),
        faults.kill_at(STEPS["checkpoint"], 2),
    ):
        assert start(tmp_path, prepare=moment).wait() in (-signal.SIGKILL, 143)
    finish(tmp_path)
    assert_same(tmp_path, undisturbed)


@pytest.mark.parametrize(
    "every", [pytest.param(1, marks=pytest.mark.slow), 3], ids="checkpoint_every={}".format
)
def test_kills_at_random_moments_lose_no_record_of_any_member(tmp_path, every):
    flags = ("--epochs=60", f"--checkpoint_every={every}")
    (tmp_path / "whole").mkdir()
    undisturbed = start(tmp_path / "whole", *flags)
    choose = random.Random(every)
    before = [-1] * 3
    for _ in range(6):
        training = start(tmp_path, *flags)
        training.wait_for_epoch(before[0] + 2, tmp_path / "runs/a")
        time.sleep(choose.uniform(0, 0.1))
        training.kill()
        reached = [last_epoch(tmp_path / "runs" / name) for name in IDS]
        assert all(now >= then for now, then in zip(reached, before, strict=True))
        assert "Traceback" not in training.text
        before = reached
    assert undisturbed.wait() == 0, undisturbed.text
    finish(tmp_path, *flags)
    assert_same(tmp_path, tmp_path / "whole")


# -- One member ends and the others go on


COLLAPSING = ("--lr=0.999", "--weight_decay=1")
DYING = ("--lr=1e-9", "--weight_decay=0")


@pytest.mark.parametrize(("own", "last"), [(COLLAPSING, 1), (DYING, 2)], ids=["collapsed", "dead"])
def test_a_member_that_a_rule_ends_changes_no_bit_of_the_others(tmp_path, own, last):
    flags = {"own": {"b": own}}
    go_on = (f"--batch_norm={own is DYING}", "--batch_size=8")
    stop = (*go_on, "--on_collapse=stop")
    for place in ("whole", "ended", "killed"):
        (tmp_path / place).mkdir()
    finish(tmp_path / "whole", *go_on, **flags)
    text = finish(tmp_path / "ended", *stop, **flags)
    assert "b: no rank any more: " in text
    # Killed when b has ended: it takes part as a ghost.
    moment = faults.kill_at(STEPS["log"], 3 * (last + 1) + 4)
    killed = start(tmp_path / "killed", *stop, prepare=moment, **flags)
    assert killed.wait() == -signal.SIGKILL, killed.text
    assert state_of(tmp_path / "killed", "b") == "collapsed"
    text = finish(tmp_path / "killed", *stop, **flags)
    assert "run b has ended, nothing is left to do" in text
    assert "last bits" not in text
    for place in ("ended", "killed"):
        directory = tmp_path / place
        assert [state_of(directory, n) for n in IDS] == ["finished", "collapsed", "finished"]
        assert last_epoch(directory / "runs/b") == last
        whole = tmp_path / "whole/runs"
        for name in "ac":
            assert differences(directory / "runs" / name, whole / name) == []
        assert differences(directory / "runs/b", whole / "b", last + 1) == []


def test_a_signal_to_one_member_ends_it_at_once_and_the_others_go_on(
    tmp_path, undisturbed, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    steps, ended = [], []

    def asked():
        steps.append(1)
        return int(signal.SIGINT) if len(steps) == 7 else None

    def requests(**of_b):
        return [
            Request(
                parse(of_member(name), {}),
                of_member(name),
                ended=lambda code, name=name: ended.append((name, code)),
                **(of_b if name == "b" else {}),
            )
            for name in IDS
        ]

    assert train(requests(signal=asked)) == [0, 130, 0]
    assert ended == [("b", 130), ("a", 0), ("c", 0)], "told at once"
    out = capsys.readouterr().out
    assert "b: SIGINT: saved epoch 1, step 3" in out
    assert "runs a c finished: runs/a runs/c\nrun b stopped: runs/b\n" in out
    assert [state_of(tmp_path, name) for name in IDS] == ["finished", "stopped", "finished"]
    state = checkpoints.load(tmp_path / "runs/b/checkpoint.pt")
    assert (state["epoch"], state["step"]) == (1, 3)
    assert_same(tmp_path, undisturbed, "ac")
    assert train(requests()) == [0, 0, 0]
    assert "last bits" not in capsys.readouterr().out
    assert_same(tmp_path, undisturbed)


# -- What is deleted or wrong


def test_a_pack_whose_members_were_partly_deleted_goes_on_and_says_that_bits_may_differ(tmp_path):
    moment = faults.kill_at(STEPS["log"], 5)
    assert start(tmp_path, prepare=moment).wait() == -signal.SIGKILL
    shutil.rmtree(tmp_path / "runs/b")
    text = finish(tmp_path, ids="ac")
    (line,) = [line for line in text.splitlines() if "last bits" in line]
    assert line == (
        "trained together before: a b c; now: a c: from here on numbers may differ in their last "
        "bits"
    )
    for name in "ac":
        assert lowrank.load_run(tmp_path / "runs" / name).epochs.tolist() == [0, 1, 2, 3, 4]
    assert "last bits" not in finish(tmp_path, "--epochs=5", "--schedule=constant", ids="b")


def test_a_member_that_begins_anew_is_no_other_pack(tmp_path, undisturbed):
    moment = faults.kill_at(STEPS["log"], 5)
    assert start(tmp_path, prepare=moment).wait() == -signal.SIGKILL
    shutil.rmtree(tmp_path / "runs/b")
    assert "last bits" not in finish(tmp_path)
    assert_same(tmp_path, undisturbed)


def test_a_member_with_another_configuration_is_told_of_and_the_others_train(tmp_path):
    moment = faults.kill_at(STEPS["log"], 5)
    assert start(tmp_path, prepare=moment).wait() == -signal.SIGKILL
    training = start(tmp_path, own={"b": ("--lr=0.3",)})
    assert training.wait() == 2, training.text
    assert "b: run b was started with lr=0.2, not 0.3; a changed run needs" in training.text
    assert [state_of(tmp_path, name) for name in IDS] == ["finished", "killed", "finished"]


def test_members_with_unusable_checkpoints_change_no_bit_of_the_others(tmp_path, undisturbed):
    moment = faults.kill_at(STEPS["log"], 5)
    assert start(tmp_path, prepare=moment).wait() == -signal.SIGKILL
    paths = [tmp_path / f"runs/{name}/checkpoint.pt" for name in "bc"]
    whole = [path.read_bytes() for path in paths]
    paths[0].write_bytes(whole[0][:-200])
    state = checkpoints.load(paths[1])
    weight = state["model"]["classifier.weight"]
    state["model"]["classifier.weight"] = torch.cat([weight, weight])
    checkpoints.save(paths[1], state)
    training = start(tmp_path)
    assert training.wait() == 2, training.text
    assert "b: runs/b/checkpoint.pt: the checkpoint is truncated" in training.text
    assert "c: runs/c/checkpoint.pt is of another network than model=mlp" in training.text
    assert "Traceback" not in training.text
    assert_same(tmp_path, undisturbed, "a")
    assert [last_epoch(tmp_path / "runs" / name) for name in "bc"] == [1, 0]
    for path, contents in zip(paths, whole, strict=True):
        path.write_bytes(contents)
    finish(tmp_path)
    assert_same(tmp_path, undisturbed)


def test_where_no_member_can_begin_each_is_told_of(tmp_path):
    moment = faults.kill_at(STEPS["log"], 5)
    assert start(tmp_path, prepare=moment).wait() == -signal.SIGKILL
    for name in IDS:
        (tmp_path / f"runs/{name}/checkpoint.pt").write_bytes(b"nothing")
    training = start(tmp_path)
    assert training.wait() == 2, training.text
    told = [line[0] for line in training.text.splitlines() if "the checkpoint is truncated" in line]
    assert told == list(IDS)


def test_a_member_that_cannot_begin_leaves_no_directory_behind(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "1")
    from lowrank.tracking.tracker import TrackingError
    from lowrank.training import member

    begin = member.start_tracking

    def refuse(*arguments, run_id, **options):
        if run_id == "b":
            raise TrackingError("W&B could not start the run: no")
        return begin(*arguments, run_id=run_id, **options)

    monkeypatch.setattr(member, "start_tracking", refuse)
    assert main(words()) == 1
    assert "b: W&B could not start the run: no\n" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["a", "c"]


# -- What goes wrong beside the training


class Closing:
    """Stands in for a run whose end waits for W&B, until those of all are waited for."""

    def __init__(self, all_of_them, error=None):
        self.all_of_them, self.error = all_of_them, error

    def __exit__(self, *error):
        self.all_of_them.wait(20)
        if self.error:
            raise self.error


def test_the_ends_of_a_packs_runs_are_waited_for_together_and_an_error_is_told():
    waiting = threading.Barrier(3)
    close_all([Closing(waiting) for _ in IDS])
    with pytest.raises(Failure, match="the disk is full"):
        close_all(
            [Closing(waiting), Closing(waiting, Failure("the disk is full")), Closing(waiting)]
        )


@pytest.mark.slow
def test_a_server_that_fails_for_ever_takes_from_no_member_its_end(
    wandb_server, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    flags = ("--tracking=online", "--project=ranks", "--epochs=60")
    training = start(tmp_path, *flags, prepare=faults.give_up_early)
    for name in IDS:
        training.wait_for_epoch(3, tmp_path / "runs" / name)
    training.signal(signal.SIGSTOP)  # else a fast machine could be done before the outage
    wandb_server.wait_until(lambda: all(run.history for run in wandb_server.runs))
    with wandb_server.outage("hang"):
        training.signal(signal.SIGCONT)
        assert training.wait() == 0, training.text
    assert training.text.count("W&B did not take everything in time") == len(IDS)
    assert [state_of(tmp_path, name) for name in IDS] == ["finished"] * len(IDS)
    assert lowrank_command(["sync", *(f"runs/{name}" for name in IDS)]) == 0
    for name in IDS:
        run = wandb_server.run(name)
        assert ({row["_step"] for row in run.history}, run.state) == (set(range(61)), "finished")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The working directory of each run alone."""
    directory = tmp_path_factory.mktemp("alone")
    finish(directory, ids="a")
    return directory


@pytest.fixture(params=["a", IDS], ids=["a run", "a pack"])
def ids(request):
    """Whether a run is alone."""
    return request.param


@pytest.fixture
def expected(ids, alone, undisturbed):
    """What would have been."""
    return alone if ids == "a" else undisturbed


def told(training, code):
    """Waits for its end; returns the one line of the error."""
    assert training.wait(60) == code, training.text
    assert "Traceback" not in training.text
    (line,) = [line for line in training.text.splitlines() if line.startswith("train.py: ")]
    return line


def test_a_full_disk_ends_the_run_with_its_line(tmp_path, ids):
    flags = ("--epochs=60",)
    limit = partial(faults.limit_file_size, 80_000)
    line = told(start(tmp_path, *flags, ids=ids, prepare=limit), 1)
    assert "record.sqlite: cannot be written" in line
    assert 0 < last_epoch(tmp_path / "runs/a") < 60
    finish(tmp_path, *flags, ids=ids)
    (tmp_path / "whole").mkdir()
    finish(tmp_path / "whole", *flags, ids=ids)
    assert_same(tmp_path, tmp_path / "whole", ids)


@pytest.mark.parametrize("call", [1, 3, EPOCHS + 1], ids="epoch {}".format)
def test_memory_that_runs_out_in_measuring_ends_the_run_with_its_line(
    tmp_path, ids, expected, call
):
    moment = faults.fail_at("lowrank.training.trainer.measure_all", call, MemoryError())
    line = told(start(tmp_path, ids=ids, prepare=moment), 1)
    assert line.startswith("train.py: out of memory: ")
    assert {state_of(tmp_path, name) for name in ids} == {"failed"}
    assert last_epoch(tmp_path / "runs/a") == call - 2
    finish(tmp_path, ids=ids)
    assert_same(tmp_path, expected, ids)


def test_a_training_that_fails_takes_nothing_from_the_record_of_the_epoch_before(tmp_path, ids):
    moments = (
        faults.sleep_at("lowrank.training.trainer.measure_all", 2, 2.0),
        faults.fail_at("lowrank.training.console.Console.stepped", 7, MemoryError()),
    )
    line = told(start(tmp_path, ids=ids, prepare=partial(faults.both, *moments)), 1)
    assert line.startswith("train.py: out of memory: ")
    assert {last_epoch(tmp_path / "runs" / name) for name in ids} == {1}


@pytest.mark.parametrize("signals", [1, 2])
def test_ctrl_c_waits_for_what_is_written_and_a_second_one_for_no_more_of_it(
    tmp_path, ids, expected, signals
):
    moment = faults.sleep_at("lowrank.training.trainer.measure_all", 2, 2.0)
    training = start(tmp_path, ids=ids, prepare=moment)
    wait_until((tmp_path / "asleep").exists, pause=0.01)
    for _ in range(signals):
        time.sleep(0.5)
        training.signal(signal.SIGINT)
    assert training.wait(60) == 130, training.text
    assert "Traceback" not in training.text
    reached = {last_epoch(tmp_path / "runs" / name) for name in ids}
    assert reached == ({1} if signals == 1 else {0})
    assert {state_of(tmp_path, name) for name in ids} == {"stopped"}
    finish(tmp_path, ids=ids)
    assert_same(tmp_path, expected, ids)


def test_a_stored_configuration_of_a_member_repeats_it_alone_as_a_new_run(undisturbed, tmp_path):
    stored = undisturbed / "runs/b/config.yaml"
    assert "pack" not in yaml.safe_load(stored.read_text())
    training = Training(tmp_path, "--config", str(stored), "--run_id=again")
    assert training.wait() == 0, training.text
    one, two = (lowrank.load_run(d) for d in (stored.parent, tmp_path / "runs/again"))
    assert one.metrics["test_loss"] == pytest.approx(two.metrics["test_loss"], rel=0.2)
    assert Path(stored).exists()
