"""The run record against numpy arrays kept in memory, and against faults caused for real.

Killed writers are real processes, full disks a small tmpfs or a limit of the file size.
"""

from __future__ import annotations

import os
import random
import re
import resource
import shutil
import signal
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import filelock  # noqa: F401  # here, for the children to be quick
import numpy as np
import pytest

from lowrank.cli import main
from lowrank.common.errors import Failure, InputError
from lowrank.measure.directions import Directions
from lowrank.measure.layers import Layer
from lowrank.runs.find import Run, find_runs, load_run, load_sweep
from lowrank.runs.format import (
    RECORD_NAME,
    RecordError,
    RecordWriteError,
    fingerprints,
    spectrum_crc,
)
from lowrank.runs.lock import lock
from lowrank.runs.within import Look
from lowrank.runs.writer import Record
from tests.faults import mounted

LAYERS = (
    Layer("stem", "stem", (8, 27), 1024, True),
    Layer("layer1_0_conv1", "layer1.0.conv1", (5, 40), 256, True),
    Layer("head", "head", (3, 8), None, False),
)
ENVIRONMENT = {"commit": "c0ffee", "threads": 1, "diff": "é\0" * 9}
ODD = (0.0, -0.0, 5e-324, -1.5, 0.1, 2.0**53, 1.7976931348623157e308, np.inf, -np.inf, np.nan)


def create(directory: Path, **config: object) -> Record:
    directory.mkdir(parents=True, exist_ok=True)
    return Record.create(
        directory / RECORD_NAME,
        run_id=directory.name,
        config={"lr": 0.1, **config},
        environment=ENVIRONMENT,
        layers=LAYERS,
    )


def metrics_of(epoch: int) -> dict[str, float]:
    """What the tests log: a function of the epoch, so that any reader knows the truth."""
    values = np.random.default_rng(epoch).normal(size=40)
    return {f"rank/{i}": float(value) for i, value in enumerate(values)} | {"epoch": epoch}


def spectra_of(epoch: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([epoch, 1])
    return {layer.name: rng.normal(size=min(layer.shape)) for layer in LAYERS}


def filled(directory: Path, epochs: int, state: str = "finished") -> Path:
    with create(directory) as record:
        for epoch in range(epochs):
            record.append(epoch, metrics_of(epoch), spectra_of(epoch))
        record.set_state(state)
    return record.path


def check(run: Run, epochs: int) -> None:
    """Everything of the run's epochs is bit for bit what was recorded."""
    assert run.epochs.tolist() == list(range(epochs))
    assert (run.config, run.layers, run.sessions[0]["environment"]) == (
        {"lr": 0.1},
        LAYERS,
        ENVIRONMENT,
    )
    expected = [metrics_of(epoch) for epoch in range(epochs)]
    assert set(run.metrics) == (set(metrics_of(0)) if epochs else set())
    for name, values in run.metrics.items():
        assert values.tolist() == [row[name] for row in expected]
    for layer in LAYERS:
        values = run.spectra[layer.name]
        assert values.shape == (epochs, min(layer.shape))
        assert values.tobytes() == b"".join(
            spectra_of(epoch)[layer.name].tobytes() for epoch in range(epochs)
        )


def child(work: Callable[[], object]) -> int:
    """Runs something in a forked process; returns its id. It ends with code 0 if all went well.

    Nothing here uses torch, whose threads a forked process lacks: it would hang.
    """
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.001)


# ------------------------------------------------------------------------------ what is kept


def test_values_come_back_bit_for_bit(tmp_path):
    with create(tmp_path / "run") as record:
        for epoch, value in enumerate(ODD):
            record.append(epoch, {"odd": value, "int": epoch, f"only/{epoch}": value})
    run = load_run(tmp_path / "run")
    truth = np.array(ODD)
    assert run.metrics["odd"].tobytes() == truth.tobytes()
    assert run.metrics["int"].tolist() == list(range(len(ODD)))
    for epoch, value in enumerate(ODD):
        expected = np.where(np.arange(len(ODD)) == epoch, value, np.nan)
        np.testing.assert_array_equal(run.metrics[f"only/{epoch}"], expected)


