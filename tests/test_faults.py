"""Every fault that a training must survive, each caused for real, in a process of its own.

After each one nothing recorded is lost, the exit code is the documented one, a line says what to
do, and after that the run ends bit for bit as the undisturbed one did. Kills are SIGKILL, disks a
small tmpfs, the W&B server one on the loopback interface with the real client. What a single
module makes of a damaged file, value by value, is tested beside it; ``make soak`` repeats kills
and outages for as long as one likes. Run with ``pytest tests/test_faults.py``.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import lowrank
from lowrank.runs import checkpoints
from lowrank.runs.checkpoints import CheckpointError
from lowrank.runs.format import SCHEMA_VERSION, RecordError
from tests import faults
from tests.running import MEASURED, TINY, Training, differences, last_epoch
from tests.segments import inspect, segments
from tests.test_train import assert_each_epoch_once
from tests.tracking.test_online import assert_arrived, sync, wait_for_row

EPOCHS = 4


def start(directory: Path, *flags: str, prepare=None) -> Training:
    """Starts a small run, by default without tracking; flags come instead of equal ones."""
    names = {flag.partition("=")[0] for flag in flags}
    usual = (*TINY, *MEASURED, f"--epochs={EPOCHS}", "--run_id=a", "--tracking=disabled")
    kept = [flag for flag in usual if flag.partition("=")[0] not in names]
    return Training(directory, *kept, *flags, prepare=prepare)


def finish(directory: Path, *flags: str) -> str:
    """Runs a small training to its end; returns what it printed."""
    training = start(directory, *flags)
    assert training.wait() == 0, training.text
    return training.text


def refused(training: Training, code: int, *parts: str) -> None:
    """Waits for its end with an exit code and one line that holds the parts, without traceback."""
    assert training.wait() == code, training.text
    (line,) = [line for line in training.text.splitlines() if line.startswith("train.py: ")]
    assert all(part in line for part in parts), line
    assert "Traceback" not in training.text


def contents(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of a small run that met no fault."""
    directory = tmp_path_factory.mktemp("undisturbed")
    finish(directory)
    return directory / "runs/a"


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """The directory of the same run, killed after its third epoch."""
    training = start(tmp_path, prepare=faults.kill_at("lowrank.training.member.Member._log", 3))
    assert training.wait() == -signal.SIGKILL, training.text
    assert last_epoch(tmp_path / "runs/a") == 2
    return tmp_path / "runs/a"


# -- SIGKILL


@pytest.mark.slow
def test_50_kills_in_a_row_at_random_moments_end_as_the_undisturbed_run(tmp_path):
    flags = ("--epochs=300", "--momentum=0.9")
    undisturbed = start(tmp_path, *flags, "--run_id=b")
    choose = random.Random(0)
    run = tmp_path / "runs/a"
    (tmp_path / "killed").mkdir()
    half = dict.fromkeys(("checkpoint.pt.new", "record.sqlite-journal"), 0)
    starting = 1.0
    for kill in range(50):
        before, began = last_epoch(run), time.monotonic()
        training = Training(tmp_path / "killed", *TINY, *MEASURED, *flags, "--run_id=a",
            f"--output_dir={tmp_path / 'runs'}", "--tracking=disabled")  # fmt: skip
        if kill % 5 == 4:  # while it starts
            time.sleep(choose.uniform(0, starting))
        else:
            training.wait_for_epoch(before + 1, run)
            starting, began = time.monotonic() - began, time.monotonic()
            training.wait_for_epoch(before + 2, run)
            time.sleep(choose.uniform(0, time.monotonic() - began))
        assert not training.ended(), training.text
        training.kill()
        for name in half:
            half[name] += (run / name).exists()
        assert before <= last_epoch(run), "nothing recorded is lost"
        assert "Traceback" not in training.text
    assert undisturbed.wait() == 0, undisturbed.text
    assert last_epoch(run) < 300
    assert differences(run, tmp_path / "runs/b", last_epoch(run) + 1) == []
    finish(tmp_path, *flags)
    assert differences(run, tmp_path / "runs/b") == []
    states = [checkpoints.load(tmp_path / f"runs/{name}/checkpoint.pt") for name in "ab"]
    for name, weights in states[0]["model"].items():
        assert torch.equal(weights, states[1]["model"][name]), name
    assert sum(half.values()), "at least one kill fell into the writing of a file"


