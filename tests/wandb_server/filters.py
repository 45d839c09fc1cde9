"""The part of MongoDB's query language that W&B's public API filters runs with."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from tests.wandb_server.state import Run

COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "$eq": operator.eq,
    "$ne": operator.ne,
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
    "$in": lambda value, wanted: value in wanted,
    "$nin": lambda value, wanted: value not in wanted,
    "$regex": lambda value, wanted: re.search(wanted, value) is not None,
}


def matches(run: Run, filters: Mapping[str, Any]) -> bool:
    """Returns whether a run fulfils all conditions.

    Args:
        run: The run.
        filters: Conditions by field, such as ``{"config.lr": {"$gt": 0.1}}``, or ``$and``, ``$or``.

    Raises:
        ValueError: If a field or an operator is not known here.
    """
    for name, condition in filters.items():
        if name == "$and":
            fulfilled = all(matches(run, part) for part in condition)
        elif name == "$or":
            fulfilled = any(matches(run, part) for part in condition)
        else:
            fulfilled = _compare(_field(run, name), condition)
        if not fulfilled:
            return False
    return True


def _compare(value: Any, condition: Any) -> bool:
    if not isinstance(condition, Mapping):
        return condition in value if isinstance(value, list) else bool(value == condition)
    unknown = condition.keys() - COMPARISONS.keys()
    if unknown:
        raise ValueError(f"this server cannot filter by {', '.join(sorted(unknown))}")
    return all(COMPARISONS[name](value, wanted) for name, wanted in condition.items())


def _field(run: Run, name: str) -> Any:
    prefix, _, rest = name.partition(".")
    if prefix == "config":
        return run.config.get(rest.removesuffix(".value"))
    if prefix in ("summary_metrics", "summaryMetrics"):
        return run.summary.get(rest)
    fields = {
        "name": run.id,
        "state": run.state,
        "tags": run.details.get("tags") or [],
        "display_name": run.details.get("displayName"),
        "group": run.details.get("groupName"),
        "displayName": run.details.get("displayName"),
        "jobType": run.details.get("jobType"),
        # Clients filter by a sweep's name or by the id of its node.
        "sweep": [run.sweep, f"Sweep:{run.sweep}"],
    }
    if name not in fields:
        raise ValueError(f"this server cannot filter by {name}")
    return fields[name]
