"""What W&B refuses in a sweep file, in lines: its JSON schema, and what its client checks besides.

The schema is W&B's own, ``sweep.schema.json`` beside this file. A parameter there is any of twenty
forms; here the form that is meant is chosen first, so that a complaint is about that one.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowrank.common.texts import nearest, one_of, printable

if TYPE_CHECKING:
    from jsonschema import Draft7Validator, ValidationError

SCHEMA = Path(__file__).with_name("sweep.schema.json")
LARGEST_NUMBER = 2**63 - 1  # whole numbers of W&B's server
_EXPONENTS = ("log_uniform", "inv_log_uniform", "q_log_uniform")  # W&B: deprecated
_KINDS = {
    "array": "a list",
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "object": "a mapping",
    "string": "a text",
}
_LIMITS = {"minimum": "at least", "exclusiveMinimum": "above"}


def not_json(value: Any, place: str = "") -> Iterator[str]:
    """Yields what a sweep file holds that JSON, in which W&B keeps it, does not have.

    Args:
        value: What YAML made of the file.
        place: Where it stands in the file.

    Yields:
        A line for each key that is no text and each value that is no JSON.

    Example:
        >>> list(not_json({"parameters": {True: 1}}))
        ['parameters: the name True is not read as text; write it in quotes']
    """
    if isinstance(value, dict):
        for key, inner in value.items():
            if isinstance(key, str):
                yield from not_json(inner, f"{place}.{key}" if place else key)
            else:
                where = place or "the file"
                yield f"{where}: the name {shown(key)} is not read as text; write it in quotes"
    elif isinstance(value, list):
        for inner in value:
            yield from not_json(inner, place)
    elif isinstance(value, int) and abs(value) > LARGEST_NUMBER:
        yield f"{place}: got a whole number of {value.bit_length()} bits; allowed: 63"
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{place}: got {value}; allowed: a finite number"
    elif value is not None and not isinstance(value, str | int | float):
        yield f"{place}: got {shown(value)}, read as a {type(value).__name__}; write it in quotes"


def of_file(sweep: Mapping[str, Any]) -> Iterator[str]:
    """Yields what W&B refuses in a sweep file, apart from its parameters.

    Args:
        sweep: The file as a mapping.

    Yields:
        A line for each violation.

    Example:
        >>> for line in of_file({"methd": "grid", "method": "gird"}):
        ...     print(line)
        the file: unknown key 'methd', did you mean 'method'?
        method: got 'gird'; allowed: bayes, random, grid or custom, did you mean 'grid'?
        the file: lacks 'parameters'
    """
    parameters = sweep.get("parameters")
    head = dict(sweep)
    if isinstance(parameters, dict) and parameters:
        head["parameters"] = {"checked": {"value": "apart"}}
    yield from _said(_validator("SweepConfig").iter_errors(head), "")
    if "parameters" not in sweep:
        yield "the file: lacks 'parameters'"
    if sweep.get("method") == "bayes" and "metric" not in sweep:
        yield "the file: lacks 'metric', which method bayes minimises or maximises"


def of_stopping(entry: Any) -> Iterator[str]:
    """Yields what W&B refuses in ``early_terminate``.

    Args:
        entry: What the file says of it.

    Yields:
        A line for each violation.

    Example:
        >>> list(of_stopping({"type": "hyperband", "max_iter": 9}))
        ['early_terminate: lacks max_iter and s or min_iter']
    """
    yield from _said(_validator("hyperband_stopping").iter_errors(entry), "early_terminate")


def kind_of(entry: Mapping[str, Any]) -> str:
    """Returns which of W&B's forms a parameter is meant to have.

    Args:
        entry: The parameter.

    Returns:
        The name of its distribution: ``constant``, ``categorical``, ``uniform``, …; ``dict`` for
        nested parameters; empty if nothing tells.

    Example:
        >>> kind_of({"value": 1}), kind_of({"min": 0.1, "max": 1.0}), kind_of({"min": 1, "max": 8})
        ('constant', 'uniform', 'int_uniform')
    """
    if "distribution" in entry:
        return str(entry["distribution"])
    if "probabilities" in entry:
        return "categorical_w_probabilities"
    for key, kind in (("value", "constant"), ("values", "categorical"), ("parameters", "dict")):
        if key in entry:
            return kind
    bounds = [entry[key] for key in ("min", "max") if key in entry]
    if not bounds:
        return ""
    return "int_uniform" if all(isinstance(bound, int) for bound in bounds) else "uniform"


def of_parameter(name: str, entry: Any) -> Iterator[str]:
    """Yields what W&B refuses in one parameter of a sweep.

    Args:
        name: The parameter.
        entry: What the file says of it.

    Yields:
        A line for each violation.

    Example:
        >>> list(of_parameter("lr", {"min": 0.1, "max": 0.01}))
        ['parameters.lr: min 0.1 is not less than max 0.01']
    """
    where = f"parameters.{printable(name)}"
    forms = _forms()
    kind = kind_of(entry) if isinstance(entry, dict) else ""
    if kind in _EXPONENTS:
        yield f"{where}: W&B takes exponents for {kind}; write {kind}_values, with values"
    elif not kind:
        yield (
            f"{where}: got {shown(entry)}; allowed: a mapping with value, values, or min and max"
        )
    elif kind not in forms:
        known = [form for form in forms if form not in ("dict", *_EXPONENTS)]
        yield (
            f"{where}.distribution: got '{printable(kind)}'; allowed: {one_of(known)}"
            f"{nearest(kind[:60], known)}"
        )
    else:
        found = list(_said(_validator(forms[kind]).iter_errors(entry), where))
        yield from found or _beyond_schema(where, entry)


def _beyond_schema(where: str, entry: Mapping[str, Any]) -> Iterator[str]:
    """Yields what W&B's client and search refuse in a parameter that fits the schema."""
    if "min" in entry and "max" in entry:
        low, high = entry["min"], entry["max"]
        if low >= high:
            yield f"{where}: min {low} is not less than max {high}"
        if "distribution" not in entry and isinstance(low, int) != isinstance(high, int):
            yield (
                f"{where}: min {low} and max {high} are a whole number and a fraction; "
                "write both as one of these, or a distribution"
            )
    if "probabilities" in entry:
        values, shares = entry["values"], entry["probabilities"]
        if len(values) != len(shares):
            yield f"{where}: {len(values)} values and {len(shares)} probabilities"
        elif not math.isclose(sum(shares), 1.0, rel_tol=1e-5):
            yield f"{where}: the probabilities add up to {sum(shares):g}, not to 1"


