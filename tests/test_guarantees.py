"""docs/guarantees.md against the tests: each one that it names exists, and the README links it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)))


def names_in(file: str) -> set[str]:
    """Returns the names of a file's tests, from its syntax tree."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_a_named_test_exists(file, name):
    assert name.startswith("test_")
    assert name in names_in(file)


def test_every_promise_names_a_test():
    promised = PAGE.partition("## What is not promised")[0]
    promises = re.findall(r"^- \*\*.*?(?=^- |^\n|^#|\Z)", promised, flags=re.MULTILINE | re.DOTALL)
    assert len(promises) > 20
    assert [promise for promise in promises if "::test_" not in promise] == []


def test_every_mention_of_a_test_has_the_form_that_is_checked():
    assert len(re.findall(r"::", PAGE)) == len(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE))


def test_the_readme_links_the_page():
    assert "(docs/guarantees.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
