"""A page that is followed: when it is written again, and when that ends, look by look.

Run with ``pytest tests/views/report/test_follow.py``.
"""

from __future__ import annotations

import json

import pytest

from lowrank.cli import main
from lowrank.common.errors import InputError
from lowrank.runs.lock import lock
from lowrank.runs.writer import Record
from lowrank.views.report.follow import LOOK, QUIET, follow
from tests.views.report.records import rows_of, spectra_of, write


def append(path, epoch):
    with Record.open(path) as record:
        spectra = spectra_of(record.layers, epoch, 0.0)
        row = {name: float(v[epoch]) for name, v in rows_of(record.layers, spectra, None).items()}
        record.append(epoch, row, {name: s[epoch] for name, s in spectra.items()})


def test_the_page_is_written_as_records_grow_until_none_is_written_to(tmp_path):
    path = write(tmp_path / "runs" / "a", sizes=(4,), epochs=3, recorded=1, state="running")
    held = lock(path.parent)
    steps = iter(["nothing", "more", "another run", "nothing", "end", *["nothing"] * (QUIET - 1)])
    written, waited = [], []

    def wait(seconds):
        waited.append(seconds)
        step = next(steps)
        written.append(f"then {step}")
        if step == "more":
            append(path, 1)
        elif step == "another run":
            write(tmp_path / "runs" / "b", sizes=(4,), epochs=1)
        elif step == "end":
            held.release()

    follow([tmp_path / "runs"], lambda: written.append("page"), wait)
    assert written == [
        "page", "then nothing", "then more", "page", "then another run", "page", "then nothing",
        "then end", *["then nothing"] * (QUIET - 1),
    ]  # fmt: skip
    assert min(waited) >= LOOK
    assert next(steps, None) is None


def test_what_is_not_on_this_machine_is_not_followed():
    with pytest.raises(InputError, match="follow: me/mine/abc is not on this machine"):
        follow(["me/mine/abc"], lambda: None)


def test_ctrl_c_ends_it_well_with_a_page_that_stays(tmp_path, capsys, monkeypatch):
    write(tmp_path / "runs" / "a", sizes=(4,), epochs=1)
    page = tmp_path / "r.html"
    reloads = []

    def wait(_):
        reloads.append(made(page)["reload"])
        raise KeyboardInterrupt

    monkeypatch.setattr(follow, "__defaults__", (wait,))
    assert main(["report", str(tmp_path / "runs"), "-o", str(page), "--follow"]) == 0
    assert [bool(each) for each in reloads] == [True]
    assert made(page)["reload"] == 0
    assert capsys.readouterr().out.count("report of 1 run") == 2  # at first, and at the end


def made(page):
    text = page.read_text("utf-8").split('id="data">')[1].split("</script>")[0]
    return json.loads(text)["made"]
