"""Which of many runs are meant: those with some values of their settings, or of one sweep."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import get_args, get_origin

from lowrank.common.errors import InputError, refuse
from lowrank.common.texts import nearest, one_of, printable
from lowrank.config import Config
from lowrank.config.settings import SAME_EXPERIMENT, defaults
from lowrank.config.sweepfile import is_sweep_file, load_sweep_file
from lowrank.config.values import read_value
from lowrank.config.yamltext import read_mapping
from lowrank.runs.derived import is_derived
from lowrank.runs.find import Run
from lowrank.runs.sweeps import is_of
from lowrank.runs.sweeps import sweep_of as sweep_name
from lowrank.views.table.fields import in_order, plain, settings, text
from lowrank.views.table.points import Plan, at_points
from lowrank.views.table.rows import find


def where_of(given: str, flag: str = "where") -> dict[str, tuple[Hashable, ...]]:
    """Reads which values of settings are wanted.

    Args:
        given: A YAML mapping of settings to a value or a list of values.
        flag: Which flag gives it, for complaints.

    Returns:
        The values by setting, as configurations hold them.

    Raises:
        InputError: With a line for each thing that is wrong.
    """
    mapping, lines = read_mapping(given, flag), list[str]()
    found: dict[str, tuple[Hashable, ...]] = {}
    for name, value in mapping.items():
        field = Config.model_fields.get(name)
        is_list = field is not None and get_origin(field.annotation) is tuple
        values = value if isinstance(value, list) and not is_list else [value]
        try:
            read = [v if field is None else read_value(field.annotation, v) for v in values]
        except ValueError:
            lines.append(f"{flag}: {name}={printable(str(value))} is no value of {name}")
            continue
        literals = get_args(field.annotation) if field is not None else ()
        texts = [v for v in literals if isinstance(v, str)]
        wrong = [v for v in read if texts and v not in texts and v is not None]
        if wrong:
            near = nearest(str(wrong[0])[:60], texts)
            lines.append(
                f"{flag}: {name} is {one_of(texts)}, not '{printable(str(wrong[0]))}'{near}"
            )
        found[name] = tuple(plain(v) for v in read)
    refuse(lines)
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
    refuse(
        f"where: no run has a setting '{printable(name)}'{nearest(name[:60], names)}"
        for name in where
        if name not in names
    )
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


def find_of(paths: Sequence[str], sweep: str | None) -> tuple[list[Run], Plan | None, list[str]]:
    """Finds the runs below some paths: all of them, or those of one sweep.

    Args:
        paths: As `lowrank.views.table.rows.find` takes them.
        sweep: As `of_sweep` takes it; empty for all.

    Returns:
        As `of_sweep`.

    Raises:
        InputError: If there is no such run.
    """
    runs, lines = find(paths)
    if not sweep:
        return runs, None, lines
    runs, plan, more = of_sweep(runs, sweep)
    return runs, plan, [*lines, *more]


def of_sweep(runs: Sequence[Run], sweep: str) -> tuple[list[Run], Plan | None, list[str]]:
    """Chooses the runs of one sweep, and no others.

    Those that a record says to be of it are. A sweep file also stands for runs of a W&B sweep, or
    of none, that have its fixed values: W&B's ids are not in it. What it does not name is meant to
    be at its default, where runs differ in it.

    Args:
        runs: All runs.
        sweep: A sweep file, the name of a sweep without a server or the beginning of its runs' ids,
            or a W&B sweep's id, path or address.

    Returns:
        The runs; the points of a file that has a list of them; and lines on what was left out and
        which fixed values of the file were overridden.

    Raises:
        InputError: If the file is none, or no run is of the sweep.
    """
    file = load_sweep_file(sweep) if is_sweep_file(sweep) else None
    name, fixed = (file.name, file.fixed) if file else (sweep, {})
    members, left_out = [], defaultdict[str, list[str]](list)
    for run in runs:
        own = sweep_name(run)
        if is_of(run, name):
            members.append(run)
        elif file is None or run.config.get("sweep") is not None:
            left_out["of the sweep " + printable(own) if own else "of no sweep"].append(run.id)
        elif reason := _differing(settings(run), fixed):
            left_out[reason].append(run.id)
        else:
            members.append(run)
    lines: list[str] = []
    if file is not None:
        expected = {n: plain(v) for n, v in (defaults() | fixed).items() if n not in file.swept}
        found = {run.path: settings(run) for run in members}
        for field, value in expected.items():
            is_compared = field not in SAME_EXPERIMENT
            at = {
                run.path: found[run.path].get(field)
                if is_compared
                else plain(run.config.get(field, value))
                for run in members
            }
            if is_compared and len(set(at.values())) > 1 and value in at.values():
                for run in members:
                    if at[run.path] != value:
                        left_out[_differing(found[run.path], {field: value})].append(run.id)
                members = [run for run in members if at[run.path] == value]
            elif field in fixed and members and value not in at.values():
                values = ", ".join(text(each) for each in in_order(at.values()))
                lines.append(f"overridden: {field}={values}, {text(value)} in {file.path}")
    plan = None
    if file is not None and file.method == "grid":
        plan = Plan.of([config.recorded() for config in file.configs()], file.swept)
        members, strangers = at_points(members, plan)
        lines += strangers
    for reason, ids in left_out.items():
        some = f"run {ids[0]} is" if len(ids) == 1 else f"{len(ids)} runs are"
        lines.append(f"left out: {some} {reason}")
    if not members:
        names = {each for run in runs if (each := sweep_name(run))}
        raise InputError([*lines, f"sweep: no run is of {printable(name)}{nearest(name, names)}"])
    return members, plan, lines


def _differing(found: Mapping[str, Hashable], wanted: Mapping[str, Hashable]) -> str:
    """Returns in words the first wanted values that a run does not have; empty if it has all."""
    other = [n for n, value in wanted.items() if n not in SAME_EXPERIMENT and found.get(n) != value]
    if not other:
        return ""
    has, wants = ([f"{n}={text(each.get(n))}" for n in other[:3]] for each in (found, wanted))
    return f"at {' '.join(has)}, not at {' '.join(wants)}"


def known_metric(name: str, runs: Sequence[Run]) -> str:
    """Makes sure that a metric was recorded, or can be derived from recorded spectra.

    Args:
        name: Of the metric.
        runs: Where it is looked for.

    Returns:
        The name.

    Raises:
        InputError: If no run has it; the nearest one that some run has is named.
    """
    names = dict.fromkeys(metric for run in runs for metric in run.metrics)
    if name not in names and not any(is_derived(name, [*run.layers, *run.derived]) for run in runs):
        raise InputError(
            f"metric: no run has recorded '{printable(name)}'{nearest(name[:60], names)}"
        )
    return name
