"""Run records by strangers, with every checksum right: what damage is noticed is tests/test_record.

`forge` writes any content as a record of this version would hold it.
"""

from __future__ import annotations

import csv
import io
import json
import os
import random
import shutil
import sqlite3
import struct
import zlib
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowrank import cli
from lowrank.common.errors import InputError
from lowrank.config import Config
from lowrank.runs.find import Run, load_run
from lowrank.runs.format import (
    APPLICATION_ID,
    RECORD_NAME,
    SCHEMA,
    SCHEMA_VERSION,
    fingerprints,
    index_crc,
    read_index,
    spectrum_crc,
    text_crc,
)
from lowrank.runs.lock import LOCK_NAME, lock
from lowrank.runs.writer import Record
from tests.hostile.calls import EVIL, answer, check, same

LAYER = {"name": "a", "path": "a", "shape": [2, 3], "positions": None, "counted": True}
META: dict[str, Any] = {
    "run_id": "a",
    "config": Config(epochs=2).recorded(),
    "layers": [LAYER, {**LAYER, "name": "b", "path": "b", "counted": False}],
    "state": "finished",
    "created": "2026-01-01T00:00:00+00:00",
    "updated": "2026-01-01T00:00:00+00:00",
}
METRICS = ("epoch", "rank_mean", "collapsed", "dead", "train_loss", "test_accuracy")
BLOB = np.array([2.0, 1.0]).tobytes()


def forge(
    directory: Path,
    meta: Mapping[str, Any] = META,
    *,
    metrics: Sequence[Any] = METRICS,
    value: Any = None,
    epochs: Sequence[tuple[int, int]] = ((0, 1), (1, 1), (2, 1)),
    blob: bytes | str = BLOB,
    statement: str = "",
) -> Path:
    """Writes a record whose checksums are those of what it holds."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / RECORD_NAME
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute(f"PRAGMA application_id={APPLICATION_ID}")
        database.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        database.execute("BEGIN")
        for each in SCHEMA:
            database.execute(each)
        session = json.dumps({"started": "now", "environment": {"commit": EVIL}})
        database.execute("INSERT INTO sessions VALUES (0, ?, ?)", (session, text_crc(0, session)))
        database.executemany("INSERT INTO epochs VALUES (?, ?)", epochs)
        for number, name in enumerate(metrics):
            logged = float(name not in ("dead", "collapsed")) if value is None else value
            total = zlib.crc32(str(name).encode("utf-8", "replace"))
            if isinstance(logged, float) and epochs:
                terms = fingerprints([epoch for epoch, _ in epochs], [logged] * len(epochs))
                total = (total + int(terms.sum())) % 2**64
            signed = total - 2**64 if total >= 2**63 else total
            database.execute("INSERT INTO metrics VALUES (?, ?, ?)", (number, name, signed))
            rows = [(number, epoch, logged) for epoch, _ in epochs]
            database.executemany("INSERT INTO scalars VALUES (?, ?, ?)", rows)
        content = blob if isinstance(blob, bytes) else blob.encode()
        database.executemany(
            "INSERT INTO spectra VALUES (?, ?, ?, ?)",
            [
                (epoch, layer, spectrum_crc(epoch, layer, content), blob)
                for epoch, measured in epochs
                for layer in range(2 if measured else 0)
            ],
        )
        known = {**meta, "index": index_crc(read_index(database))}
        for key, content_of in known.items():
            text = content_of if isinstance(content_of, bytes) else json.dumps(content_of)
            crc = text_crc(key, text) if isinstance(text, str) else 0
            database.execute("INSERT INTO meta VALUES (?, ?, ?)", (key, text, crc))
        if statement:
            database.execute(statement)
        database.execute("COMMIT")
    return path


def read_all(path: Path) -> None:
    """Reads everything of a record, as a library's user would: a run, or lines of what is wrong."""
    try:
        run = load_run(path)
        for names in (run.metrics, run.spectra):
            for name in names:
                try:
                    assert len(names[name]) == len(run.epochs)
                except InputError as error:
                    assert error.lines
        assert isinstance(run.environment, dict)
        run.spectra_at(run.epochs[:1])
    except InputError as error:
        assert all(line.isprintable() for line in error.lines)
    except KeyError:  # that epoch was not measured
        pass
    try:
        Record.open(path).close()
    except InputError as error:
        assert error.lines