KILLS = {
    "the configuration is written": faults.kill_at("lowrank.common.files.os.fsync", 1),
    "the record is made": faults.kill_at("lowrank.runs.writer._add_session", 1, after=True),
    "half of a checkpoint is written": faults.half_written_at(3),
    "a checkpoint is written but not in place": faults.kill_at(
        "lowrank.runs.checkpoints.os.fsync", 5
    ),
    "a checkpoint is there but its epoch is not recorded": faults.kill_at(
        "lowrank.runs.writer.Record.append", 3
    ),
    "an epoch is recorded but not committed": faults.kill_at(
        "lowrank.runs.writer._write_index", 4, after=True
    ),
    "an epoch is recorded but not logged": faults.kill_at("lowrank.training.member.Member._log", 3),
    "the last checkpoint is reduced": faults.half_written_at(EPOCHS + 2),
}


@pytest.mark.parametrize("moment", KILLS)
def test_a_kill_while(moment, tmp_path, undisturbed):
    training = start(tmp_path, prepare=KILLS[moment])
    assert training.wait() == -signal.SIGKILL, training.text
    finish(tmp_path)
    assert differences(tmp_path / "runs/a", undisturbed) == []
    left = {entry.name for entry in (tmp_path / "runs/a").iterdir()}
    if moment == "the last checkpoint is reduced":  # the run had ended, and is left as it is
        left.remove("checkpoint.pt.new")
    assert left == {".lock", "checkpoint.pt", "config.yaml", "record.sqlite"}
    checkpoints.load(tmp_path / "runs/a/checkpoint.pt")


def test_a_kill_between_checkpoint_and_record_loses_no_row_of_wandb_either(tmp_path):
    flags = ("--batch_norm=False", "--lr=1e-9", "--epochs=5")  # it dies at its third measurement
    moment = faults.kill_at("lowrank.runs.writer.Record.append", 4)
    training = start(tmp_path, *flags, "--tracking=offline", prepare=moment)
    assert training.wait() == -signal.SIGKILL, training.text
    assert checkpoints.load(tmp_path / "runs/a/checkpoint.pt")["epoch"] == 3
    assert last_epoch(tmp_path / "runs/a") == 2
    finish(tmp_path, *flags, "--tracking=offline")
    finish(tmp_path, *flags, "--run_id=b")
    assert lowrank.load_run(tmp_path / "runs/a").metrics["dead"].tolist() == [0, 0, 1, 1, 1, 1]
    assert differences(tmp_path / "runs/a", tmp_path / "runs/b") == []
    assert_each_epoch_once(tmp_path / "runs/a")


def test_a_stop_while_an_epoch_is_evaluated_that_the_record_has_already(tmp_path):
    flags = ("--batch_norm=False", "--lr=1e-9", "--epochs=5")  # it dies at its third measurement
    often = (*flags, "--checkpoint_every=4")
    killed = faults.kill_at("lowrank.runs.writer.Record.append", 4)
    assert start(tmp_path, *often, prepare=killed).wait() == -signal.SIGKILL
    assert last_epoch(tmp_path / "runs/a") == 2
    moment = "lowrank.training.learner.Learner.evaluate"
    stopped = start(tmp_path, *often, prepare=faults.kill_at(moment, 1, number=signal.SIGTERM))
    assert stopped.wait() == 143, stopped.text
    assert "saved epoch 1, step 0" in stopped.text
    finish(tmp_path, *often)
    finish(tmp_path, *often, "--run_id=b")
    assert lowrank.load_run(tmp_path / "runs/a").metrics["dead"].tolist() == [0, 0, 1, 1, 1, 1]
    assert differences(tmp_path / "runs/a", tmp_path / "runs/b") == []


