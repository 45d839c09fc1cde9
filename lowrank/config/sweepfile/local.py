"""What a sweep without W&B's server asks of a file beyond W&B's schema."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from lowrank.config.sweepfile import schema
from lowrank.config.sweepfile.parameters import Distribution, Parameter, Values

ETA = 3
"""W&B's: of the runs that reach a band, one in so many goes on."""

_LARGEST_ETA = 1000
_MOST_BANDS = 31  # powers of at least 2: more epochs than a run may have


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
    if (stopping := raw.get("early_terminate")) is not None:
        yield from _of_stopping(stopping, raw)
    if "output_dir" in parameters:
        yield "output_dir is no parameter here; give --output_dir=DIR"
    method = raw.get("method")
    if method in ("random", "bayes") and raw.get("run_cap") is None and not has_end:
        yield f"method {method} has no end; give it run_cap, or --count=N"
    for name, parameter in parameters.items():
        if name in overrides:
            continue
        if isinstance(parameter, Distribution) and raw.get("method") != "grid":
            yield from _impossible(name, parameter)


_NATIVE = ("uniform", "int_uniform", "q_uniform", "log_uniform_values", "inv_log_uniform_values")


def is_mapped(parameter: Parameter) -> bool:
    """Returns whether Optuna has not a parameter's distribution, so that quantiles are searched.

    Args:
        parameter: Of a search.

    Example:
        >>> is_mapped(Distribution("beta", {"a": 2, "b": 1}))
        True
    """
    if isinstance(parameter, Values):
        return parameter.probabilities is not None
    if not isinstance(parameter, Distribution) or parameter.kind in _NATIVE:
        return False
    return parameter.kind != "q_log_uniform_values" or parameter.arguments["q"] != 1


def _of_stopping(stopping: Any, raw: Mapping[str, Any]) -> Iterator[str]:
    """Yields what is wrong with the early end of runs."""
    if any(schema.of_stopping(stopping)):  # said already
        return
    if raw.get("metric") is None:
        yield "early_terminate: the file lacks 'metric', by which runs are compared"
    eta = stopping.get("eta", ETA)
    if not (2 <= eta <= _LARGEST_ETA and float(eta).is_integer()):
        yield f"early_terminate.eta: got {eta:g}; allowed: a whole number from 2 to {_LARGEST_ETA}"
    elif not bands(stopping):
        yield "early_terminate: no epoch at which a run may end; allowed: min_iter, or a larger s"


def bands(stopping: Mapping[str, Any]) -> list[int]:
    """Returns the epochs at which runs are compared, as W&B has them.

    Args:
        stopping: The file's ``early_terminate``.

    Returns:
        Epochs, increasing.

    Example:
        >>> bands({"type": "hyperband", "max_iter": 27, "s": 2})
        [3, 9]
        >>> bands({"type": "hyperband", "min_iter": 5, "eta": 2})[:4]
        [5, 10, 20, 40]
    """
    eta = stopping.get("eta", ETA)
    if "max_iter" not in stopping:
        return [int(stopping["min_iter"] * eta**i) for i in range(_MOST_BANDS)]
    found = [stopping["max_iter"] / eta ** (i + 1) for i in range(_MOST_BANDS)]
    return sorted({int(band) for band in found[: max(0, int(stopping["s"]))] if band >= 1})


def _impossible(name: str, parameter: Distribution) -> list[str]:
    kind, arguments = parameter.kind, parameter.arguments
    if "min" not in arguments:
        return []
    low, high = bounds(parameter)
    if "log" in kind and arguments["min"] <= 0:
        return [
            f"{name}: got min {arguments['min']:g}; allowed: above 0, as {kind} draws logarithms"
        ]
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
