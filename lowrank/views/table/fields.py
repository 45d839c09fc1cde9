"""Which settings tell runs apart, and their values in words."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

from lowrank.common.texts import printable
from lowrank.config import Config
from lowrank.config.rules import has_effect
from lowrank.config.settings import SAME_EXPERIMENT, defaults, is_of_train_py
from lowrank.runs.find import Run
from lowrank.views.table.rows import RunRow

RUN = "run"
"""Stands for a setting where a record holds no configuration: such runs are no replicates."""

LONGEST_TEXT = 200
"""Characters of a foreign text in a legend."""

_WORDS = {
    "lr": "learning rate",
    "optimizer": "optimiser",
    "batch_norm": "BatchNorm",
    "weight_norm": "weight normalisation",
    "dataset": "data set",
}


def settings(row: RunRow | Run) -> dict[str, Hashable]:
    """Returns what makes a run this experiment: its configuration without seed, place and tracking.

    Args:
        row: The run.

    Returns:
        Values by field. A field that the record is too old to have has its default.

    """
    config = dict(row.config)
    if is_of_train_py(config):
        config = {**defaults(), **config}
    kept = {name: plain(value) for name, value in config.items() if name not in SAME_EXPERIMENT}
    if config.get("dataset") == "imagefolder":
        kept["data_dir"] = plain(config.get("data_dir"))
    if "seed" not in config:
        kept[RUN] = row.id
    return kept


def plain(value: Any) -> Hashable:
    """Returns a value of a configuration as one that can be compared and counted.

    Args:
        value: Of JSON's types.

    Returns:
        Tuples for lists, text for mappings and numbers that are not finite, else the value itself.

    Example:
        >>> plain([60, 100])
        (60, 100)
    """
    if isinstance(value, list | tuple):
        return tuple(plain(item) for item in value)
    if isinstance(value, dict):
        return json.dumps(value, sort_keys=True)
    try:
        is_plain = not isinstance(value, float | int) or math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        is_plain = False
    return value if is_plain and isinstance(value, Hashable) else str(value)


def varied(found: Sequence[Mapping[str, Hashable]]) -> tuple[str, ...]:
    """Returns the fields whose values differ.

    Args:
        found: `settings` of some runs.

    Returns:
        Names, in the order of the configuration, then the alphabet.
    """
    names = {name for each in found for name in each}
    differing = {name for name in names if len({each.get(name) for each in found}) > 1}
    if found and RUN in differing and differing != {RUN}:
        # Another loop's own settings, such as lr, tell its runs apart; W&B's config holds them.
        others = differing - {RUN}
        if len({tuple(each.get(name) for name in sorted(others)) for each in found}) == len(found):
            differing = others
    order = [name for name in Config.model_fields if name in differing]
    return (*order, *sorted(differing - set(order)))


def in_order(values: Iterable[Hashable]) -> list[Hashable]:
    """Sorts values of one field: None, then numbers, then texts and lists.

    Args:
        values: With or without repetition.

    Returns:
        Each once.

    Example:
        >>> in_order([0.1, None, 0.01, 0.1])
        [None, 0.01, 0.1]
    """

    def key(value: Hashable) -> tuple[int, Any]:
        if value is None:
            return (0, 0)
        return (1, value) if isinstance(value, int | float) else (2, str(value))

    return sorted(set(values), key=key)


def differing(rows: Sequence[RunRow]) -> tuple[list[str], list[dict[str, Hashable]]]:
    """Returns what tells runs apart in a table of them.

    Args:
        rows: The runs.

    Returns:
        The fields whose values differ, the seed last, and every run's settings with its seed: None
        for those of these fields that have no effect there.
    """
    found = [{**settings(row), "seed": plain(row.config.get("seed"))} for row in rows]
    names = varied(found)
    fields = [name for name in names if name not in (RUN, "seed")]
    for row, own in zip(rows, found, strict=True):
        if is_of_train_py(row.config):
            own.update({name: None for name in fields if not has_effect(name, own)})
    return [*fields, *(["seed"] if "seed" in names else [])], found


def words(name: str) -> str:
    """Returns a field in plain English.

    Args:
        name: The field.

    Returns:
        The words that stand on an axis.

    Example:
        >>> words("lr"), words("weight_decay")
        ('learning rate', 'weight decay')
    """
    return _WORDS.get(name, printable(name.replace("_", " "), LONGEST_TEXT))


def text(value: Hashable) -> str:
    """Returns a value as it stands in a legend or a table.

    Args:
        value: Of a field.

    Returns:
        The text.

    Example:
        >>> text(5e-4), text(None), text((60, 100)), text(True)
        ('0.0005', 'none', '60,100', 'yes')
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return ",".join(text(item) for item in value) or "none"
    return printable(str(value), LONGEST_TEXT)


def assignments(names: Sequence[str], values: Sequence[Hashable]) -> str:
    """Returns a point as one would write it on the command line.

    Args:
        names: Fields.
        values: One for each.

    Returns:
        Words with ``=``.

    Example:
        >>> assignments(["lr", "batch_size"], [0.1, 16])
        'lr=0.1 batch_size=16'
    """
    return " ".join(f"{name}={text(value)}" for name, value in zip(names, values, strict=True))