MOMENTS = {
    "before": faults.kill_at("lowrank.tracking.tracker.WandbTracker._upload", 1),
    "while": faults.kill_at("lowrank.tracking.tracker.WandbTracker._upload", 1, after=True),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_while_the_artifact_is_uploaded(wandb_server, online, tmp_path, moment):
    training = online(prepare=MOMENTS[moment])
    assert training.wait() == -signal.SIGKILL, training.text
    assert lowrank.load_run(tmp_path / "runs/a").state == "finished"
    flags = ("--tracking=online", "--project=ranks")
    assert "W&B does not have the end of the run yet" in finish(tmp_path, *flags)
    run, _ = assert_arrived(wandb_server, tmp_path / "runs/a")
    assert run.state == "finished"
    assert "rank_heatmap" in run.history[-1]
    assert finish(tmp_path, *flags).startswith("run a has ended, nothing is left to do")


def test_a_kill_while_the_artifact_is_written_offline(tmp_path):
    training = start(tmp_path, "--tracking=offline", prepare=MOMENTS["before"])
    assert training.wait() == -signal.SIGKILL, training.text
    finish(tmp_path, "--tracking=offline")
    assert_each_epoch_once(tmp_path / "runs/a")
    last = segments(tmp_path / "runs/a")[-1]
    assert {"files", "exit"} <= {line["type"] for line in inspect(last)}


# -- The disk


@pytest.mark.parametrize(
    ("file", "leave"),
    [("checkpoint.pt", 100_000), ("record.sqlite", 0)],
    ids=["checkpoint", "record"],
)
def test_a_disk_that_is_full_for_the(file, leave, tmp_path):
    disk = tmp_path / "disk"
    with faults.mounted(disk, "2m"):
        flags = (f"--output_dir={disk}", "--width=128")  # a checkpoint of a quarter of a megabyte
        finish(tmp_path, *flags, "--epochs=2")
        filler = faults.fill(disk, leave)
        for _ in range(2):
            refused(
                start(tmp_path, *flags), 1, f"{disk / 'a' / file}: ", "cannot be written",
                "MiB are free there; make room", "start the same command again",
            )  # fmt: skip
            assert last_epoch(disk / "a") == 2, "nothing recorded is lost"
        filler.unlink()
        finish(tmp_path, *flags)
        finish(tmp_path, *flags, "--run_id=b")
        assert differences(disk / "a", disk / "b") == []


def test_a_disk_that_runs_full_during_a_run(tmp_path):
    """Where there is no root either: a limit of the file size, which the record meets."""
    limit = partial(faults.limit_file_size, 80_000)
    training = start(tmp_path, "--epochs=60", prepare=limit)
    refused(training, 1, "record.sqlite: cannot be written", "start the same command again")
    recorded = last_epoch(tmp_path / "runs/a")
    assert 0 < recorded < 60
    finish(tmp_path, "--epochs=60")
    finish(tmp_path, "--epochs=60", "--run_id=b")
    assert differences(tmp_path / "runs/a", tmp_path / "runs/b") == []


@pytest.mark.parametrize("tracking", ["disabled", "offline"])
def test_a_disk_that_is_full_before_a_run_begins(tmp_path, undisturbed, tracking):
    disk = tmp_path / "disk"
    with faults.mounted(disk, "4m"):
        flags = (f"--output_dir={disk}", f"--tracking={tracking}")
        filler = faults.fill(disk, 0)
        refused(start(tmp_path, *flags), 1, f"{disk / 'a'}", "cannot be written", "make room")
        assert not (disk / "a").exists()
        filler.unlink()
        finish(tmp_path, *flags)
        assert differences(disk / "a", undisturbed) == []


@pytest.mark.parametrize(
    "leave",
    [20_000, *(pytest.param(n, marks=pytest.mark.slow) for n in (100_000, 150_000))],
    ids="{} bytes are left".format,
)
def test_a_disk_that_fills_under_wandbs_own_files(tmp_path, leave):
    disk = tmp_path / "disk"
    with faults.mounted(disk, "4m"):
        filler = faults.fill(disk, leave)
        flags = (f"--output_dir={disk}", "--tracking=offline", "--epochs=6", "--width=8")
        training = start(tmp_path, *flags)
        assert training.wait() == 1, training.text
        assert "No space left on device" in training.text or "MiB are free there" in training.text
        for word in ("Traceback", "Logging error", "wandb sync"):
            assert word not in training.text
        filler.unlink()
        finish(tmp_path, *flags)
        finish(tmp_path, *flags, "--run_id=b")
        assert differences(disk / "a", disk / "b") == []


def test_an_output_directory_that_is_read_only(tmp_path, undisturbed):
    disk = tmp_path / "disk"
    with faults.mounted(disk, "1m"):
        place = f"--output_dir={disk}"
        finish(tmp_path, place, "--epochs=2")
        before = contents(disk)
        faults.remount(disk, "ro")
        for run_id in "ab":  # an old and a new run
            refused(
                start(tmp_path, place, f"--run_id={run_id}"), 2,
                f"{disk / run_id}: cannot be written to (Read-only file system)",
                "give write access and start the same command again, or choose another output_dir",
            )  # fmt: skip
        assert contents(disk) == before
        assert lowrank.load_run(disk / "a").epochs.tolist() == [0, 1, 2]
        faults.remount(disk, "rw")
        finish(tmp_path, place)
        assert differences(disk / "a", undisturbed) == []


# -- Checkpoint and record: truncated, bit-flipped, from another model, from a newer version


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3)


