"""What the runs of a page have in common: sweep, question, model, data, settings, commit."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from contextlib import suppress
from copy import copy
from typing import Any

from lowrank.common.secrets import redact
from lowrank.config.rules import has_effect
from lowrank.config.settings import is_of_train_py, with_group
from lowrank.config.sweepfile import is_sweep_file, load_sweep_file
from lowrank.runs.find import Run
from lowrank.runs.format import RecordError
from lowrank.runs.sweeps import sweep_of
from lowrank.views.table.fields import RUN, differing, settings, text, words
from lowrank.views.table.rows import RunRow

_MOST_COMMITS = 4
_MOST_ASKED = 4  # settings that a question names


def about(runs: Sequence[Run], rows: Sequence[RunRow], sweep: str | None = None) -> dict[str, Any]:
    """Returns what stands at the head of the page.

    Args:
        runs: The runs.
        rows: What `lowrank.views.table` says of each, in the same order.
        sweep: The sweep that was asked for; a file may have a question, which records do not
            hold: then what varies makes one.

    Returns:
        JSON types: the sweep's name and question, empty where there is none, and pairs of texts.
    """
    name, question = "", ""
    if sweep and is_sweep_file(sweep):
        file = load_sweep_file(sweep)
        name, question = file.name, file.description
    question = question or _question(rows)
    names, commits = set[str | None](), dict[str, None]()
    for run in runs:
        with suppress(RecordError):  # said of its section
            alone = copy(run)  # which keeps the environment, with all that differs from the commit
            names.add(sweep_of(alone))
            commits[_commit(alone.environment)] = None
    if not name and len(names) == 1:
        name = names.pop() or ""
    facts = [[what, redact(told)] for what, told in _common(rows) if told]
    if known := [commit for commit in commits if commit]:
        shown = ", ".join(known[:_MOST_COMMITS])
        more = len(known) - _MOST_COMMITS
        facts.append(["Commit", f"{shown} and {more} more" if more > 0 else shown])
    return {"name": redact(name), "question": redact(question), "facts": facts}


def _question(rows: Sequence[RunRow]) -> str:
    """Returns what runs that differ in some settings can answer; empty where they differ in none.

    Example:
        >>> _question([])
        ''
    """
    if not rows:
        return ""
    fields, _ = differing(rows)
    named = [words(name) for name in fields if name != "seed"]
    if not named:
        return "How far do ranks differ between seeds?" if fields else ""
    if len(named) > _MOST_ASKED:
        rest = len(named) - _MOST_ASKED + 1
        named = [*named[: _MOST_ASKED - 1], f"{rest} further settings"]
    *first, last = named
    return f"How do ranks depend on {' and '.join([', '.join(first), last] if first else [last])}?"


def _common(rows: Sequence[RunRow]) -> list[tuple[str, str]]:
    """Returns in words the settings that all runs share and that have an effect."""
    found = [settings(row) for row in rows]
    shared: dict[str, Hashable] = {
        name: value
        for name, value in found[0].items()
        if name != RUN and all(each.get(name) == value for each in found[1:])
    }
    if all(is_of_train_py(row.config) for row in rows):
        shared = {n: v for n, v in shared.items() if any(has_effect(n, each) for each in found)}
    model, data = (_of_group(shared, group) for group in ("model", "data"))
    rest = {name: value for name, value in shared.items() if name not in {*model, *data}}
    first = {"model": "", "dataset": ""}
    return [
        ("Model", _told(model, first)),
        ("Data", _told(data, first)),
        ("Fixed", _told(rest, first)),
    ]


def _of_group(shared: dict[str, Hashable], group: str) -> dict[str, Hashable]:
    return {name: shared[name] for name in with_group(group) if name in shared}


def _told(values: dict[str, Hashable], named: dict[str, str]) -> str:
    """Returns settings in a line; those that are switched off are left out."""
    shown = {n: v for n, v in values.items() if v is not None and v is not False and v != ()}
    return ", ".join(
        " ".join(filter(None, [named.get(name, words(name)), "" if value is True else text(value)]))
        for name, value in shown.items()
    )


def _commit(environment: dict[str, Any]) -> str:
    """Returns the short commit and whether anything differed from it; empty where not known."""
    commit = environment.get("commit")
    if not isinstance(commit, str) or not commit:
        return ""
    changed = environment.get("diff") or environment.get("untracked")
    return commit[:10] + (" with uncommitted changes" if changed else "")