def shown(value: Any) -> str:
    """Returns a value of a file as it can stand in a message.

    Args:
        value: What YAML made of it.

    Returns:
        One line of at most 60 characters; texts in quotes.
    """
    return f"'{printable(value)}'" if isinstance(value, str) else printable(str(value))


@functools.cache
def _schema() -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(SCHEMA.read_text(encoding="utf-8"))
    return schema


@functools.cache
def _forms() -> dict[str, str]:
    """Returns the names of W&B's definitions of a parameter by that of the distribution."""
    forms = {}
    for name, form in _schema()["definitions"].items():
        if name.startswith("param_"):
            first = form["anyOf"][0] if "anyOf" in form else form  # uniform has several spellings
            kinds = first["properties"].get("distribution", {"enum": ["dict"]})["enum"]
            forms[kinds[0]] = name
    return forms


@functools.cache
def _validator(name: str) -> Draft7Validator:
    """Returns what checks a whole file (SweepConfig) or one definition of a parameter."""
    import jsonschema  # only where there is a sweep file

    schema = _schema()
    if name != schema["title"]:
        form = schema["definitions"][name]
        if (
            name.startswith("param_") and "anyOf" in form
        ):  # uniform's spellings: the second may leave out its distribution
            form = form["anyOf"][1]
        schema = {"definitions": schema["definitions"], **form}
    return jsonschema.Draft7Validator(schema)


def _said(errors: Iterator[ValidationError], place: str) -> Iterator[str]:
    """Yields the violations of a schema in our words, each once."""
    lines = (line for error in errors for line in _lines(error, place))
    yield from dict.fromkeys(lines)


def _lines(error: ValidationError, place: str) -> Iterator[str]:
    path = [place, *(str(part) for part in error.absolute_path if isinstance(part, str))]
    where = ".".join(part for part in path if part) or "the file"
    rule, limit, got = str(error.validator), error.validator_value, error.instance
    if rule == "additionalProperties":
        known = error.schema["properties"]
        for key in got:
            if key not in known:
                yield f"{where}: unknown key '{printable(key)}'{nearest(key[:60], known)}"
    elif rule == "required":
        for key in limit:
            if key not in got:
                yield f"{where}: lacks '{key}'"
    elif rule == "enum":
        near = nearest(str(got)[:60], limit)
        yield f"{where}: got {shown(got)}; allowed: {one_of(limit)}{near}"
    elif rule == "type":
        yield f"{where}: got {shown(got)}; allowed: {_KINDS[limit]}"
    elif rule in _LIMITS:
        yield f"{where}: got {shown(got)}; allowed: {_LIMITS[rule]} {limit}"
    elif rule in ("minItems", "minProperties"):
        yield f"{where}: got {shown(got)}; allowed: at least {limit}"
    elif rule == "oneOf":  # early_terminate, which is of one type so far
        for inner in error.context or []:
            yield from _lines(inner, place)
    elif rule == "anyOf":  # hyperband, which needs one of two sets of keys
        sets = [" and ".join(choice["required"]) for choice in limit]
        yield f"{where}: lacks {one_of(sets)}"
    else:
        yield f"{where}: {printable(error.message, 200)}"