def flip_in_the_middle(path: Path) -> None:
    faults.flip(path, path.stat().st_size * 4)


def from_another_model(path: Path) -> None:
    finish(path.parents[2], "--width=8", "--run_id=other")
    shutil.copy(path.parents[1] / "other" / path.name, path)


def from_another_seed(path: Path) -> None:
    finish(path.parents[2], "--seed=7", "--run_id=other")
    shutil.copy(path.parents[1] / "other" / path.name, path)


def from_a_newer_version(path: Path) -> None:
    if path.suffix == ".pt":
        path.write_bytes(path.read_bytes().replace(b"checkpoint 001", b"checkpoint 002"))
    else:
        database = sqlite3.connect(path)
        database.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
        database.close()


SPOILED = {
    "truncated": (truncate, {"checkpoint.pt": "truncated", "record.sqlite": "damaged"}),
    "bit-flipped": (flip_in_the_middle, {"checkpoint.pt": "the checkpoint is damaged"}),
    "from another model": (from_another_model, dict.fromkeys(
        ("checkpoint.pt", "record.sqlite"), "is of another run, with width=8: "
    )),
    "from another seed": (from_another_seed, dict.fromkeys(
        ("checkpoint.pt", "record.sqlite"), "is of another run, with seed=7: "
    )),
    "from a newer version": (from_a_newer_version, dict.fromkeys(
        ("checkpoint.pt", "record.sqlite"), "was written by a newer lowrank"
    )),
}  # fmt: skip


@pytest.mark.parametrize(
    ("file", "kind"), [(file, kind) for kind in SPOILED for file in SPOILED[kind][1]]
)
def test_a_file_that_is_spoiled(file, kind, begun, undisturbed):
    change, messages = SPOILED[kind]
    original = (begun / file).read_bytes()
    change(begun / file)
    before = contents(begun)
    refused(start(begun.parents[1]), 2, f"runs/a/{file}", messages[file])
    assert contents(begun) == before, "nothing was touched"
    if file == "checkpoint.pt" and kind != "from a newer version":
        (begun / file).unlink()  # as the line advises: trained again from epoch 0
    else:
        (begun / file).write_bytes(original)
    finish(begun.parents[1])
    assert differences(begun, undisturbed) == []


ANY_BIT = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@ANY_BIT
@given(position=st.floats(0, 1, exclude_max=True))
def test_any_flipped_bit_of_a_checkpoint_is_noticed(tmp_path, undisturbed, position):
    path = Path(shutil.copy(undisturbed / "checkpoint.pt", tmp_path))
    faults.flip(path, int(position * 8 * path.stat().st_size))
    with pytest.raises(CheckpointError, match=r"damaged|truncated|newer"):
        checkpoints.load(path)


@ANY_BIT
@given(share=st.floats(0, 1, exclude_max=True))
def test_any_truncation_of_a_checkpoint_is_noticed(tmp_path, undisturbed, share):
    path = Path(shutil.copy(undisturbed / "checkpoint.pt", tmp_path))
    os.truncate(path, int(share * path.stat().st_size))
    with pytest.raises(CheckpointError, match="truncated"):
        checkpoints.load(path)


def unharmed(path: Path, undisturbed: Path) -> bool:
    """Returns whether a record holds what it held; False where it says that it is damaged."""
    try:
        run = lowrank.load_run(path)
        assert run.sessions == lowrank.load_run(undisturbed).sessions
        assert run.config == lowrank.load_run(undisturbed).config
        assert differences(path, undisturbed) == []
    except RecordError:
        return False
    return True


