"""Parameters of a sweep: what they are, and what the configuration allows of them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from lowrank.common.errors import InputError
from lowrank.common.texts import printable
from lowrank.config import Config, Given
from lowrank.config.settings import with_role
from lowrank.config.sources import bad_values
from lowrank.config.sweepfile import schema
from lowrank.config.values import read_value
from lowrank.config.yamltext import read_mapping

COUPLED = "config"
"""The parameter whose values are mappings of fields that change together."""

_DEFAULTS = {"mu": 0.0, "sigma": 1.0, "a": 1, "b": 1, "q": 1.0}  # W&B's, of a distribution
_ARGUMENTS = ("min", "max", *_DEFAULTS)
_WHOLE = ("int_uniform", "q_uniform", "q_log_uniform_values", "q_normal", "q_log_normal", "q_beta")


@dataclass(frozen=True)
class Fixed:
    """A parameter with one value.

    Attributes:
        value: As YAML has it.
    """

    value: Any


@dataclass(frozen=True)
class Values:
    """A parameter with several values.

    Attributes:
        values: As YAML has them.
        probabilities: One for each value, which add up to 1; None: all are as likely.
    """

    values: tuple[Any, ...]
    probabilities: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Distribution:
    """A parameter drawn from a distribution.

    Attributes:
        kind: W&B's name: ``uniform``, ``int_uniform``, ``log_uniform_values``, ``normal``, …
        arguments: Those it has of ``min``, ``max``, ``mu``, ``sigma``, ``a``, ``b`` and ``q``, with
            W&B's defaults filled in. ``q`` is the step to whose multiples values are rounded.
    """

    kind: str
    arguments: Mapping[str, float]


Parameter = Fixed | Values | Distribution


def steps(parameter: Parameter) -> int:
    """Returns how many values of a parameter a grid takes, without making them.

    Args:
        parameter: One that a grid allows.

    Returns:
        The number.

    Example:
        >>> steps(Distribution("int_uniform", {"min": 1, "max": 10**9}))
        1000000000
    """
    if not isinstance(parameter, Distribution):
        return len(values_of(parameter))
    low, high = parameter.arguments["min"], parameter.arguments["max"]
    if parameter.kind == "int_uniform":
        return int(high - low + 1)
    return math.ceil((high - low) / parameter.arguments["q"])  # W&B leaves out max itself


def choices(parameter: Parameter) -> Sequence[Any]:
    """Returns the values of a parameter that a grid takes, as W&B takes them.

    Args:
        parameter: One that a grid allows.

    Returns:
        The values.

    Example:
        >>> choices(Distribution("q_uniform", {"min": 0.5, "max": 2.0, "q": 0.5}))
        [0.5, 1.0, 1.5]
    """
    if not isinstance(parameter, Distribution):
        return values_of(parameter)
    low, high = parameter.arguments["min"], parameter.arguments["max"]
    if parameter.kind == "int_uniform":
        return range(int(low), int(high) + 1)
    step = low + parameter.arguments["q"] - low  # numpy.arange's step, which W&B uses
    return [low + step * i for i in range(steps(parameter))]


def read(entry: Mapping[str, Any]) -> Parameter:
    """Makes a parameter of what a file says of it.

    Args:
        entry: What W&B's schema allows, not nested.

    Returns:
        The parameter.

    Example:
        >>> read({"distribution": "q_normal", "mu": 8})
        Distribution(kind='q_normal', arguments={'mu': 8, 'sigma': 1.0, 'q': 1.0})
    """
    if "value" in entry:
        return Fixed(entry["value"])
    if "values" in entry:
        shares = entry.get("probabilities")
        return Values(tuple(entry["values"]), None if shares is None else tuple(shares))
    kind = schema.kind_of(entry)
    taken = {"min", "max"} & entry.keys()
    taken |= {"q"} if kind.startswith("q_") else set()
    taken |= {"mu", "sigma"} if "normal" in kind else set()
    taken |= {"a", "b"} if "beta" in kind else set()
    known = {**_DEFAULTS, **entry}
    return Distribution(kind, {name: known[name] for name in _ARGUMENTS if name in taken})


def complaints(name: str, parameter: Parameter, method: str, where: str) -> Iterator[str]:
    """Yields what is wrong with a parameter for the configuration and the method.

    Args:
        name: The parameter.
        parameter: What the file says of it.
        method: The sweep's method.
        where: The file, for errors.

    Yields:
        A line for an unknown name, for each value that is not allowed, is text where a number is
        meant or is there twice, and for what a grid cannot take steps of.
    """
    if name not in (*Config.model_fields, COUPLED):
        yield from bad_values({name: Given(None, where)}).values()
        return
    if isinstance(parameter, Distribution):
        yield from _of_distribution(name, parameter, method, where)
        return
    if isinstance(parameter, Values) and parameter.probabilities and method == "grid":
        yield f"{name} from {where}: a grid has no probabilities; leave them out"
    sound: list[tuple[Any, dict[str, Any]]] = []
    for value in values_of(parameter):
        try:
            fields = fields_of(name, value, where)
        except InputError as error:
            yield from error.lines
            continue
        inline = name == COUPLED and isinstance(value, str)  # train.py reads it, not W&B
        found = [
            line for field in fields for line in _of_value(field, fields[field], where, inline)
        ]
        yield from found
        if not found:
            sound.append((value, fields))
    known = sorted({field for _, fields in sound for field in fields})
    seen: dict[tuple[Any, ...], Any] = {}
    for value, fields in sound:
        key = tuple(canonical(field, fields) for field in known)
        if key in seen:
            yield (
                f"{name}: {schema.shown(seen[key])} and {schema.shown(value)} from {where} are "
                "the same; allowed: each value once"
            )
        seen.setdefault(key, value)


def _of_value(field: str, value: Any, where: str, inline: bool) -> Iterator[str]:
    """Yields what is wrong with one value of a field."""
    if field in with_role("identity"):
        yield f"{field} from {where} belongs to one run, not to a sweep; leave it out"
        return
    if not inline and field in Config.model_fields and _is_numeric(field):
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, str) and (number := _as_yaml_number(item)):
                yield (
                    f"{field}: got '{printable(item)}' from {where}, which W&B reads as text; "
                    f"write {number}"
                )
                return
    yield from bad_values({field: Given(value, where)}).values()


def _of_distribution(name: str, parameter: Distribution, method: str, where: str) -> Iterator[str]:
    """Yields what is wrong with drawing a field from a distribution."""
    kind, arguments = parameter.kind, parameter.arguments
    if name == COUPLED or not _is_numeric(name) or _is_list(name):
        yield f"{name} from {where}: {kind} makes numbers; allowed: value or values"
        return
    if method == "grid" and kind not in ("int_uniform", "q_uniform"):
        yield (
            f"{name} from {where}: a grid has no steps of {kind}; "
            "allowed: value, values, int_uniform or q_uniform"
        )
    q = arguments.get("q", 1)
    if _plain(Config.model_fields[name].annotation) is int and (
        kind not in _WHOLE or not float(q).is_integer()
    ):
        yield (
            f"{name} from {where}: {kind} makes fractions; "
            "allowed: int_uniform, or a distribution q_... with a whole q"
        )
    for bound in ("min", "max"):
        if bound in arguments:
            yield from bad_values({name: Given(arguments[bound], f"{bound} in {where}")}).values()
    if kind == "q_uniform" and not math.isfinite((arguments["max"] - arguments["min"]) / q):
        yield f"{name} from {where}: q {q} is too small for the range"


def given_twice(parameters: Mapping[str, Parameter], where: str) -> Iterator[str]:
    """Yields what is wrong with fields that are coupled and a parameter of their own too.

    Args:
        parameters: By name.
        where: The file, for errors.

    Yields:
        A line for each such field, of whose two values nobody sees which one holds.
    """
    coupled = parameters.get(COUPLED, Values(()))
    for value in values_of(coupled) if not isinstance(coupled, Distribution) else ():
        try:
            twice = fields_of(COUPLED, value, where).keys() & parameters.keys()
        except InputError:  # said already
            continue
        for field in sorted(twice):
            yield f"{field} from {where} is a parameter and in {COUPLED} as well; allowed: one"


def values_of(parameter: Fixed | Values) -> tuple[Any, ...]:
    """Returns the values of a parameter that lists them.

    Args:
        parameter: With one value or several.

    Returns:
        The values, as YAML has them.
    """
    return (parameter.value,) if isinstance(parameter, Fixed) else parameter.values


def fields_of(name: str, value: Any, where: str) -> dict[str, Any]:
    """Returns the fields that a value of a parameter gives: several where it is `config`.

    Args:
        name: The parameter.
        value: One of its values.
        where: The file, for errors.

    Returns:
        Values by field.

    Raises:
        InputError: If a value of `config` is no mapping.

    Example:
        >>> fields_of("config", "{lr: 0.1, weight_decay: 5.0e-4}", "a.yaml")
        {'lr': '0.1', 'weight_decay': '5.0e-4'}
    """
    if name != COUPLED:
        return {name: value}
    if isinstance(value, dict):
        return value
    if isinstance(value, str) and value.strip().startswith("{"):
        return read_mapping(value, f"{schema.shown(value)} from {where}")
    raise InputError(
        f"{COUPLED}: got {schema.shown(value)} from {where}; allowed: mappings such as "
        "'{lr: 0.1, weight_decay: 5.0e-4}'"
    )


def canonical(field: str, values: Mapping[str, Any]) -> Any:
    """Returns the value of a field as the configuration has it.

    Args:
        field: A field of the configuration.
        values: Allowed values by field.

    Returns:
        The value, or the field's default where none is given.

    Example:
        >>> canonical("depth", {"depth": "8.0"}), canonical("milestones", {"milestones": [60]})
        (8, (60,))
    """
    known = Config.model_fields[field]
    return read_value(known.annotation, values[field]) if field in values else known.default


def varied(parameters: Mapping[str, Parameter], where: str) -> tuple[str, ...]:
    """Returns what varies over a sweep.

    Args:
        parameters: The sweep's, by name.
        where: The file, for errors.

    Returns:
        Fields in their order, those of coupled values included, then what another program calls
        its own.

    Raises:
        InputError: If a value of `config` is no mapping.

    Example:
        >>> varied({"lr": Values((0.1, "1e-1")), "mine": Values((1, 2)), "depth": Fixed(3)}, "")
        ('mine',)
    """
    found = {n for n, each in parameters.items() if isinstance(each, Distribution)}
    for name, parameter in parameters.items():
        if isinstance(parameter, Distribution):
            continue
        given = [fields_of(name, value, where) for value in values_of(parameter)]
        for field in {field for fields in given for field in fields}:
            if field not in Config.model_fields:
                values = [fields.get(field) for fields in given]
            else:
                values = [canonical(field, fields) for fields in given]
            if any(value != values[0] for value in values[1:]):
                found.add(field)
    own = [field for field in parameters if field in found - Config.model_fields.keys()]
    return (*(field for field in Config.model_fields if field in found), *own)


def _plain(annotation: Any) -> Any:
    """Returns a type without None, limits and, for a list, the list around it."""
    while get_origin(annotation) in (Union, UnionType, Annotated, tuple):
        annotation = get_args(annotation)[0]
    return annotation


def _is_numeric(field: str) -> bool:
    return _plain(Config.model_fields[field].annotation) in (int, float)


def _is_list(field: str) -> bool:
    return get_origin(Config.model_fields[field].annotation) is tuple


def _as_yaml_number(text: str) -> str:
    """Returns how YAML 1.1 writes a number that it reads as text; empty if it is no number.

    Example:
        >>> _as_yaml_number("1e-4"), _as_yaml_number("2.5e3"), _as_yaml_number("0.1")
        ('1.0e-4', '2.5e+3', '0.1')
    """
    match = re.fullmatch(r"\s*([-+]?)(\d*)(\.\d*)?(?:[eE]([-+]?)(\d+))?\s*", text, re.ASCII)
    if not match or not re.search(r"\d", match[2] + (match[3] or "")):
        return ""
    sign, whole, fraction, of_exponent, exponent = match.groups()
    rest = (fraction or "").removeprefix(".")
    if exponent is None:
        return f"{sign}{whole or '0'}{'.' if rest else ''}{rest}"
    return f"{sign}{whole or '0'}.{rest or '0'}e{of_exponent or '+'}{exponent}"
