"""One way to read a value of a field, whether it comes from a flag, a variable or a file."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from lowrank.config.yamltext import read_yaml

_TRUE = ("true", "1", "yes", "on")
BOOLEANS = (*_TRUE, "false", "0", "no", "off")
"""Words for true and false, in small letters."""


def read_value(annotation: Any, value: Any) -> Any:
    """Reads a value, often text, as what a field's type wants; limits are checked elsewhere.

    Args:
        annotation: The field's type.
        value: Text as typed, or a value of Python.

    Returns:
        A value of that type, or `value` itself where pydantic has the last word.

    Raises:
        ValueError: If it cannot be read so.

    Example:
        >>> read_value(int, "16.0"), read_value(bool, "True"), read_value(int | None, "None")
        (16, True, None)
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return read_value(arguments[0], value)
    if is_optional(annotation):
        return None if _is_nothing(value) else read_value(arguments[0], value)
    if origin in (Union, UnionType):  # bool | str, a switch that may be given a text
        return _read_bool(value) if str(value).strip().lower() in BOOLEANS else value
    if origin is tuple:
        return tuple(read_value(arguments[0], item) for item in _items(value))
    if origin is Literal:
        return value.strip() if isinstance(value, str) else value
    if annotation is bool:
        return _read_bool(value)
    if annotation is str:
        return _read_text(value)
    if isinstance(value, bool):
        raise ValueError("not a number")
    return _read_whole(value) if annotation is int else _read_number(value)


def is_optional(annotation: Any) -> bool:
    """Returns whether a type is another one or None.

    Args:
        annotation: A field's type.
    """
    return get_origin(annotation) in (Union, UnionType) and type(None) in get_args(annotation)


def _is_nothing(value: Any) -> bool:
    return value is None or (
        isinstance(value, str) and value.strip().lower() in ("", "none", "null", "~")
    )


def _items(value: Any) -> Sequence[Any]:
    if _is_nothing(value):
        return ()
    if isinstance(value, str):
        text = value.strip()
        value = read_yaml(text) if text.startswith("[") else text.split(",")
    if not isinstance(value, list | tuple):
        raise ValueError("not a list")
    return value


def _read_bool(value: Any) -> bool:
    word = str(value).strip().lower()
    if word not in BOOLEANS:
        raise ValueError("not a boolean")
    return word in _TRUE


def _read_text(value: Any) -> str:
    if not isinstance(value, str) or _is_nothing(value):
        raise ValueError("not a text")
    text = value.strip()
    if any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in text):
        raise ValueError("control characters and lone surrogates fit no file and no terminal")
    return text


def _read_number(value: Any) -> Any:
    return float(value) if isinstance(value, str) else value


def _read_whole(value: Any) -> Any:
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            value = float(value)
    if isinstance(value, float):
        if not (math.isfinite(value) and value.is_integer()):
            raise ValueError("not a whole number")
        return int(value)
    return value