@ANY_BIT
@given(position=st.floats(0, 1, exclude_max=True))
def test_any_flipped_bit_of_a_record_is_noticed_or_harmless(tmp_path, undisturbed, position):
    path = Path(shutil.copy(undisturbed / "record.sqlite", tmp_path))
    faults.flip(path, int(position * 8 * path.stat().st_size))
    unharmed(path, undisturbed)


@ANY_BIT
@given(share=st.floats(0, 1, exclude_max=True))
def test_any_truncation_of_a_record_is_noticed(tmp_path, undisturbed, share):
    path = Path(shutil.copy(undisturbed / "record.sqlite", tmp_path))
    os.truncate(path, int(share * path.stat().st_size))
    assert not unharmed(path, undisturbed)


# -- The W&B server


@pytest.fixture
def online(wandb_server, tmp_path):
    """Starts a small online run."""
    del wandb_server  # its address is in the environment
    return partial(start, tmp_path, "--tracking=online", "--project=ranks")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["refuse", "hang", 500], ids=str)
def test_a_server_that_fails_for_a_while(wandb_server, online, tmp_path, kind):
    training = online("--epochs=400")
    training.wait_for_epoch(3, tmp_path / "runs/a")
    training.signal(signal.SIGSTOP)  # else a fast machine could be done before the outage
    wait_for_row(wandb_server, 2)
    with wandb_server.outage(kind) as fault:
        training.signal(signal.SIGCONT)
        fault.over.wait(10)
    assert training.wait() == 0, training.text
    run, _ = assert_arrived(wandb_server, tmp_path / "runs/a")
    assert run.state == "finished"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["refuse", "hang", 500], ids=str)
def test_a_server_that_fails_for_ever(wandb_server, online, tmp_path, kind):
    training = online("--epochs=60", prepare=faults.give_up_early)
    training.wait_for_epoch(3, tmp_path / "runs/a")
    training.signal(signal.SIGSTOP)
    wait_for_row(wandb_server, 2)
    with wandb_server.outage(kind):
        training.signal(signal.SIGCONT)
        assert training.wait() == 0, training.text
    assert "W&B did not take everything in time" in training.text
    assert lowrank.load_run(tmp_path / "runs/a").epochs.tolist() == list(range(61))


REFUSED = {
    "rows": ("file_stream", "failed to upload: 404 Not Found"),
    "record": ("CommitArtifact", "ArtifactSaver"),
}


