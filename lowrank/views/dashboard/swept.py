"""Which configuration fields a sweep or a project's runs vary, as far as W&B tells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lowrank.common.errors import InputError
from lowrank.config import Config
from lowrank.config.settings import SAME_EXPERIMENT
from lowrank.config.values import read_value
from lowrank.config.yamltext import read_mapping


def swept_by_sweep(parameters: Mapping[str, Any]) -> list[str]:
    """Returns the fields that a W&B sweep varies, but for the seed.

    Args:
        parameters: The sweep's ``parameters``, from the server: what is none of this project's
            fields is passed over.

    Returns:
        The fields in the sweep's order; those of coupled values (``config``) one by one.

    Example:
        >>> coupled = {"values": ["{lr: 0.1, batch_size: 4}", "{lr: 0.2, batch_size: 4}"]}
        >>> swept_by_sweep({"config": coupled, "seed": {"values": [0, 1]}, "depth": {"value": 5}})
        ['lr']
    """
    found: list[str] = []
    for name, entry in parameters.items():
        if not isinstance(entry, Mapping):
            continue
        values = entry.get("values")
        choices = values if isinstance(values, list) else None
        if name == "config" and choices:
            found += swept_by_runs(_mappings(choices))
        elif len(choices) > 1 if choices is not None else "value" not in entry:
            found.append(name)
    return _parameters(found)


def swept_by_runs(configurations: Iterable[Mapping[str, Any]]) -> list[str]:
    """Returns the fields that differ between runs, but for the seed.

    Args:
        configurations: One of each run, by field; from the server.

    Returns:
        The fields in the configuration's order.

    Example:
        >>> swept_by_runs([{"lr": 0.1, "seed": 0, "depth": 5}, {"lr": 0.2, "seed": 1, "depth": 5}])
        ['lr']
    """
    seen: dict[str, set[str]] = {}
    for configuration in configurations:
        for name, value in configuration.items():
            seen.setdefault(name, set()).add(repr(_read(name, value)))
    varied = [name for name, values in seen.items() if len(values) > 1]
    return _parameters([name for name in Config.model_fields if name in varied])


def _parameters(names: Iterable[str]) -> list[str]:
    unique = dict.fromkeys(names)
    return [name for name in unique if name in Config.model_fields and name not in SAME_EXPERIMENT]


def _read(name: str, value: Any) -> Any:
    """Returns a value as its field reads it: the text 0.10 is the number 0.1."""
    try:
        return read_value(Config.model_fields[name].annotation, value)
    except (KeyError, ValueError):
        return value


def _mappings(choices: Iterable[Any]) -> list[Mapping[str, Any]]:
    """Returns the coupled values that can be read."""
    mappings = []
    for choice in choices:
        if isinstance(choice, str):
            try:
                choice = read_mapping(choice, "config")
            except InputError:
                continue
        if isinstance(choice, Mapping):
            mappings.append(choice)
    return mappings
