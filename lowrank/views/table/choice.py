"""Which of many runs are meant: those with some values of their settings."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import get_args, get_origin

from lowrank.common.errors import InputError
from lowrank.common.texts import nearest, one_of, printable
from lowrank.config import Config
from lowrank.config.sweepfile import load_sweep_file
from lowrank.config.values import read_value
from lowrank.config.yamltext import read_mapping
from lowrank.runs.find import Run
from lowrank.views.table.fields import plain, text
from lowrank.views.table.points import Plan


def where_of(given: str) -> dict[str, tuple[Hashable, ...]]:
    """Reads which values of settings are wanted.

    Args:
        given: A YAML mapping of settings to a value or a list of values.

    Returns:
        The values by setting, as configurations hold them.

    Raises:
        InputError: With a line for each thing that is wrong.
    """
    mapping, lines = read_mapping(given, "where"), list[str]()
    found: dict[str, tuple[Hashable, ...]] = {}
    for name, value in mapping.items():
        field = Config.model_fields.get(name)
        is_list = field is not None and get_origin(field.annotation) is tuple
        values = value if isinstance(value, list) and not is_list else [value]
        try:
            read = [v if field is None else read_value(field.annotation, v) for v in values]
        except ValueError:
            lines.append(f"where: {name}={printable(str(value))} is no value of {name}")
            continue
        literals = get_args(field.annotation) if field is not None else ()
        texts = [v for v in literals if isinstance(v, str)]
        wrong = [v for v in read if texts and v not in texts and v is not None]
        if wrong:
            near = nearest(str(wrong[0])[:60], texts)
            lines.append(
                f"where: {name} is {one_of(texts)}, not '{printable(str(wrong[0]))}'{near}"
            )
        found[name] = tuple(plain(v) for v in read)
    if lines:
        raise InputError(lines)
    return found


def chosen(runs: Sequence[Run], where: Mapping[str, Sequence[Hashable]]) -> list[Run]:
    """Chooses runs by their settings.

    Args:
        runs: All runs.
        where: The values wanted, by setting.

    Returns:
        The runs that have them, at least one.

    Raises:
        InputError: If no run has a setting of this name, or none has these values.
    """
    names = sorted({name for run in runs for name in run.config})
    lines = [
        f"where: no run has a setting '{printable(name)}'{nearest(name[:60], names)}"
        for name in where
        if name not in names
    ]
    if lines:
        raise InputError(lines)
    found = [
        run
        for run in runs
        if all(plain(run.config.get(name)) in wanted for name, wanted in where.items())
    ]
    if not found:
        there = "; ".join(
            f"{name} is " + ", ".join(sorted({text(plain(run.config.get(name))) for run in runs}))
            for name in where
        )
        raise InputError(f"where: none of {len(runs)} runs has these values; {there}")
    return found


def read_plan(path: str) -> Plan:
    """Reads the points of a sweep file.

    Args:
        path: The file.

    Returns:
        The plan.
    """
    file = load_sweep_file(path)
    return Plan.of([config.recorded() for config in file.configs()], file.swept)
