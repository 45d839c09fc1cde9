"""Distributions of W&B's that Optuna has not: it searches their quantiles, uniform on (0, 1).

What a field does not take is cut off: a quantile then is one of what is left of the distribution.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable
from typing import Any

from lowrank.config import Config
from lowrank.config.sweepfile import Distribution, Values
from lowrank.config.sweepfile.local import is_mapped

EDGE = 2.0**-32
"""The least quantile that is searched, and what lies between the largest and 1."""

_Function = Callable[[float], float]


def value_at(name: str, parameter: Distribution | Values) -> Callable[[float], Any]:
    """Returns what makes values of quantiles.

    Args:
        name: Of the parameter.
        parameter: One that Optuna has not.

    Returns:
        A function of numbers above 0 and below 1.

    Example:
        >>> value = value_at("lr", Distribution("log_normal", {"mu": -2.0, "sigma": 1.0}))
        >>> round(value(0.5), 6)  # exp(-2)
        0.135335
    """
    assert is_mapped(parameter)
    if isinstance(parameter, Values):
        values, shares = parameter.values, parameter.probabilities or ()
        sums = list(itertools.accumulate(shares))
        return lambda u: values[min(bisect.bisect_left(sums, u), len(values) - 1)]
    distribution, quantile = _functions(parameter)
    low, high = _limits(name)
    if "min" in parameter.arguments:
        low = max(low, parameter.arguments["min"])
        high = min(high, parameter.arguments["max"])
    q = parameter.arguments.get("q")
    if q is None:
        below, above = distribution(low), distribution(high)
        return lambda u: min(max(quantile(below + u * (above - below)), low), high)
    first = math.ceil(low / q) if math.isfinite(low) else low
    last = math.floor(high / q) if math.isfinite(high) else high
    below, above = distribution((first - 0.5) * q), distribution((last + 0.5) * q)

    def rounded(u: float) -> float:
        steps = min(max(round(quantile(below + u * (above - below)) / q), first), last)
        return steps * int(q) if float(q).is_integer() else float(f"{steps * q:.12g}")

    return rounded


def cut(name: str, parameter: Distribution | Values) -> float:
    """Returns how much of a distribution is cut off.

    Args:
        name: Of the parameter.
        parameter: One that Optuna has not.

    Example:
        >>> cut("lr", Distribution("normal", {"mu": 0.0, "sigma": 1.0}))
        0.5
    """
    if isinstance(parameter, Values) or "min" in parameter.arguments:
        return 0.0
    distribution, _ = _functions(parameter)
    half = parameter.arguments.get("q", 0.0) / 2
    low, high = _limits(name)
    return float(1 - distribution(high + half) + distribution(low - half))


def _limits(name: str) -> tuple[float, float]:
    """Returns the least and the largest number that a field takes."""
    low, high = -math.inf, math.inf
    for limit in Config.model_fields[name].metadata:
        low, high = getattr(limit, "ge", low), getattr(limit, "le", high)
        if hasattr(limit, "gt"):
            low = math.nextafter(limit.gt, math.inf)
        if hasattr(limit, "lt"):
            high = math.nextafter(limit.lt, -math.inf)
    return low, high


def _functions(parameter: Distribution) -> tuple[_Function, _Function]:
    """Returns the distribution function and its inverse, before rounding."""
    from scipy import special  # takes a moment to load, and few sweeps need it

    kind, given = parameter.kind, parameter.arguments
    if "beta" in kind:
        a, b = given["a"], given["b"]
        return (
            lambda x: float(special.betainc(a, b, min(max(x, 0.0), 1.0))),
            lambda p: float(special.betaincinv(a, b, p)),
        )
    if "uniform" in kind:  # logarithmic, with a q
        low, high = math.log(given["min"]), math.log(given["max"])
        return (
            lambda x: min(max((math.log(x) - low) / (high - low), 0.0), 1.0) if x > 0 else 0.0,
            lambda p: math.exp(low + p * (high - low)),
        )
    mu, sigma = given["mu"], given["sigma"]
    if "log" in kind:
        return (
            lambda x: float(special.ndtr((math.log(x) - mu) / sigma)) if x > 0 else 0.0,
            lambda p: math.exp(mu + sigma * float(special.ndtri(p))),
        )
    return (
        lambda x: float(special.ndtr((x - mu) / sigma)),
        lambda p: mu + sigma * float(special.ndtri(p)),
    )