def test_spectra_come_back_with_nan_rows_where_not_measured(tmp_path):
    truth = {
        layer.name: np.random.default_rng(7).choice(ODD, size=(2, min(layer.shape)))
        for layer in LAYERS
    }
    with create(tmp_path / "run") as record:
        record.append(0, {"a": 1.0}, {name: values[0] for name, values in truth.items()})
        record.append(1, {"a": 2.0})
        record.append(2, {}, {name: values[1] for name, values in truth.items()})
    run = load_run(tmp_path / "run")
    assert list(run.spectra) == [layer.name for layer in LAYERS]
    for layer in LAYERS:
        k = min(layer.shape)
        values = run.spectra[layer.name]
        assert values.shape == (3, k)
        assert values.dtype == np.float64
        assert np.isnan(values[1]).all()
        assert values[[0, 2]].tobytes() == truth[layer.name].tobytes()
    np.testing.assert_array_equal(run.metrics["a"], [1.0, 2.0, np.nan])


OF_TRAIN_PY = {"model": "mlp", "dataset": "digits"}


def test_a_record_of_an_earlier_version_is_read_without_its_retired_fields(tmp_path):
    create(tmp_path / "run", replicas=1, **OF_TRAIN_PY).close()
    assert load_run(tmp_path / "run").config == {"lr": 0.1, **OF_TRAIN_PY}
    create(tmp_path / "other", replicas=3).close()  # of another loop, where it means anything
    assert load_run(tmp_path / "other").config == {"lr": 0.1, "replicas": 3}


def test_a_record_of_several_networks_is_refused_with_the_commit_that_reads_it(tmp_path, capsys):
    with create(tmp_path / "many", replicas=3, **OF_TRAIN_PY) as record:  # as 0.1.0 once wrote it
        row = {"rank_mean": 2.0, "rank_mean_std": 1.0, "collapsed": 0.0}
        record.append(0, row, spectra_of(0))
        record.set_state("finished")
        for number, layer in enumerate(LAYERS):
            values = np.ones((3, min(layer.shape))).tobytes()
            record._database.execute(
                'UPDATE spectra SET "values" = ?, crc = ? WHERE layer = ?',
                (values, spectrum_crc(0, number, values), number),
            )
    line = (
        f"{tmp_path}/many/record.sqlite: was trained as 3 replicas by an earlier lowrank; the "
        "version c0ffee reads it"
    )
    with pytest.raises(RecordError, match=re.escape(line)):
        load_run(tmp_path / "many")
    filled(tmp_path / "one", 2)
    with pytest.warns(UserWarning, match=re.escape(f"left out: {line}")):
        assert [run.id for run in load_sweep(tmp_path)] == ["one"]
    for command in ("runs", "figures", "report"):
        output = f"--output={tmp_path / 'out'}{'.html' if command == 'report' else ''}"
        main([command, str(tmp_path), *([] if command == "runs" else [output])])
        assert f"left out: {line}" in "".join(capsys.readouterr())


def test_arrays_are_fresh_and_writable(tmp_path):
    run = load_run(filled(tmp_path / "run", 2))
    for read in (lambda: run.metrics["rank/0"], lambda: run.spectra["head"]):
        before = read().tolist()
        read()[:] = 7
        assert read().tolist() == before


def test_many_metrics_are_read_at_once_and_are_the_same(tmp_path):
    run = Run(filled(tmp_path / "run", 5))
    run.preload(["rank/3", "rank/7", "no such metric"])
    moved = run.path.rename(tmp_path / "gone.sqlite")
    kept = run.metrics["rank/3"]
    assert kept.tolist() == [metrics_of(epoch)["rank/3"] for epoch in range(5)]
    kept[0] = 99  # the caller's own
    assert run.metrics["rank/3"][0] == metrics_of(0)["rank/3"]
    with pytest.raises(RecordError):
        run.metrics["rank/4"]  # was not asked for
    moved.rename(run.path)
    assert run.metrics["rank/4"].tolist() == [metrics_of(epoch)["rank/4"] for epoch in range(5)]