def ask(directory: Path, *more: str) -> None:
    """Gives the records to the commands that read records, the slower ones where they are named."""
    words = {
        "table": ["runs"],
        "csv": ["runs", "--csv"],
        "json": ["runs", "--json"],
        "report": ["report", "-o", str(directory / "report.html")],
        "figures": ["figures", "--format=png", "--dpi=50", f"--output={directory / 'figures'}"],
    }
    for command in ("table", "csv", "json", *more):
        name, *flags = words[command]
        code, out, err = answer(cli.main, [name, str(directory), *flags])
        check(code, out, err)
        if command == "json" and code == 0:
            json.loads(out, parse_constant=pytest.fail)  # NaN is none of JSON's


numbers = st.sampled_from(
    [0, 1, -1, 2**31, 2**63, 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf"), 16, 20]
)
scalars = st.none() | st.booleans() | numbers | st.sampled_from(["", "x", EVIL, "$x$", "1e-3"])
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", EVIL]), inner)
    ),
    max_leaves=4,
)
configs = st.dictionaries(st.sampled_from([*Config.model_fields, "more", EVIL]), values, max_size=4)
layers = st.lists(
    st.fixed_dictionaries(
        {
            "name": st.sampled_from(["a", EVIL]) | scalars,
            "path": scalars,
            "shape": st.lists(numbers, max_size=3) | values,
            "positions": values,
            "counted": values,
        }
    )
    | values,
    max_size=3,
)


@same(25)
@given(config=configs, base=st.sampled_from([{}, META["config"]]), seed=st.integers(0, 2))
def test_any_configuration_is_shown_or_left_out(tmp_path_factory, config, base, seed):
    place = tmp_path_factory.mktemp("runs")
    forge(place / "a", {**META, "config": {**base, **config}})
    forge(place / "b", {**META, "run_id": EVIL, "config": {**base, "seed": seed}})
    read_all(place / "a")
    ask(place, "report")


@same(6)
@given(config=configs)
def test_any_configuration_is_drawn_or_left_out(tmp_path_factory, config):
    place = tmp_path_factory.mktemp("runs")
    forge(place / "a", {**META, "config": {**META["config"], **config}})
    forge(place / "b", {**META, "run_id": EVIL, "config": {**META["config"], "lr": EVIL}})
    ask(place, "figures")


@same(40)
@given(
    meta=st.dictionaries(st.sampled_from([*META, "index", "more"]), values, max_size=2),
    found=st.none() | layers,
)
def test_any_head_is_a_run_or_lines(tmp_path_factory, meta, found):
    place = tmp_path_factory.mktemp("runs")
    more = {} if found is None else {"layers": found}
    forge(place / "a", {**META, **meta, **more})
    read_all(place / "a")
    ask(place)


@same(40)
@given(
    names=st.lists(
        st.sampled_from([*METRICS, EVIL, b"bytes", "", "rank_mean@0.01"]), unique=True, max_size=6
    ),
    value=st.sampled_from([None, 1.0, float("inf"), "text", "1.5", b"\0" * 9, 2**62, ""]),
    epochs=st.lists(
        st.tuples(st.sampled_from([0, 1, 7, -3, 2**62]), st.sampled_from([0, 1, -1])),
        max_size=3,
        unique_by=lambda row: row[0],
    ),
    blob=st.sampled_from([BLOB, b"", BLOB[:7], BLOB * 3, "text", np.full(2, np.nan).tobytes()]),
)
def test_any_number_is_a_number_or_lines(tmp_path_factory, names, value, epochs, blob):
    place = tmp_path_factory.mktemp("runs")
    forge(place / "a", metrics=names, value=value, epochs=sorted(epochs), blob=blob)
    read_all(place / "a")
    ask(place, "report")


@same(40)
@given(data=st.data())
def test_any_changed_bytes_are_a_run_or_lines(tmp_path_factory, data):
    place = tmp_path_factory.mktemp("runs")
    path = forge(place / "a")
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        start = data.draw(st.integers(0, len(content) - 1))
        piece = data.draw(st.binary(min_size=1, max_size=16))
        content[start : start + len(piece)] = piece
    path.write_bytes(content[: data.draw(st.just(len(content)) | st.integers(0, len(content)))])
    read_all(place / "a")
    ask(place)


