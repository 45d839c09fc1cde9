"""The points of a sweep, in the order in which agents get them."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping
from typing import Any

Point = dict[str, Any]


def points(config: Mapping[str, Any], seed: str) -> Iterator[Point]:
    """Yields the points of a sweep: a grid's in order and each once, others without end.

    Bayesian sweeps are searched at random, as no test depends on how W&B models them.

    Args:
        config: The sweep file.
        seed: Of the random points, such as the sweep's id.

    Yields:
        Values by parameter name.

    Raises:
        ValueError: If a grid holds a parameter without ``value`` or ``values``.
    """
    parameters = config.get("parameters", {})
    if config["method"] == "grid":
        axes = [_axis(name, parameter) for name, parameter in parameters.items()]
        for values in itertools.product(*axes):
            yield dict(zip(parameters, values, strict=True))
        return
    generator = random.Random(seed)
    while True:
        yield {name: _draw(parameter, generator) for name, parameter in parameters.items()}


def grid_size(config: Mapping[str, Any]) -> int | None:
    """Returns the number of points of a grid; None for other methods."""
    if config["method"] != "grid":
        return None
    return math.prod(len(_axis(name, p)) for name, p in config.get("parameters", {}).items())


def _axis(name: str, parameter: Mapping[str, Any]) -> list[Any]:
    if "values" in parameter:
        return list(parameter["values"])
    if "value" in parameter:
        return [parameter["value"]]
    raise ValueError(f"a grid needs value or values of {name}, not {dict(parameter)}")


def _draw(parameter: Mapping[str, Any], generator: random.Random) -> Any:
    if "value" in parameter:
        return parameter["value"]
    if "values" in parameter:
        return generator.choices(parameter["values"], parameter.get("probabilities"))[0]
    low, high = parameter["min"], parameter["max"]
    distribution = parameter.get("distribution", "uniform")
    if distribution == "int_uniform":
        return generator.randint(low, high)
    if distribution == "log_uniform_values":
        return math.exp(generator.uniform(math.log(low), math.log(high)))
    if distribution == "uniform":
        return generator.uniform(low, high)
    raise ValueError(f"this server cannot draw from distribution {distribution}")