def test_spectra_of_some_epochs_are_those_of_all(tmp_path):
    with create(tmp_path / "run") as record:
        for epoch in range(6):
            record.append(epoch, {}, spectra_of(epoch) if epoch != 2 else None)
    run = Run(record.path)
    found = run.spectra_at([4, 0])
    for layer in LAYERS:
        np.testing.assert_array_equal(found[layer.name], run.spectra[layer.name][[4, 0]])
    assert {values.shape for values in run.spectra_at([]).values()} == {(0,)}
    for epoch in (2, 6):
        with pytest.raises(KeyError, match=f"epoch {epoch} of this run was not measured"):
            run.spectra_at([0, epoch])


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE spectra SET crc = crc + 1 WHERE layer = 1",
        'UPDATE spectra SET "values" = 7 WHERE layer = 1',
        "DELETE FROM spectra WHERE layer = 1",
    ],
)
def test_a_damaged_spectrum_is_noticed_among_some(tmp_path, damage):
    path = filled(tmp_path / "run", 3)
    with sqlite3.connect(path) as database:
        database.execute(damage)
    database.close()
    with pytest.raises(RecordError, match="the run record is damaged"):
        Run(path).spectra_at([1])


def test_a_repeated_epoch_replaces_the_first(tmp_path):
    """A resumed run repeats the epochs after its checkpoint; nothing of the first remains."""
    path = filled(tmp_path / "whole", 6)
    with create(tmp_path / "resumed") as record:
        for epoch in range(4):
            spoiled = {f"{name}!" if epoch else name: 0.0 for name in metrics_of(epoch)}
            record.append(epoch, spoiled, None if epoch == 3 else spectra_of(9))
    with Record.open(record.path) as record:
        assert record.last_epoch == 3
        for epoch in range(6):
            record.append(epoch, metrics_of(epoch), spectra_of(epoch))
        record.set_state("finished")
    whole, resumed = load_run(path), load_run(record.path)
    assert set(resumed.metrics) > set(whole.metrics)
    for name in resumed.metrics:
        truth = whole.metrics[name] if name in whole.metrics else np.full(6, np.nan)
        assert resumed.metrics[name].tobytes() == truth.tobytes()
    for name in whole.spectra:
        assert resumed.spectra[name].tobytes() == whole.spectra[name].tobytes()


def test_a_session_changes_the_configuration_and_keeps_earlier_environments(tmp_path):
    path = filled(tmp_path / "run", 2)
    with Record.open(path) as record:
        record.begin_session({"lr": 0.1, "epochs": 9}, {"host": "other"})
    run = load_run(path)
    assert run.config == {"lr": 0.1, "epochs": 9}
    assert run.environment == {"host": "other"}
    assert [session["environment"] for session in run.sessions] == [ENVIRONMENT, {"host": "other"}]
    assert run.state == "killed"  # running, says the record, but nobody holds the directory
    assert run.created < run.sessions[1]["started"] <= run.updated


def test_the_file_is_safe_on_shared_disks(tmp_path):
    path = filled(tmp_path / "run", 1)
    assert path.read_bytes()[18:20] == b"\x01\x01"  # a rollback journal, not WAL
    with Record.open(path) as record:
        assert record._database.execute("PRAGMA synchronous").fetchone() == (2,)
        assert record._database.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    assert sorted(entry.name for entry in path.parent.iterdir()) == [RECORD_NAME]


