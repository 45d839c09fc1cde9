"""From run records on disk to one HTML file."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lowrank.common.errors import InputError
from lowrank.common.files import replacing
from lowrank.common.secrets import redact
from lowrank.common.texts import nearest, printable
from lowrank.runs.find import Run
from lowrank.runs.format import RecordError
from lowrank.views.report import MOST_SECTIONS
from lowrank.views.report.many import needed, overview
from lowrank.views.report.one import section
from lowrank.views.report.packing import spread
from lowrank.views.report.page import page
from lowrank.views.table.choice import of_sweep
from lowrank.views.table.rows import RunRow, common_definition, find, read_rows


@dataclass(frozen=True)
class Written:
    """What a report holds.

    Attributes:
        path: The file.
        lines: For the reader at the terminal.
    """

    path: Path
    lines: list[str]


def write_report(
    paths: Sequence[str | Path],
    output: str | Path,
    sections: Sequence[str] = (),
    command: str = "",
    *,
    sweep: str | None = None,
) -> Written:
    """Writes runs as one HTML file.

    Args:
        paths: Run directories, directories of runs, record files or W&B run paths.
        output: The file to write; an existing one is replaced.
        sections: Ids of up to 20 runs to show with their spectra; by default all runs or, of more
            than 20, those spread evenly from the lowest to the highest last rank.
        command: How the page says that it was made.
        sweep: The runs of one sweep only, as `lowrank.views.table.choice.of_sweep` takes it.

    Returns:
        The file, and lines on what is in it.

    Raises:
        InputError: With a line for everything that is wrong with the paths, the sections or the
            output.
    """
    runs, unread = find([str(path) for path in paths])
    if sweep:
        runs, _, lines = of_sweep(runs, sweep)
        unread += lines
    for each in runs:
        _preload(each)
    rows, damaged = read_rows(runs, common_definition(runs))
    if not rows:
        raise InputError([*unread, *damaged])
    by_path = {each.path: each for each in runs}
    runs = [by_path[row.path] for row in rows]
    named = [_named(each.path) for each in runs]
    data: dict[str, Any] = overview(runs, rows, named)
    chosen = _chosen(runs, rows, sections)
    data["sections"] = []
    for place in chosen:
        try:
            data["sections"].append({"run": place, **section(runs[place], len(chosen))})
        except RecordError as error:
            damaged += [f"no section: {line}" for line in error.lines]
    notes = [*unread, *damaged]
    data["notes"] = [redact(note) for note in notes]
    data["made"] = {
        "command": redact(command),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "version": version("lowrank"),
    }
    title = f"{runs[0].id}: ranks" if len(runs) == 1 else f"{len(runs)} runs: ranks"
    size = _write(Path(output), page(data, title))
    count = f"{len(runs)} run{'s' if len(runs) > 1 else ''}"
    spectra = f"{len(data['sections'])} with spectra"
    line = f"report of {count} ({spectra}), {size / 1e6:.1f} MB: {output}"
    return Written(Path(output), [*notes, line])


def _preload(run: Run) -> None:
    """Reads in one look what a row needs. What is damaged is told when the row is read."""
    with suppress(RecordError):
        names = [n for n in run.metrics if n == "rank_mean" or n.startswith("rank_mean@")]
        run.preload([*names, *needed(), "collapsed", "dead"])


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
    unknown = [each for each in asked if each not in ids]
    if unknown:
        raise InputError(
            [
                f"runs: no run '{printable(each, 80)}' here{nearest(each[:60], ids)}"
                for each in unknown
            ]
        )
    if asked:
        return [place for place, name in enumerate(ids) if name in asked]
    if len(runs) <= MOST_SECTIONS:
        return list(range(len(runs)))
    last = {place: row.ranks[-1] for place, row in enumerate(rows) if row.ranks.size}
    ranked = sorted((place for place in last if last[place] == last[place]), key=last.__getitem__)
    return [ranked[place] for place in spread(len(ranked), MOST_SECTIONS)]


def _write(output: Path, text: str) -> int:
    """Writes a file that is whole or not there.

    Returns:
        Its size in bytes.

    Raises:
        InputError: If it cannot be written.
    """
    content = text.encode("utf-8")
    try:
        with replacing(output) as new:
            new.write_bytes(content)
    except OSError as error:
        raise InputError(
            f"output: cannot write {printable(str(output), 200)} ({error.strerror})"
        ) from error
    return len(content)
