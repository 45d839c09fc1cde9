"""Sweeps that grow: what a changed file has to do with the points of an earlier one.

A file continues a sweep if every earlier point is a point of it. Points keep their numbers, and
with them their runs; new ones get the next. More epochs are no new points: the same runs go on.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lowrank.config import Config
from lowrank.config.optimizers import keeps_state
from lowrank.config.settings import FREE_ON_RESUME
from lowrank.config.sweepfile import COUPLED, Distribution, Fixed, Metric, Parameter, SweepFile
from lowrank.config.sweepfile.local import is_mapped
from lowrank.config.sweepfile.parameters import canonical, read, values_of
from lowrank.config.values import read_value
from lowrank.launch.sweeps.search import Search

_KEPT = "keep_checkpoint"  # of earlier runs, it decides whether they can go on
_RANGES = ("uniform", "int_uniform", "log_uniform_values", "inv_log_uniform_values")


def definition_of(search: Search) -> dict[str, Any]:
    """Returns what decides a sweep's points, as JSON types, without what may differ by machine.

    Args:
        search: The points.
    """
    raw = search.sweep.raw
    overrides = {
        name: read_value(Config.model_fields[name].annotation, value)
        for name, value in search.overrides.items()
        if name not in FREE_ON_RESUME or name == _KEPT
    }
    definition = {
        "method": raw["method"],
        "metric": raw.get("metric"),
        "parameters": dict(raw["parameters"]),
        "overrides": overrides,
        "environment": search.environment,
    }
    return dict(json.loads(json.dumps(definition)))


def search_of(definition: Mapping[str, Any], like: SweepFile) -> Search:
    """Returns the points that a sweep had.

    Args:
        definition: From `definition_of`.
        like: The sweep's present file, whose name and path it has.
    """
    metric = definition["metric"]
    file = SweepFile(
        path=Path(like.path),
        name=like.name,
        description="",
        method=definition["method"],
        metric=Metric(metric["name"], metric.get("goal", "minimize")) if metric else None,
        parameters={name: read(entry) for name, entry in definition["parameters"].items()},
        early_terminate=None,
        run_cap=1,
        raw=definition,
    )
    return Search(file, definition["overrides"], environment=definition.get("environment", {}))


def contradictions(before: Search, now: Search) -> dict[str, str]:
    """Finds what keeps a sweep from going on as another file has it.

    Args:
        before: As it was begun, or grew to.
        now: As it is asked for.

    Returns:
        Why, in words that may be empty, by the name of what contradicts; empty if each earlier
        point is a point now.
    """
    found: dict[str, str] = {}
    if before.sweep.method != now.sweep.method:
        found["method"] = ""
    if (before.metric, before.direction) != (now.metric, now.direction):
        found["metric"] = ""
    if found:
        return found
    if before.grid is None or now.grid is None:
        names = {**before.sweep.parameters, **now.sweep.parameters}
        names |= {**before.overrides, **now.overrides, **before.environment, **now.environment}
        for name in names:
            is_free = name in (*FREE_ON_RESUME, "epochs")
            if not is_free and not _holds(name, _parameter(now, name), _parameter(before, name)):
                found[name] = ""
    else:
        found |= _lost(before.configs, now.configs, _counts_epochs([before, now]))
    return found | _of_epochs(before, now)


def grow(search: Search, earlier: Sequence[Search]) -> None:
    """Makes a sweep's points go on where earlier ones end.

    Args:
        search: The points, in any order; afterwards each earlier one has its number again.
        earlier: As the sweep was, the oldest first; each is a part of the next.
    """
    search.first_epochs = earlier[0].epochs
    if search.grid is not None:
        counts = _counts_epochs([*earlier, search])
        order: dict[Any, int] = {}
        for each in [*earlier, search]:
            for config in each.configs:
                order.setdefault(_key(config, counts), len(order))
        places = [order[_key(config, counts)] for config in search.configs]
        pairs = sorted(zip(places, search.grid, strict=True), key=lambda pair: pair[0])
        search.grid[:] = [point for _, point in pairs]
        del search.configs
    for name in search.varied:
        spaces = [each.space().get(name) for each in [*earlier, search]]
        choices = [getattr(space, "choices", None) for space in spaces if space is not None]
        changes = sum(a != b for a, b in itertools.pairwise(choices))
        if changes:
            search.spelled[name] = f"{name}#{changes + 1}"
        for each in earlier:
            if isinstance(fixed := _parameter(each, name), Fixed):
                search.stood[name] = fixed.value


def growth_lines(search: Search, before: Search) -> list[str]:
    """Returns in lines how a sweep has grown.

    Args:
        search: As it is.
        before: As it was.
    """
    lines = []
    old, new = len(before.grid or ()), len(search.grid or ())
    if old != new:
        lines.append(f"it has grown from {old} to {new} points")
    if before.epochs is not None and search.epochs is not None and before.epochs != search.epochs:
        lines.append(
            f"it has grown from {before.epochs} to {search.epochs} epochs: earlier runs go on from "
            "their checkpoints"
        )
    return lines or ["it has grown: earlier points are points of it"]


def _counts_epochs(searches: Sequence[Search]) -> bool:
    """Returns whether points differ in their epochs: else a larger number makes no new points."""
    return any(search.epochs is None for search in searches)


def _key(config: Config, counts_epochs: bool) -> tuple[Any, ...]:
    left_out = FREE_ON_RESUME if counts_epochs else (*FREE_ON_RESUME, "epochs")
    return tuple(value for name, value in config if name not in left_out)


def _lost(before: Sequence[Config], now: Sequence[Config], counts_epochs: bool) -> dict[str, str]:
    """Returns the fields whose values say which points of a grid are there no more."""
    kept = {_key(config, counts_epochs) for config in now}
    gone = [config for config in before if _key(config, counts_epochs) not in kept]
    names = [name for name in Config.model_fields if name not in FREE_ON_RESUME]
    if not counts_epochs:
        names.remove("epochs")
    found = {
        name: ""
        for name in names
        if {getattr(config, name) for config in gone} - {getattr(config, name) for config in now}
    }
    return found or ({"parameters": f"lack {len(gone)} earlier points"} if gone else {})


def _of_epochs(before: Search, now: Search) -> dict[str, str]:
    """Returns why runs cannot go on to another number of epochs; nothing if they can."""
    old, new = before.epochs, now.epochs
    if old is None or new is None or old == new:
        return {}
    if new < old:
        return {"epochs": "a run cannot be made shorter"}
    if "cosine" in _all_of(now, "schedule"):
        return {"epochs": "with schedule=cosine all rates depend on it"}
    if any(old % every for every in _all_of(now, "measure_every")):
        return {"epochs": "earlier runs were measured at their last epoch, a longer one is not"}
    kept = _all_of(before, _KEPT) == {"all"}
    optimizers, momenta = _all_of(before, "optimizer"), _all_of(before, "momentum")
    if not kept and any(keeps_state(o, m) for o in optimizers for m in momenta):
        return {"epochs": "an optimizer with a state goes on only where keep_checkpoint was all"}
    return {}


def _all_of(search: Search, name: str) -> set[Any]:
    """Returns the values of a field at the points; those of a distribution stand for one."""
    if search.grid is not None:
        return {getattr(config, name) for config in search.configs}
    parameter = _parameter(search, name)
    if isinstance(parameter, Distribution):
        return {parameter.kind}
    return {canonical(name, {name: value}) for value in values_of(parameter)}


def _parameter(search: Search, name: str) -> Parameter:
    """Returns what a sweep says of a field, be it nothing."""
    for given in (search.overrides, search.environment):
        if name in given and name not in search.varied:
            return Fixed(given[name])
    if name in search.sweep.parameters:
        return search.sweep.parameters[name]
    return Fixed(None if name == COUPLED else Config.model_fields[name].default)


def _holds(name: str, now: Parameter, before: Parameter) -> bool:
    """Returns whether all that a field could be before it can be now."""
    if is_mapped(now) or is_mapped(before):  # its quantiles would have other values
        return now == before
    if isinstance(before, Distribution):
        if not isinstance(now, Distribution) or now.kind != before.kind:
            return False
        wide, narrow = dict(now.arguments), dict(before.arguments)
        inf = float("inf")
        is_wide = wide.pop("min", -inf) <= narrow.pop("min", -inf)
        return is_wide and wide.pop("max", inf) >= narrow.pop("max", inf) and wide == narrow
    if isinstance(now, Distribution):
        low, high = now.arguments.get("min", 0), now.arguments.get("max", 0)
        numbers = [canonical(name, {name: value}) for value in values_of(before)]
        return now.kind in _RANGES and all(low <= number <= high for number in numbers)

    def known(value: Any) -> str:
        plain = value if name == COUPLED or value is None else canonical(name, {name: value})
        return json.dumps(plain)

    return {known(v) for v in values_of(before)} <= {known(v) for v in values_of(now)}