def test_reading_one_metric_does_not_touch_spectra(tmp_path):
    """Every page that holds spectra is overwritten; only reading spectra notices."""
    path = filled(tmp_path / "run", 3)
    content = bytearray(path.read_bytes())
    for epoch in range(3):
        for values in spectra_of(epoch).values():
            place = content.index(values.tobytes())
            content[place : place + values.nbytes] = bytes(values.nbytes)
    path.write_bytes(content)
    run = load_run(path)
    assert run.metrics["rank/7"].tolist() == [metrics_of(epoch)["rank/7"] for epoch in range(3)]
    with pytest.raises(RecordError, match=r"damaged \(spectrum of stem, epoch 0\)"):
        run.spectra["stem"]


def directions_of(epoch: int, count: int = 2) -> dict[str, Directions]:
    rng = np.random.default_rng([epoch, 2])
    return {
        layer.name: Directions(*(rng.normal(size=(n, count)).astype("f4") for n in layer.shape))
        for layer in LAYERS
    }


def test_directions_are_kept_with_their_epoch_and_verified(tmp_path):
    with create(tmp_path / "run") as record:
        for epoch in (0, 1, 2, 1):  # one of them again
            spectra = spectra_of(epoch) if epoch != 1 else None
            directions = directions_of(epoch) if epoch != 1 else None
            record.append(epoch, metrics_of(epoch), spectra, directions)
    with Record.open(record.path) as record:
        record.append(3, metrics_of(3), spectra_of(3), directions_of(3))
    run = load_run(record.path)
    for layer in LAYERS:
        found = run.directions(layer.name)
        for side in ("left", "right"):
            assert np.isnan(getattr(found, side)[1]).all()
            for epoch in (0, 2, 3):
                assert np.array_equal(
                    getattr(found, side)[epoch], getattr(directions_of(epoch)[layer.name], side)
                )
    content = bytearray(record.path.read_bytes())
    content[content.index(directions_of(2)["stem"].left.tobytes())] ^= 1
    record.path.write_bytes(content)
    with pytest.raises(RecordError, match=r"damaged \(directions of stem, epoch 2\)"):
        run.directions("stem")


def test_measurements_within_epochs_are_kept_with_their_epoch_and_verified(tmp_path):
    with create(tmp_path / "run") as record:
        record.append(0, {}, spectra_of(0))
        record.append(1, {}, None, None, [Look(2, 5, {"a": 0.1}), Look(4, 5, {"a": np.nan})])
        record.append(1, {}, None, None, [Look(2, 5, {"a": 0.2})])  # again
        record.append(2, {}, spectra_of(2))
    early = load_run(record.path)
    with Record.open(record.path) as record:
        record.append(3, {"a": 7.0}, None, None, [Look(3, 4, {"b": -0.0, "a": 0.3})])
    run = load_run(record.path)
    assert run.within.epochs.tolist() == [0.4, 2.75]
    assert run.within.steps.tolist() == [2, 3]
    assert run.within.metrics["a"].tolist() == [0.2, 0.3]
    assert np.isnan(run.within.metrics["b"][0])
    assert run.times.tolist() == [0, 0.4, 1, 2, 2.75, 3]
    assert run.over_time("a")[[1, 4, 5]].tolist() == [0.2, 0.3, 7.0]
    assert early.within.epochs.tolist() == [0.4]  # a snapshot does not grow
    content = bytearray(record.path.read_bytes())
    content[content.index(np.array([0.3, -0.0]).tobytes())] ^= 1
    record.path.write_bytes(content)
    with pytest.raises(RecordError, match=r"damaged \(measurement within epoch 3, step 3\)"):
        assert load_run(record.path).within
    with sqlite3.connect(record.path) as database:
        database.execute("DELETE FROM within WHERE epoch = 3")
    with pytest.raises(RecordError, match=r"damaged \(measurements within epochs are missing\)"):
        assert load_run(record.path).within