@pytest.mark.parametrize(("where", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_server_that_answers_404_for_ever(
    wandb_server, online, tmp_path, monkeypatch, where, reason
):
    monkeypatch.chdir(tmp_path)
    training = online("--epochs=2")
    with wandb_server.outage(404, where):
        assert training.wait() == 0, training.text
    assert f"W&B did not take everything ({reason}" in training.text
    assert lowrank.load_run(tmp_path / "runs/a").state == "finished"
    assert wandb_server.artifacts("a") == [] or wandb_server.run("a").history == []
    sync(training.text, tmp_path)
    run = wandb_server.run("a")
    assert {row["_step"] for row in run.history} == {0, 1, 2}
    assert run.state == "finished"
    record = (tmp_path / "runs/a/record.sqlite").read_bytes()
    assert wandb_server.artifact("run-record-a:latest").files == {"record.sqlite": record}


@pytest.mark.parametrize("kind", ["refuse", "hang", 500, 404], ids=str)
def test_a_server_that_fails_from_the_start(wandb_server, online, tmp_path, monkeypatch, kind):
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "3")
    with wandb_server.outage(kind):
        refused(online(), 1, "W&B could not start the run", "--tracking=offline trains without it")
    assert not (tmp_path / "runs/a/record.sqlite").exists()
    finish(tmp_path, "--tracking=online", "--project=ranks")
    assert_arrived(wandb_server, tmp_path / "runs/a")


# -- Two processes on one run directory


def test_a_second_process_on_a_run_directory(tmp_path, undisturbed):
    first = start(tmp_path)
    first.wait_for_epoch(0, tmp_path / "runs/a")
    first.signal(signal.SIGSTOP)  # it is there as long as it takes, and writes nothing
    try:
        (tmp_path / "second").mkdir()
        place = f"--output_dir={tmp_path / 'runs'}"
        refused(
            start(tmp_path / "second", place), 2,
            "runs/a: another process is already working on this run: wait for it or stop it, "
            "or choose another run_id",
        )  # fmt: skip
    finally:
        first.signal(signal.SIGCONT)
    assert first.wait() == 0, first.text
    assert differences(tmp_path / "runs/a", undisturbed) == []


# -- The data


def test_a_data_set_that_is_half_downloaded(tmp_path):
    (tmp_path / "data").mkdir()
    archive = tmp_path / "data" / "cifar-10-python.tar.gz"
    archive.write_bytes(bytes(5000))
    training = start(tmp_path, "--dataset=cifar10", "--download=False")
    assert training.wait() == 2, training.text
    assert (
        f"train.py: {archive} is incomplete or damaged (5,000 bytes, wrong checksum): delete or "
        "replace it" in training.text
    )
    assert "Traceback" not in training.text
    assert not (tmp_path / "runs/a").exists()


def test_a_data_set_with_corrupt_files(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 6, 5, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        path = tmp_path / "data" / ("train", "test")[number % 2] / "abc"[number % 3]
        path.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path / f"{number}.png")
    broken = tmp_path / "data/train/a/0.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:-40])
    flags = ("--dataset=imagefolder", "--train_size=None", "--batch_size=2", "--data_dir=data")
    training = start(tmp_path, *flags)
    refused(training, 2, "data/train/a/0.png: cannot be decoded")
    broken.write_bytes(whole)
    finish(tmp_path, *flags)


# -- NaN


def test_nan_in_the_data_is_refused_with_the_files_name(tmp_path):
    for number in range(8):
        path = tmp_path / "data" / ("train", "test")[number % 2] / "ab"[number // 4]
        path.mkdir(parents=True, exist_ok=True)
        pixels = np.full((4, 4), np.nan if number == 2 else 0.5, dtype=np.float32)
        Image.fromarray(pixels).save(path / f"{number}.tif")
        if number != 2:
            Image.fromarray(np.full((4, 4), number, np.uint8)).save(path / f"{number}.tif")
    flags = ("--dataset=imagefolder", "--train_size=None", "--batch_size=2", "--data_dir=data")
    refused(start(tmp_path, *flags), 2, "data/train/a/2.tif", "more than 8 bits (mode F)")


def test_nan_in_the_loss_is_recorded_as_collapse(tmp_path):
    finish(tmp_path, "--batch_norm=False", "--lr=1e30", "--weight_decay=0")
    run = lowrank.load_run(tmp_path / "runs/a")
    assert (run.state, run.metrics["collapsed"][-1]) == ("finished", 3)
    assert np.isnan(run.metrics["train_loss"][-1])
    assert np.isnan(run.spectra["linear1"][-1]).all()


@pytest.mark.parametrize(("rule", "state"), [("continue", "finished"), ("stop", "collapsed")])
def test_nan_in_the_weights_has_no_rank(tmp_path, undisturbed, rule, state):
    run_dir, flag = tmp_path / "runs/a", f"--on_collapse={rule}"
    training = start(
        tmp_path, flag, prepare=faults.kill_at("lowrank.training.member.Member._log", 3)
    )
    assert training.wait() == -signal.SIGKILL, training.text
    content = checkpoints.load(run_dir / "checkpoint.pt")
    content["model"]["linear1.weight"][3, 5] = torch.nan
    checkpoints.save(run_dir / "checkpoint.pt", content)
    finish(tmp_path, flag)
    run = lowrank.load_run(run_dir)
    assert (run.state, int(run.epochs[-1])) == (state, EPOCHS if rule == "continue" else 3)
    assert (run.metrics["collapsed"][3:] > 0).all()
    assert np.isnan(run.metrics["rank_mean"][3:]).all()
    assert np.isnan(run.spectra["linear1"][3:]).all()
    assert differences(run_dir, undisturbed, 3) == []


# -- Memory


def test_out_of_memory_names_the_batch_size(tmp_path):
    flags = ("--dataset=synthetic", "--model=convnet", "--width=64", "--train_size=2048")
    limit = partial(faults.limit_memory, 250_000_000)
    training = start(tmp_path, *flags, "--batch_size=2048", prepare=limit)
    refused(
        training, 1, "out of memory: batch_size=2048 does not fit; a smaller batch in a new run"
    )
    assert lowrank.load_run(tmp_path / "runs/a").state == "failed"