def test_hostile_texts_are_shown_escaped_by_every_command(tmp_path):
    config = {**META["config"], EVIL: EVIL}
    forge(tmp_path / "runs" / "a", {**META, "run_id": EVIL, "config": {**config, "lr": EVIL}})
    forge(tmp_path / "runs" / "b", {**META, "config": config})
    place, made = str(tmp_path / "runs"), tmp_path / "made"
    shown = "\\x1b]0;owned\\x07"
    for words in (["runs"], ["runs", "--csv"], ["figures", "--csv", f"--output={made}"]):
        code, out, err = answer(cli.main, [*words, place])
        check(code, out, err)
        assert (code, err) == (0, "")
        text = out if words[0] == "runs" else "".join(f.read_text() for f in made.glob("*.csv"))
        assert shown in text
    code, out, err = answer(cli.main, ["runs", "--json", place])
    assert EVIL in [entry["run"] for entry in json.loads(out)]  # JSON has escapes of its own


def test_no_cell_of_a_csv_file_is_a_formula(tmp_path):
    formula = "=HYPERLINK(A1)"
    config = {**META["config"], "lr": formula, formula: "@SUM(1)"}
    forge(tmp_path / "a", {**META, "run_id": "-1+cmd|' /C calc'!A0", "config": config})
    forge(tmp_path / "b", {**META, "run_id": "-best_run"})
    code, out, err = answer(cli.main, ["runs", "--csv", str(tmp_path)])
    assert (code, err) == (0, "")
    cells = [cell for row in csv.reader(io.StringIO(out)) for cell in row]
    assert {f"'{formula}", "'@SUM(1)", "'-1+cmd|' /C calc'!A0", "-best_run"} <= set(cells)
    assert not [cell for cell in cells if cell[:1] in ("=", "+", "@")]


HOSTILE_SCHEMAS = {
    "a trigger": "CREATE TRIGGER t AFTER INSERT ON epochs BEGIN DELETE FROM spectra; END",
    "a view": "CREATE VIEW v AS SELECT * FROM meta",
    "an index on an expression": "CREATE INDEX i ON meta (length(value))",
    "a virtual table": "CREATE VIRTUAL TABLE f USING fts5(x)",
}


@pytest.mark.parametrize("case", HOSTILE_SCHEMAS)
def test_a_record_with_more_than_tables_is_refused(tmp_path, case):
    forge(tmp_path / "a", statement=HOSTILE_SCHEMAS[case])
    code, out, err = answer(cli.main, ["runs", str(tmp_path)])
    check(code, out, err)
    assert code == 2
    assert "its tables are not those of a run record" in err