def test_a_record_without_directions_has_the_format_of_earlier_versions(tmp_path):
    path = filled(tmp_path / "run", 2)
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (1,)
    run = load_run(path)
    assert not run.has_directions
    with pytest.raises(KeyError, match="no directions of layer 'stem' in this run"):
        run.directions("stem")
    with Record.open(path) as record:
        record.append(2, {}, spectra_of(2), directions_of(2))
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (2,)
        database.execute("DROP TABLE directions")
    with pytest.raises(RecordError, match=r"damaged \(epochs or metrics are not"):
        load_run(path)


@pytest.mark.parametrize(
    ("directions", "message"),
    [
        ({"stem": directions_of(0)["stem"]}, "directions of stem: other layers than measured"),
        (directions_of(0) | {"head": directions_of(0)["stem"]}, "layer 'head' have shapes"),
    ],
    ids=["missing layers", "wrong shape"],
)
def test_directions_of_another_network_are_refused(tmp_path, directions, message):
    with create(tmp_path / "run") as record, pytest.raises(ValueError, match=message):
        record.append(0, {}, spectra_of(0), directions)


@pytest.mark.parametrize(
    ("epoch", "spectra", "message"),
    [
        (-1, None, "Invalid epoch: -1"),
        (0, {"sten": np.ones(8)}, "unknown layer 'sten', did you mean 'stem'"),
        (0, {"stem": np.ones(8)}, "no spectrum of layer 'layer1_0_conv1'"),
        (0, spectra_of(0) | {"head": np.ones(8)}, r"has shape \(8,\), expected \(3,\)"),
        (0, spectra_of(0) | {"head": np.ones((1, 3))}, r"has shape \(1, 3\)"),
    ],
    ids=["negative epoch", "unknown layer", "missing layer", "wrong length", "two dimensions"],
)
def test_wrong_use_is_refused(tmp_path, epoch, spectra, message):
    with create(tmp_path / "run") as record:
        with pytest.raises(ValueError, match=message):
            record.append(epoch, {}, spectra)
        with pytest.raises(ValueError, match="Invalid state: 'done'"):
            record.set_state("done")
    assert len(load_run(record.path).epochs) == 0


def test_an_unknown_name_is_answered_with_the_nearest(tmp_path):
    run = load_run(filled(tmp_path / "run", 1))
    with pytest.raises(KeyError, match="no metric 'rank/77' in this run, did you mean 'rank/7'"):
        run.metrics["rank/77"]
    with pytest.raises(KeyError, match="no layer 'heat' in this run, did you mean 'head'"):
        run.spectra["heat"]
    assert run.metrics.get("missing") is None
    assert "head" in run.spectra


# --------------------------------------------------------------------------- files that are wrong


