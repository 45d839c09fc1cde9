"""Sweep files: W&B's YAML, checked against W&B's schema and the configuration, and its points.

The same file serves `wandb sweep` and `lowrank sweep`: what is a valid file here is one there.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lowrank.common.errors import InputError, collected, refuse
from lowrank.common.texts import printable
from lowrank.config import Config, Given
from lowrank.config.arguments import parse
from lowrank.config.rules import conflicts
from lowrank.config.settings import FIELDS_ONLY, defaults
from lowrank.config.sources import bad_values
from lowrank.config.sweepfile import schema
from lowrank.config.sweepfile.keys import plain, problems
from lowrank.config.sweepfile.local import refusals
from lowrank.config.sweepfile.parameters import (
    COUPLED,
    Distribution,
    Parameter,
    canonical,
    choices,
    complaints,
    fields_of,
    given_twice,
    read,
    steps,
    values_of,
    varied,
)
from lowrank.config.yamltext import read_file, read_yaml

LARGEST_FILE = 200_000  # bytes; ours have about 3,000
LARGEST_GRID = 100_000  # points that are made; W&B advises 10,000 runs a project at most
DEEPEST = 8  # the file, parameters, one of them, values, a mapping, a list in it; two to spare
MOST_LINES = 20  # complaints about the points of one grid


class Metric(NamedTuple):
    """What a search optimises.

    Attributes:
        name: As it is logged.
        goal: ``minimize`` or ``maximize``.
    """

    name: str
    goal: str


@dataclass(frozen=True)
class SweepFile:
    """A valid sweep file.

    Attributes:
        path: The file.
        name: Its ``name``, else the file's name without ending.
        description: Its ``description``, else empty.
        method: ``grid``, ``random`` or ``bayes``.
        metric: What is optimised, if the file says.
        parameters: By name, in the file's order. All but `config` are fields of `Config`.
        early_terminate: W&B's Hyperband settings, if there are any.
        run_cap: The most runs that there may be, if the file says.
        raw: The file as YAML reads it, brought to one form (`lowrank.config.sweepfile.keys.plain`),
            with all else it says (``project``, ``entity``, …).
    """

    path: Path
    name: str
    description: str
    method: str
    metric: Metric | None
    parameters: Mapping[str, Parameter]
    early_terminate: Mapping[str, Any] | None
    run_cap: int | None
    raw: Mapping[str, Any]

    @functools.cached_property
    def swept(self) -> tuple[str, ...]:
        """The fields that vary over the sweep, coupled ones included, in `Config`'s order."""
        return varied(self.parameters, str(self.path))

    @property
    def fixed(self) -> dict[str, Any]:
        """The fields that the file gives one value, as the configuration has it."""
        given = (fields for values in self._listed() for fields in values)
        found = {field: canonical(field, fields) for fields in given for field in fields}
        return {field: value for field, value in found.items() if field not in self.swept}

    def _listed(self) -> Iterator[list[dict[str, Any]]]:
        """Yields for each parameter that lists its values the fields that each of these gives."""
        for name, parameter in self.parameters.items():
            if not isinstance(parameter, Distribution):
                yield [fields_of(name, value, str(self.path)) for value in values_of(parameter)]

    @property
    def count(self) -> int | None:
        """The number of points of a grid, found without making them; None for other methods."""
        if self.method != "grid":
            return None
        return math.prod(steps(parameter) for parameter in self.parameters.values())

    def points(self) -> list[dict[str, Any]]:
        """Makes every point of a grid, each once, in the order in which W&B hands them out.

        W&B's search sorts the parameters by name and takes the product of their values, which
        keep the file's order: the last name changes fastest.

        Returns:
            For each point the value of every parameter, fixed ones included.

        Raises:
            InputError: If the method is not grid, or there are more than 100,000 points.
        """
        count = self.count
        if count is None:
            raise InputError(f"{self.path}: method {self.method} has no list of points, only grid")
        if count > LARGEST_GRID:
            raise InputError(f"{self.path}: {count} points; allowed: at most {LARGEST_GRID}")
        names = sorted(self.parameters)
        grid = itertools.product(*(choices(self.parameters[name]) for name in names))
        return [dict(zip(names, values, strict=True)) for values in grid]

    def command(
        self, point: Mapping[str, Any], overrides: Mapping[str, Any] | None = None
    ) -> list[str]:
        """Returns the words after ``python train.py`` that make the run of a point.

        They are those of `wandb agent`: ``--lr=0.1``, ``--batch_norm=True``, ``--seed=None``,
        ``--milestones=[60, 100, 200]``.

        Args:
            point: The value of each parameter.
            overrides: Fields that have another value at every point, also where they are swept.

        Returns:
            One word for each parameter, then those for further overrides.
        """
        return [
            f"--{name}={list(value) if isinstance(value, tuple) else value}"
            for name, value in {**point, **(overrides or {})}.items()
        ]

    def config(
        self,
        point: Mapping[str, Any],
        overrides: Mapping[str, Any] | None = None,
        notes: list[str] | None = None,
    ) -> Config:
        """Returns the configuration of a point: what ``train.py`` makes of `command` in a sweep.

        Where a field has no effect it is left at its default. The environment has no part in it.

        Args:
            point: The value of each parameter.
            overrides: Fields that have another value at every point.
            notes: What is left at its default is added here.

        Returns:
            The configuration.

        Raises:
            InputError: A line for each thing that is wrong.
        """
        command = self.command(point, overrides)
        return parse(command, environ={}, settle=Config.model_fields, notes=notes)

    def contradictions(
        self, overrides: Mapping[str, Any] | None = None, unread: Collection[str] = ()
    ) -> list[str]:
        """Returns what fields say against each other that have one value at every point.

        Args:
            overrides: Fields that have another value at every point. What one of them leaves
                without effect is no mistake of the file.
            unread: Fields of which nothing is said, as what the file says of them is no value.

        Returns:
            A line for each conflict.
        """
        given = {name: value for values in self._listed() for name, value in values[0].items()}
        own = overrides or {}
        config = Config.model_validate(given | dict(own), context=FIELDS_ONLY)
        return [
            text
            for names, text in conflicts(config, defaults())
            if {*names}.isdisjoint((*self.swept, *unread))
            and len({*names} & own.keys()) in (0, len(names))
        ]

    def configs(self, overrides: Mapping[str, Any] | None = None) -> list[Config]:
        """Returns the configuration of every point of a grid.

        Args:
            overrides: Fields that have another value at every point.

        Returns:
            The configurations, each once, in the order of `points`.
        """
        return list(self.distinct(overrides))

    def distinct(self, overrides: Mapping[str, Any] | None = None) -> dict[Config, dict[str, Any]]:
        """Returns the points of a grid by their configurations.

        An override replaces the values of a swept field; points that are then the same are one.

        Args:
            overrides: Fields that have another value at every point.

        Returns:
            Each configuration with its first point, in the order of `points`.

        Raises:
            InputError: A line for each thing that is wrong, at most 20 about the points.
        """
        given = {name: Given(value, f"--{name}") for name, value in (overrides or {}).items()}
        refuse(bad_values(given).values())
        lines = self.contradictions(overrides)
        found: dict[Config, dict[str, Any]] = {}
        for point in self.points():
            with collected(lines):
                found.setdefault(self.config(point, overrides), point)
        if lines := [f"{self.path}: {line}" for line in dict.fromkeys(lines)]:
            more = [f"{self.path}: and {len(lines) - MOST_LINES} more"]
            raise InputError(lines[:MOST_LINES] + (more if len(lines) > MOST_LINES else []))
        return found


