"""What of W&B's sweep files needs its server, as Optuna cannot express it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from lowrank.config.sweepfile.parameters import Distribution, Parameter, Values


def refusals(
    raw: Mapping[str, Any],
    parameters: Mapping[str, Parameter],
    overrides: Collection[str],
    *,
    has_end: bool = True,
) -> Iterator[str]:
    """Yields by name what a sweep without a server does not do.

    Args:
        raw: The file.
        parameters: Of the file, by name.
        overrides: Fields that have one value at every point.
        has_end: Whether the number of points is limited in another place than the file.

    Yields:
        A line for each.
    """
    if raw.get("early_terminate") is not None:
        yield "early_terminate is W&B's and needs its server; leave it out, or use wandb sweep"
    if "output_dir" in parameters:
        yield "output_dir is no parameter here; give --output_dir=DIR"
    method = raw.get("method")
    if method in ("random", "bayes") and raw.get("run_cap") is None and not has_end:
        yield f"method {method} has no end; give it run_cap, or --count=N"
    for name, parameter in parameters.items():
        if name in overrides:
            continue
        if isinstance(parameter, Values) and parameter.probabilities is not None:
            yield f"{name}: Optuna draws values without probabilities; leave them out"
        elif isinstance(parameter, Distribution) and raw.get("method") != "grid":
            yield from _inexpressible(name, parameter)


_EXPRESSIBLE = "uniform, int_uniform, q_uniform, log_uniform_values, q_log_uniform_values"


def _inexpressible(name: str, parameter: Distribution) -> list[str]:
    kind, arguments = parameter.kind, parameter.arguments
    if kind not in _EXPRESSIBLE.split(", "):
        return [f"{name}: Optuna has no distribution {kind}; allowed: values, {_EXPRESSIBLE}"]
    if kind == "q_log_uniform_values" and arguments["q"] != 1:
        return [
            f"{name}: Optuna draws {kind} only with q 1, not {arguments['q']:g}; allowed: values, "
            "or log_uniform_values"
        ]
    low, high = bounds(parameter)
    if "log" in kind and low <= 0:
        return [f"{name}: got min {low:g}; allowed: above 0, as {kind} draws logarithms"]
    if low > high:
        return [f"{name}: no multiple of q {arguments['q']:g} lies between min and max"]
    return []


def bounds(parameter: Distribution) -> tuple[float, float]:
    """Returns the smallest and the largest value that may be drawn: multiples of q, if it has one.

    Args:
        parameter: With a smallest and a largest value.

    Returns:
        Both.

    Example:
        >>> bounds(Distribution("q_uniform", {"min": 10, "max": 100, "q": 16}))
        (16, 96)
    """
    low, high = parameter.arguments["min"], parameter.arguments["max"]
    if not parameter.kind.startswith("q_"):
        return low, high
    q = parameter.arguments["q"]
    return math.ceil(low / q) * q, math.floor(high / q) * q