def another_database(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE scalars (x)")
    database.close()


def changed(statement: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        filled(path.parent, 3)
        database = sqlite3.connect(path)
        database.executescript(statement)
        database.close()

    return change


ENDLESS = """
    DROP TABLE meta;
    CREATE VIEW meta AS WITH RECURSIVE c(key, value, crc) AS
        (SELECT 'a', 1, 1 UNION ALL SELECT key, value + 1, 1 FROM c) SELECT * FROM c
"""
WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda _: None, "there is no run record here"),
    "directory": (lambda path: path.mkdir(), "there is no run record here"),
    "empty": (lambda path: path.touch(), "not a run record (empty or of another program)"),
    "text": (lambda path: path.write_text("hello " * 999), "not a run record (no SQLite database)"),
    "another program": (another_database, "not a run record (empty or of another program)"),
    "more tables": (changed("CREATE TABLE more (x)"), "damaged"),
    "endless view": (changed(ENDLESS), "damaged"),
    "lost configuration": (
        changed("DELETE FROM meta WHERE key = 'config'"),
        "an entry is missing or not what was written",
    ),
    "lost epoch": (
        changed("DELETE FROM epochs WHERE epoch = 2"),
        "epochs or metrics are not what was written",
    ),
    "changed configuration": (
        changed("UPDATE meta SET value = '{\"lr\": 0.2}' WHERE key = 'config'"),
        "config is not what was written",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_refused_in_one_line(tmp_path, case):
    make, message = WRONG[case]
    path = tmp_path / "run" / RECORD_NAME
    path.parent.mkdir()
    make(path)
    for read in (load_run, Record.open):
        with pytest.raises(RecordError, match=re.escape(message)) as caught:
            read(path)
        assert len(caught.value.lines) == 1
        assert str(path) in str(caught.value)


def test_a_fingerprint_depends_on_every_bit_and_on_the_epoch():
    for value in (0.0, 1.0, 0.1, -3e300):
        bits = np.array([value]).view(np.uint64)
        flipped = (bits ^ (np.uint64(1) << np.arange(64, dtype=np.uint64))).view(np.float64)
        flipped = flipped[~np.isnan(flipped)]
        (own,) = fingerprints(5, [value])
        assert own not in fingerprints(5, flipped)
        assert own not in fingerprints([4, 6, 7, 1, 13], [value] * 5)


# ---------------------------------------------------------------- one process; states; readers


def test_a_second_process_is_refused(tmp_path):
    held = lock(tmp_path / "run")

    def work() -> None:
        with pytest.raises(InputError):
            lock(tmp_path / "run")

    pid = child(work)
    assert os.waitpid(pid, 0)[1] == 0
    with pytest.raises(InputError, match=f"{tmp_path / 'run'}: another process is already working"):
        lock(tmp_path / "run")
    held.release()
    lock(tmp_path / "run").release()


def test_a_run_directory_that_cannot_be_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"run: cannot be written to \(Not a directory\)"):
        lock(tmp_path / "file" / "run")


def test_a_killed_process_leaves_a_killed_run(tmp_path):
    directory = tmp_path / "run"

    def work() -> None:
        held = lock(directory)
        with create(directory):
            time.sleep(60)
        held.release()

    pid = child(work)
    try:
        wait_for((directory / RECORD_NAME).exists)
        assert load_run(directory).state == "running"
    finally:
        kill(pid)
    assert load_run(directory).state == "killed"
    assert (
        load_run(shutil.copy(directory / RECORD_NAME, tmp_path / "bare.sqlite")).state == "killed"
    )
    lock(directory).release()
    with Record.open(directory / RECORD_NAME) as record:
        record.set_state("failed")
    assert load_run(directory).state == "failed"


def test_readers_do_not_disturb_a_starting_writer(tmp_path):
    create(tmp_path / "run").close()
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            load_run(tmp_path / "run")

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for _ in range(40):
            held = lock(tmp_path / "run")
            time.sleep(0.001)
            held.release()
    finally:
        stop.set()
        for reader in readers:
            reader.join()


def test_a_run_is_read_while_it_goes_on(tmp_path):
    create(tmp_path / "run").close()

    def write() -> None:
        with Record.open(tmp_path / "run" / RECORD_NAME) as record:
            for epoch in range(60):
                record.append(epoch, metrics_of(epoch), spectra_of(epoch))
                time.sleep(0.01)

    pid = child(write)
    seen = set()
    ended = status = 0
    while not ended:
        ended, status = os.waitpid(pid, os.WNOHANG)
        run = load_run(tmp_path / "run")
        seen.add(len(run.epochs))
        check(run, len(run.epochs))
    assert status == 0
    assert len(seen) > 2
    assert max(seen) == 60


def test_reading_leaves_no_open_file(tmp_path):
    path = filled(tmp_path / "run", 2)
    before = set(Path("/proc/self/fd").iterdir())
    check(load_run(path), 2)
    Record.open(path).close()
    path.write_bytes(path.read_bytes()[:5000])
    for read in (load_run, Record.open):
        with pytest.raises(RecordError):
            read(path)
    assert set(Path("/proc/self/fd").iterdir()) == before


# ------------------------------------------------------------------------------------ faults


def test_killing_the_writer_20_times_loses_at_most_the_epoch_in_progress(tmp_path: Path):
    """After each kill the record is read, then continued; at the end nothing is missing."""
    directory = tmp_path / "run"
    progress = tmp_path / "progress"
    choose = random.Random(1)

    def work() -> None:
        held = lock(directory)
        path = directory / RECORD_NAME
        record = Record.open(path) if path.exists() else create(directory)
        with record, progress.open("a") as log:
            while True:
                epoch = 0 if record.last_epoch is None else record.last_epoch + 1
                record.append(epoch, metrics_of(epoch), spectra_of(epoch))
                log.write(f"{epoch}\n")
                log.flush()
        held.release()

    def promised() -> list[str]:
        return progress.read_text().splitlines()

    def grown(epochs: int) -> bool:
        return len(promised()) > epochs

    progress.touch()
    epochs = 0
    for attempt in range(20):
        pid = child(work)
        try:
            if attempt >= 4:  # before, while it is made or opened
                wait_for(partial(grown, epochs))
            time.sleep(choose.uniform(0, 0.02))
        finally:
            kill(pid)
        if not (directory / RECORD_NAME).exists():
            continue
        run = load_run(directory)
        assert run.state == "killed"
        assert len(promised()) <= len(run.epochs) <= len(promised()) + 1
        epochs = len(run.epochs)
        progress.write_text("".join(f"{epoch}\n" for epoch in range(epochs)))
    assert epochs >= 16
    check(run, epochs)


def kill_in_the_middle(path: Path) -> None:
    """Ends with a half-written database and the journal that undoes it."""

    def work() -> None:
        record = Record.open(path)
        record._database.execute("PRAGMA cache_size=1")  # pages reach the file before the commit
        record._database.execute("BEGIN IMMEDIATE")
        record._database.execute("UPDATE scalars SET value = 0")
        record._database.execute("UPDATE metrics SET checksum = 0")
        os.kill(os.getpid(), signal.SIGKILL)

    before = path.read_bytes()
    os.waitpid(child(work), 0)
    assert path.read_bytes() != before
    assert path.with_name(f"{path.name}-journal").stat().st_size > 512


def contents(directory: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in directory.iterdir()}


def test_a_half_written_epoch_is_read_without_changing_the_directory(tmp_path):
    path = filled(tmp_path / "run", 30)
    run = load_run(path)
    kill_in_the_middle(path)
    before = contents(path.parent)
    temporary = set(Path(tempfile.gettempdir()).glob("lowrank-*"))
    check(run, 30)  # made before the kill
    check(load_run(path), 30)
    assert contents(path.parent) == before
    del run
    assert set(Path(tempfile.gettempdir()).glob("lowrank-*")) == temporary
    with Record.open(path) as record:
        record.append(30, metrics_of(30), spectra_of(30))
    check(load_run(path), 31)


@pytest.mark.parametrize("half_written", [False, True], ids=["whole", "half-written"])
def test_a_record_is_read_where_nothing_may_be_written(half_written):
    """As root the reader is a process of another user, who may read but not write."""
    with tempfile.TemporaryDirectory() as top:
        path = filled(Path(top) / "run", 30)
        lock(path.parent).release()
        if half_written:
            kill_in_the_middle(path)
        for place, mode in ((Path(top), 0o755), (path.parent, 0o555)):
            place.chmod(mode)
        for file in path.parent.iterdir():
            file.chmod(0o444)

        def work() -> None:
            if os.getuid() == 0:
                os.setuid(65534)
            with pytest.raises(OSError, match="Permission denied"):
                (path.parent / "new").touch()
            check(load_run(path), 30)
            with pytest.raises(Failure, match="cannot be written"):
                Record.open(path).set_state("failed")

        status = os.waitpid(child(work), 0)[1]
        path.parent.chmod(0o755)
        assert status == 0


@pytest.fixture(params=["tmpfs", "file size limit"])
def small_disk(request, tmp_path) -> Iterator[tuple[Path, Callable[[], None]]]:
    """A directory that runs full, and what makes room in it."""
    place = tmp_path / "disk"
    if request.param == "tmpfs":
        with mounted(place, "400k"):
            filler = place / "filler"
            filler.write_bytes(bytes(200 * 1024))
            yield place, filler.unlink
        return
    place.mkdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150 * 1024, hard))
    try:
        yield place, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_loses_nothing_and_the_run_goes_on_when_there_is_room(small_disk):
    place, make_room = small_disk
    record = create(place / "run")
    epochs = 0
    with pytest.raises(RecordWriteError, match=r"cannot be written .* MiB are free .* is kept"):
        for epoch in range(10_000):
            record.append(epoch, metrics_of(epoch), spectra_of(epoch))
            epochs = epoch + 1
    assert epochs > 3
    check(load_run(place / "run"), epochs)
    with pytest.raises(RecordWriteError):
        record.append(epochs, metrics_of(epochs) | {"another": 1.0}, spectra_of(epochs))
    make_room()
    record.append(epochs, metrics_of(epochs), spectra_of(epochs))
    check(load_run(place / "run"), epochs + 1)
    record.close()
    with Record.open(record.path) as record:
        record.set_state("finished")