def hot_journal(path: Path, names: Path) -> bytes:
    """Returns the journal of a writer that was killed, with the name of a file at its end.

    SQLite deletes that file when it has undone the transaction
    (https://www.sqlite.org/fileformat2.html#the_rollback_journal).
    """
    content = path.read_bytes()
    size = struct.unpack(">H", content[16:18])[0]
    magic = bytes.fromhex("d9d505f920a163d7")
    head = magic + struct.pack(">iIIII", 1, 0, len(content) // size, 512, size)
    page = content[:size]
    record = struct.pack(">I", 1) + page + struct.pack(">I", sum(page[size - 200 : 0 : -200]))
    name = os.fsencode(names)
    end = struct.pack(">I", 0x40000000 // size + 1) + name
    return head.ljust(512, b"\0") + record + end + struct.pack(">II", len(name), sum(name)) + magic


def test_looking_at_a_record_deletes_no_file_that_its_journal_names(tmp_path):
    path = forge(tmp_path / "runs" / "a")
    victim = tmp_path / "victim"
    journal = Path(f"{path}-journal")

    victim.write_text("precious")
    journal.write_bytes(hot_journal(path, victim))
    shutil.copytree(path.parent, tmp_path / "bare")
    with closing(sqlite3.connect(tmp_path / "bare" / RECORD_NAME)) as database:
        database.execute("SELECT * FROM meta").fetchall()
    assert not victim.exists()  # the file does what is feared of it

    victim.write_text("precious")
    for words in (["runs", str(tmp_path / "runs")], ["runs", str(path)]):
        code, out, err = answer(cli.main, words)
        check(code, out, err)
        assert code == 2
        assert "its journal names another file" in err
    with pytest.raises(InputError, match="its journal names another file"):
        Record.open(path)
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("left", [True, False], ids=["with its log", "without"])
def test_a_record_in_wal_mode_is_refused_and_nothing_is_made_beside_it(tmp_path, left):
    path = forge(tmp_path / "a")
    writer = sqlite3.connect(path)
    writer.execute("PRAGMA journal_mode=WAL")
    if left:
        writer.execute("UPDATE epochs SET measured = 0")
        writer.commit()
        shutil.copytree(tmp_path / "a", tmp_path / "b")
    writer.close()
    place = tmp_path / ("b" if left else "a")
    before = sorted(place.iterdir())
    with pytest.raises(InputError, match="a database in WAL mode"):
        load_run(place)
    assert sorted(place.iterdir()) == before


@pytest.mark.parametrize("suffix", ["", "-journal"])
@pytest.mark.parametrize("kind", ["pipe", "device", "loop"])
def test_a_record_that_is_no_file_is_refused_at_once(tmp_path, kind, suffix):
    path = forge(tmp_path / "a")
    if suffix:
        path = Path(f"{path}{suffix}")
    else:
        path.unlink()
    make_special(path, kind)
    code, out, err = answer(cli.main, ["runs", str(tmp_path / "a")])
    check(code, out, err)
    assert code == 2


def make_special(path: Path, kind: str) -> None:
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.symlink_to(path.name)


def test_what_a_small_record_claims_takes_no_memory(tmp_path):
    # Two billion singular values a row; a hundred thousand epochs of a wide layer.
    huge = [{**LAYER, "shape": [2**31 - 1, 2**31 - 1]}, {**LAYER, "name": "b"}]
    wide = [{**LAYER, "shape": [4096, 4096]}, {**LAYER, "name": "b"}]
    many = [(epoch, int(epoch == 0)) for epoch in range(100_000)]
    claims = {
        "huge": forge(tmp_path / "huge", {**META, "layers": huge}, epochs=[(0, 0), (1, 0)]),
        "many": forge(
            tmp_path / "many",
            {**META, "layers": wide},
            metrics=(),
            epochs=many,
            blob=np.ones(4096).tobytes(),
        ),
    }
    for path in claims.values():
        run = load_run(path)
        with pytest.raises(InputError, match="GiB of spectra that are not in it"):
            run.spectra["a"]
        ask(path.parent, "report")


def test_a_lock_that_is_a_link_harms_nothing(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    forge(tmp_path / "a")
    (tmp_path / "a" / LOCK_NAME).symlink_to(victim)
    with pytest.raises(InputError, match="cannot be written to"):
        lock(tmp_path / "a")
    ask(tmp_path / "a")
    assert victim.read_text() == "precious"


def test_a_lock_that_is_a_pipe_is_not_waited_for(tmp_path):
    forge(tmp_path / "a", {**META, "state": "running"})
    os.mkfifo(tmp_path / "a" / LOCK_NAME)
    ask(tmp_path / "a")


def test_a_path_in_a_record_is_never_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()
    config = {**META["config"], "output_dir": str(victim), "data_dir": str(victim)}
    forge(tmp_path / "runs" / "a", {**META, "run_id": "../../victim/a", "config": config})
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    ask(tmp_path / "runs", "report")
    made = set(map(str, tmp_path.rglob("*"))) - set(before)
    assert made == {str(tmp_path / "runs" / "report.html")}


def test_a_hostile_id_cannot_make_lines_of_its_own(tmp_path):
    forge(tmp_path / "a", {**META, "run_id": "a\nb finished 2/2"})
    forge(tmp_path / "b")
    code, out, err = answer(cli.main, ["runs", str(tmp_path)])
    check(code, out, err)
    assert "a\\nb finished 2/2" in out
    assert len(out.splitlines()) == 4


def test_every_mutation_of_a_configuration_in_a_run_directory_is_a_line(tmp_path):
    """A run directory's config.yaml is read by train.py that goes on with it."""
    import train

    choose = random.Random(0)
    directory = tmp_path / "a"
    text = Config(epochs=0, tracking="disabled", threads=1).to_yaml()
    for _ in range(25):
        directory.mkdir(exist_ok=True)
        place = choose.randrange(len(text))
        piece = choose.choice(["\0", "&a [*a]", "!!python/object:os.system", "\x1b", "{", ": ", ""])
        (directory / "config.yaml").write_text(text[:place] + piece + text[place + 1 :])
        words = ["--run_id=a", f"--output_dir={tmp_path}", "--tracking=disabled", "--epochs=0"]
        code, out, err = answer(train.main, [*words, "--threads=1", "--dataset=imagefolder"])
        check(code, out, err)
        assert code == 2


def test_a_run_is_what_it_says_even_if_hostile(tmp_path):
    run = Run(forge(tmp_path / "a", {**META, "run_id": EVIL}))
    assert run.id == EVIL  # the library gives what was recorded; only what is shown is escaped
