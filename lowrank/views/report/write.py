"""From run records on disk to one HTML file."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lowrank.common.errors import InputError, refuse
from lowrank.common.files import replacing, writing
from lowrank.common.secrets import redact
from lowrank.common.texts import nearest, printable
from lowrank.runs.find import Run
from lowrank.runs.format import RecordError
from lowrank.views.report import MOST_SECTIONS
from lowrank.views.report.about import about
from lowrank.views.report.many import overview
from lowrank.views.report.matrices import matrices
from lowrank.views.report.one import section
from lowrank.views.report.packing import spread
from lowrank.views.report.page import page
from lowrank.views.table.choice import find_of
from lowrank.views.table.rows import RunRow, common_definition, read_rows


def write_report(
    paths: Sequence[str | Path],
    output: str | Path,
    sections: Sequence[str] = (),
    command: str = "",
    *,
    sweep: str | None = None,
    reload: int = 0,
) -> list[str]:
    """Writes runs as one HTML file.

    Args:
        paths: Run directories, directories of runs, record files or W&B run paths.
        output: The file to write; an existing one is replaced.
        sections: Ids of up to 20 runs to show with their spectra; by default all runs or, of more
            than 20, those spread evenly from the lowest to the highest last rank.
        command: How the page says that it was made.
        sweep: The runs of one sweep only, as `lowrank.views.table.choice.of_sweep` takes it.
        reload: Seconds after which the page loads itself again; 0 for never.

    Returns:
        Lines on what is in it.

    Raises:
        InputError: With a line for everything that is wrong with the paths, the sections or the
            output.
    """
    runs, _, unread = find_of([str(path) for path in paths], sweep)
    definition = common_definition(runs)
    rows, damaged = read_rows(runs, definition)
    if not rows:
        raise InputError([*unread, *damaged])
    by_path = {each.path: each for each in runs}
    runs = [by_path[row.path] for row in rows]
    named = [_named(each.path) for each in runs]
    data: dict[str, Any] = overview(runs, rows, named)
    data["matrices"], without = None, dict[int, list[str]]()
    if len(runs) > 1:
        groups = [row["group"] for row in data["runs"]]
        data["matrices"], without = matrices(runs, rows, groups, definition)
        damaged += [line for lines in without.values() for line in lines]
    chosen = [place for place in _chosen(runs, rows, sections) if place not in without]
    data["sections"] = []
    for place in chosen:
        try:
            data["sections"].append({"run": place, **section(runs[place], len(chosen))})
        except RecordError as error:
            damaged += [f"no spectra: {line}" for line in error.lines]
    if unlisted := data["unlisted"]:
        damaged.append(
            f"{len(unlisted)} metrics cannot be chosen here, beside {len(data['metrics'])} others: "
            f"{', '.join(map(printable, unlisted[:5]))}{', ...' if len(unlisted) > 5 else ''}; "
            "lowrank figures --metric=NAME draws each"
        )
    notes = [*unread, *damaged]
    data["notes"] = [redact(note) for note in notes]
    data["made"] = {
        "command": redact(command),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "version": version("lowrank"),
        "reload": reload,
    }
    data["about"] = about(runs, rows, sweep)
    what = data["about"]["name"] or f"{len(runs)} runs"
    title = f"{runs[0].id if len(runs) == 1 else what}: ranks"
    content = page(data, title).encode("utf-8")
    with writing("output", output), replacing(Path(output)) as new:
        new.write_bytes(content)
    count = f"{len(runs)} run{'s' if len(runs) > 1 else ''}"
    spectra = f"{len(data['sections'])} with spectra"
    line = f"report of {count} ({spectra}), {len(content) / 1e6:.1f} MB: {output}"
    return [*notes, line]


def _named(path: Path) -> str:
    """Returns how a run is named on the command line."""
    directory = path.parent if path.name == "record.sqlite" else path
    with suppress(ValueError):
        directory = directory.resolve().relative_to(Path.cwd())
    return shlex.quote(str(directory))


def _chosen(runs: Sequence[Run], rows: Sequence[RunRow], asked: Sequence[str]) -> list[int]:
    """Returns the places of the runs that get a section.

    Raises:
        InputError: With a line for every id that no run has.
    """
    ids = [run.id for run in runs]
    refuse(
        f"runs: no run '{printable(each, 80)}' here{nearest(each[:60], ids)}"
        for each in asked
        if each not in ids
    )
    if asked:
        return [place for place, name in enumerate(ids) if name in asked]
    if len(runs) <= MOST_SECTIONS:
        return list(range(len(runs)))
    last = {place: row.ranks[-1] for place, row in enumerate(rows) if row.ranks.size}
    ranked = sorted((place for place in last if last[place] == last[place]), key=last.__getitem__)
    return [ranked[place] for place in spread(len(ranked), MOST_SECTIONS)]