def is_sweep_file(name: str) -> bool:
    """Returns whether the name of a sweep is that of a file.

    Args:
        name: As the user gave it.
    """
    return name.endswith((".yaml", ".yml"))


def load_sweep_file(
    path: str | Path,
    without_server: Mapping[str, Any] | None = None,
    *,
    has_end: bool = False,
) -> SweepFile:
    """Reads and checks a sweep file.

    What the fields of one point say against each other is checked by `SweepFile.configs`, as
    overrides can settle it; a file that is refused without W&B's server is told of it as well.

    Args:
        path: The file.
        without_server: The overrides, where it is to run without W&B's server: what that needs is
            refused too.
        has_end: Whether the number of its points is limited in another place than the file.

    Returns:
        The sweep.

    Raises:
        InputError: A line for each thing that is wrong.
    """
    where = printable(str(path), 200)
    try:
        text = read_file(path, longest=LARGEST_FILE, kind="sweep file")
        raw = read_yaml(text, typed=True, longest=LARGEST_FILE, deepest=DEEPEST, aliases=True)
    except ValueError as error:
        raise InputError(f"{where} is not plain YAML: {error}") from None
    if not isinstance(raw, dict):
        raise InputError(f"{where} must be a mapping with method, program and parameters")
    refuse(f"{where}: {line}" for line in schema.not_json(raw))
    raw, lines = plain(raw)
    name = str(raw.get("name") or Path(path).stem)
    lines = [f"{where}: {line}" for line in (*problems(raw, name), *lines)]
    parameters: dict[str, Parameter] = {}
    sound: dict[str, Parameter] = {}
    entries = raw.get("parameters")
    for field, entry in entries.items() if isinstance(entries, dict) else ():
        if found := [f"{where}: {line}" for line in schema.of_parameter(field, entry)]:
            lines += found
            continue
        if schema.kind_of(entry) == "dict":
            lines.append(
                f"{where}: parameters.{printable(field)}: nested parameters are not read; write "
                f"them side by side, or values that change together as values of '{COUPLED}'"
            )
            continue
        parameters[field] = read(entry)
        found = list(complaints(field, parameters[field], str(raw.get("method")), where))
        lines += found
        if not found:
            sound[field] = parameters[field]
    lines += given_twice(parameters, where)
    if without_server is not None:
        refused = refusals(raw, parameters, without_server, has_end=has_end)
        lines += (f"{where}: {line}" for line in refused)
    metric = raw.get("metric") if not lines else None
    sweep = SweepFile(
        path=Path(path),
        name=name,
        description=raw.get("description") or "",
        method=str(raw.get("method")),
        metric=Metric(metric["name"], metric.get("goal", "minimize")) if metric else None,
        parameters=sound,
        early_terminate=raw.get("early_terminate"),
        run_cap=raw.get("run_cap"),
        raw=raw,
    )
    if lines and without_server is not None and isinstance(entries, dict):
        lines += _of_points(sweep, without_server, entries.keys() - sound.keys(), where)
    refuse(dict.fromkeys(lines))
    return sweep


def _of_points(
    sweep: SweepFile, overrides: Mapping[str, Any], unread: Collection[str], where: str
) -> list[str]:
    """Returns what the fields of one point say against each other, where all of them are known."""
    if COUPLED in unread:  # any field may be in it
        return []
    if unread or sweep.method != "grid":
        return [f"{where}: {line}" for line in sweep.contradictions(overrides, unread)]
    lines: list[str] = []
    with collected(lines):
        sweep.distinct(overrides)
    return lines
