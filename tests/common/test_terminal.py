"""Tables, bars and counts on a terminal and piped, against columns found in the text itself."""

from __future__ import annotations

import io
import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowrank.common import terminal
from lowrank.common.terminal import Display, aligned, counting
from lowrank.common.texts import printable

CELLS = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=9)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


@given(st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1), st.integers(1, 3))
def test_cells_of_a_column_begin_or_end_under_each_other(rows, gap):
    lines = aligned(rows, left=(0, 1), gap=gap)
    places = [[(m.start(), m.end()) for m in re.finditer(r"\S+", line)] for line in lines]
    assert [tuple(line.split()) for line in lines] == rows
    for column, edge in ((0, 0), (1, 0), (2, 1)):
        assert len({each[column][edge] for each in places}) == 1
    # As narrow as can be: somewhere the gap is all there is between two columns.
    assert min(each[1][0] - each[0][1] for each in places) == gap


def test_a_long_name_has_a_line_of_its_own_and_widens_nothing():
    rows = [("layer", "rank"), ("a" * 30, "7"), ("fc", "12")]
    assert aligned(rows, longest=10) == ["layer  rank", "a" * 30, "          7", "fc       12"]


def test_piped_only_lines_are_printed():
    stream = io.StringIO()
    with Display(stream) as display:
        display.bar("points", 1, 2)
        display.text("a table")
        display.line("one")
    assert stream.getvalue() == "one\n"


def test_on_a_terminal_foreign_texts_are_neither_markup_nor_obeyed(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    stream = Terminal()
    with Display(stream) as display:
        display.bar("[red]a[/red]", 1, 3, "[bold]note")
        display.line("[i]x \x1b[31m")
        display._below.refresh()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    assert "[i]x \\x1b[31m" in text
    assert "[red]a[/red]" in text and "1/3" in text and "[bold]note" in text


@pytest.mark.parametrize(("taken", "shown"), [(0.1, False), (3.0, True)])
def test_a_count_is_a_bar_with_the_time_left_where_it_takes_long(monkeypatch, taken, shown):
    now = [100.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("COLUMNS", "100")
    with counting("reading runs") as progress:
        now[0] += taken
        progress(1, 4)
    text = sys.stderr.getvalue()
    assert ("reading runs" in text) is shown
    assert ("left 0:09" in text) is shown  # three more at three seconds each


def test_a_count_is_lines_where_nobody_looks(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    with counting("x", lambda done, total, seconds: f"{done}/{total} {seconds:g} s") as progress:
        for done in range(1, 6):
            now[0] += 2
            progress(done, 5)
    assert capsys.readouterr().err.splitlines() == ["3/5 6 s", "5/5 10 s"]


@given(st.text(), st.booleans())
def test_no_text_keeps_what_a_terminal_obeys(text, lines):
    found = printable(text, None, lines=lines)
    assert found.replace("\n", "" if lines else "\n").isprintable()
    assert len(printable(text, 60)) <= 60 * 10
    if text.isprintable():
        assert found == text
