"""The page as text: what a browser would parse, load and run, and that strings of records are data.

The truth is Python's own HTML and JSON parsers and its SHA-256. Run with
``pytest tests/views/report/test_page.py``.
"""

from __future__ import annotations

import base64
import hashlib
import json
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plotly.offline import get_plotlyjs

from lowrank.views.report.page import SCRIPTS, embedded, page
from lowrank.views.report.write import write_report
from tests.views.report.records import write

EVIL = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1><!--"


class Parsed(HTMLParser):
    """Every tag with its attributes, and the text of every script by its type."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.scripts = []
        self.title = ""
        self._open = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append([dict(attrs).get("type"), ""])
        self._open = tag

    def handle_endtag(self, tag):  # noqa: ARG002  # the parser's
        self._open = None

    def handle_data(self, data):
        if self._open == "script":
            self.scripts[-1][1] += data
        elif self._open == "title":
            self.title += data


def data_of(parsed):
    (text,) = [text for kind, text in parsed.scripts if kind == "application/json"]
    return json.loads(text)


@given(st.lists(st.none() | st.integers() | st.text()))
def test_data_come_back_as_they_were_and_end_no_script(data):
    text = embedded(data)
    assert json.loads(text) == json.loads(
        json.dumps(data, ensure_ascii=False).encode("utf-8", "replace")
    )
    assert not set("<>&\u2028\u2029") & set(text)


def test_numbers_that_json_has_not_are_refused():
    with pytest.raises(ValueError, match="Out of range float"):
        embedded([float("nan")])


def test_a_lone_surrogate_does_not_stop_the_page():
    assert json.loads(embedded("\ud800")) == "?"


def test_the_page_loads_nothing_and_runs_its_own_scripts_only():
    parsed = Parsed(page({"runs": []}, "title"))
    addresses = [
        value
        for tag, attributes in parsed.tags
        for name, value in attributes.items()
        if name in ("src", "href", "action", "data") or tag in ("link", "iframe", "object", "base")
    ]
    assert addresses == []
    (policy,) = [
        attributes["content"]
        for tag, attributes in parsed.tags
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    rules = {rule.split()[0]: rule.split()[1:] for rule in policy.split("; ")}
    assert rules["default-src"] == ["'none'"]
    assert rules["img-src"] == ["data:", "blob:"]
    run = [text for kind, text in parsed.scripts if kind is None]
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in run]
    assert rules["script-src"] == [f"'sha256-{digest}'" for digest in digests]
    assert len(run) == 1 + len(SCRIPTS)
    assert sum(text == get_plotlyjs() for text in run) == 1


def test_strings_of_a_record_are_data_wherever_they_stand(tmp_path):
    path = write(
        tmp_path / "run",
        sizes=(4,),
        epochs=1,
        run_id=EVIL,
        environment={"command": EVIL, "host": EVIL},
        name=EVIL,
        dataset=EVIL,
    )
    write_report([path], tmp_path / "report.html")
    parsed = Parsed((tmp_path / "report.html").read_text("utf-8"))
    data = data_of(parsed)
    assert data["runs"][0]["id"] == EVIL
    assert dict(data["sections"][0]["config"])["name"] == EVIL
    assert dict(data["sections"][0]["environment"])["host"] == EVIL
    assert parsed.title == f"{EVIL}: ranks"
    assert not [tag for tag, _ in parsed.tags if tag == "img"]
    assert len(parsed.scripts) == 2 + len(SCRIPTS)


def test_no_key_reaches_the_page(tmp_path, monkeypatch):
    key, new_key, secret = (
        "0123456789abcdef" * 2 + "01234567",
        "wandb_v1_" + "x" * 30,
        "topsecretvalue",
    )
    monkeypatch.setenv("SOME_API_KEY", secret)
    path = write(
        tmp_path / "run",
        sizes=(4,),
        epochs=1,
        environment={"command": f"train.py {key} {new_key}", "commit": "c" * 40, "host": secret},
        name=key,
    )
    write_report([path], tmp_path / "report.html", command=f"lowrank report {secret}")
    text = (tmp_path / "report.html").read_text("utf-8")
    assert not [found for found in (key, new_key, secret) if found in text]
    assert "c" * 40 in text


def test_a_page_of_one_run_is_little_more_than_plotly(tmp_path):
    path = write(tmp_path / "run", sizes=(16, 16), epochs=5)
    write_report([path], tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size < len(get_plotlyjs().encode()) + 200_000