def test_a_record_that_cannot_be_made_leaves_nothing(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(RecordWriteError, match="cannot be written"):
            create(tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "run").iterdir()) == []
    create(tmp_path / "run").close()
    with pytest.raises(RecordError, match="there already is a run record here"):
        create(tmp_path / "run")
    with pytest.raises(RecordWriteError, match="its directory does not exist"):
        Record.create(tmp_path / "none" / "x", run_id="x", config={}, environment={}, layers=LAYERS)


def test_what_a_killed_creation_left_does_not_block_the_next(tmp_path):
    for name in (".new", ".new-journal"):
        (tmp_path / f"{RECORD_NAME}{name}").write_bytes(b"half" * 2000)
    create(tmp_path).close()
    assert [entry.name for entry in tmp_path.iterdir()] == [RECORD_NAME]


# ------------------------------------------------------------------------------ many; from W&B


def test_a_sweep_is_sorted_and_names_what_it_leaves_out(tmp_path):
    for name in ("b", "a", "c"):
        filled(tmp_path / name, 1)
    (tmp_path / "c" / RECORD_NAME).write_text("x")
    (tmp_path / "no run").mkdir()
    with pytest.warns(UserWarning, match=r"left out: .*c/record.sqlite: is not a run record"):
        runs = load_sweep(tmp_path)
    assert [run.id for run in runs] == ["a", "b"]
    assert [run.id for run in load_sweep(tmp_path / "a")] == ["a"]
    assert load_sweep(tmp_path / "no run") == []
    runs, errors = find_runs(tmp_path)
    assert (len(runs), len(errors)) == (2, 1)
    with pytest.raises(RecordError, match="there is no such directory"):
        load_sweep(tmp_path / "none")


def test_a_path_with_odd_characters_is_read(tmp_path):
    check(load_run(str(filled(tmp_path / "a?b#c %41é", 2))), 2)


def test_a_wandb_path_without_a_key_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecordError, match=r"team/project/abc: there is no such file.*API key"):
        load_run("team/project/abc")


def test_a_wandb_path_is_downloaded(tmp_path, monkeypatch):
    """The server's part is played here; what arrives is a real record."""
    import wandb

    source = filled(tmp_path / "run", 3)
    asked = []

    class Entry:
        ref = None

        def download(self, root: str) -> str:
            return shutil.copy(source, root)

    class Artifact:
        def get_entry(self, name: str) -> Entry:
            asked.append(name)
            return Entry()

    class Api:
        def artifact(self, name: str, type: str) -> Artifact:  # noqa: A002
            asked.extend((name, type))
            return Artifact()

    monkeypatch.setattr(wandb, "Api", Api)
    run = load_run("team/project/run")
    assert asked == ["team/project/run-record-run:latest", "run-record", RECORD_NAME]
    check(run, 3)
    place = run.path.parent
    del run
    assert not place.exists()
