"""The table of all rows: kept as results.json, written into the README between two marks."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.timing import Row
from lowrank.common.errors import Failure

BLOCK = re.compile(r"(<!-- written by make bench -->\n).*?(<!-- end -->)", re.DOTALL)
DEVICES = {"cpu": "CPU", "cuda": "GPU"}
COLUMNS = ("ours", "baseline", "ratio", "target", "")


@dataclass(frozen=True)
class Results:
    """What one program measured on one device.

    Attributes:
        where: Machine, versions and date.
        seconds: That the program took.
        rows: Of the table.
    """

    where: str
    seconds: float
    rows: Sequence[Row]


Table = dict[str, dict[str, Results]]
"""Results by device, ``cpu`` or ``cuda``, and program."""


def save(path: Path, table: Mapping[str, Mapping[str, Results]]) -> None:
    """Writes the results as JSON.

    Args:
        path: Of the file; it is replaced.
        table: All results.
    """
    plain: dict[str, Any] = {
        device: {
            name: {
                "where": of.where,
                "seconds": round(of.seconds, 1),
                "rows": [row.to_json() for row in of.rows],
            }
            for name, of in programs.items()
        }
        for device, programs in table.items()
    }
    path.write_text(json.dumps(plain, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def load(path: Path) -> Table:
    """Reads what `save` wrote.

    Args:
        path: Of the file.

    Returns:
        The results; none where there is no file.
    """
    table: Table = {device: {} for device in DEVICES}
    if path.exists():
        for device, programs in json.loads(path.read_text(encoding="utf-8")).items():
            for name, of in programs.items():
                rows = [Row.from_json(row) for row in of["rows"]]
                table[device][name] = Results(of["where"], of["seconds"], rows)
    return table


def markdown(table: Mapping[str, Mapping[str, Results]]) -> str:
    """Makes the table of the README, a column group for each device.

    Args:
        table: All results.

    Returns:
        Markdown: the table, then machine and versions.
    """
    groups = [f"{name} {column}".strip() for name in DEVICES.values() for column in COLUMNS]
    lines = [
        f"| what | baseline | {' | '.join(groups)} |",
        f"|---|---|{'|'.join(['---:', '---:', '---:', '---:', '---'] * len(DEVICES))}|",
    ]
    found = {
        device: {(row.what, row.baseline): row for of in programs.values() for row in of.rows}
        for device, programs in table.items()
    }
    for key in dict.fromkeys(key for rows in found.values() for key in rows):
        what, baseline = key
        cells = [cell for device in DEVICES for cell in _cells(found.get(device, {}).get(key))]
        lines.append(f"| {what} | {baseline or '–'} | {' | '.join(cells)} |")
    notes = [_note(name, table.get(device, {})) for device, name in DEVICES.items()]
    return "\n".join([*lines, "", *notes])


def write_readme(path: Path, table: Mapping[str, Mapping[str, Results]]) -> None:
    """Replaces what stands in the README between the marks.

    Args:
        path: The README.
        table: All results.

    Raises:
        Failure: If it has no marks.
    """
    text = f"{markdown(table)}\n"
    page, count = BLOCK.subn(
        lambda match: f"{match[1]}{text}{match[2]}", path.read_text(encoding="utf-8")
    )
    if not count:
        raise Failure(f"{path} has no place for the table: {BLOCK.pattern}")
    path.write_text(page, encoding="utf-8")


def _cells(row: Row | None) -> list[str]:
    if row is None:
        return [""] * len(COLUMNS)
    theirs = "" if row.theirs is None else f"{row.theirs.text()} {row.unit}"
    verdict = row.verdict()
    shown = f"**{verdict}**" if verdict == "missed" else verdict
    ours = f"{row.ours.text()} {row.unit}".strip()
    return [ours, theirs.strip(), row.shown_ratio(), row.demand, shown]


def _note(name: str, programs: Mapping[str, Results]) -> str:
    """Returns a line about one device: where its numbers come from."""
    if not programs:
        return f"- {name}: none was available, its columns are empty."
    places: dict[str, list[str]] = {}
    for program, of in programs.items():
        places.setdefault(of.where, []).append(program)
    if len(places) == 1:
        return f"- {name}: {next(iter(places))}."
    return "\n".join(f"- {name}, {', '.join(of)}: {where}." for where, of in places.items())
