"""Plain YAML: mappings, lists and scalars, in which nothing can run or grow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lowrank.common.errors import InputError
from lowrank.common.files import expanded, open_file
from lowrank.common.texts import printable

LARGEST_FILE = 20_000  # bytes; a complete configuration has about 1,000
LARGEST_SIZE = 100_000  # scalars, lists and mappings, with those that aliases repeat
DEEPEST_YAML = 5  # a sweep's file needs 4


class _OnceEach:
    """Refuses a mapping that gives a key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        twice = ", ".join(repr(key) for key, count in keys.items() if count > 1)
        if twice:
            raise yaml.YAMLError(f"given twice: {twice}")
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)  # type: ignore[misc]
        return mapping


class _Loader(_OnceEach, getattr(yaml, "CBaseLoader", yaml.BaseLoader)):  # type: ignore[misc]
    """Reads every scalar as text, so that a file and a flag mean the same."""


class _TypedLoader(_OnceEach, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Reads scalars as W&B does, which loads sweep files with ``yaml.safe_load``."""


def read_yaml(
    text: str,
    *,
    typed: bool = False,
    longest: int = LARGEST_FILE,
    deepest: int = DEEPEST_YAML,
    aliases: bool = False,
) -> Any:
    """Reads YAML as mappings and lists of scalars; nothing in it can run or grow.

    Args:
        text: One document.
        typed: Whether scalars are read as YAML 1.1 means them, numbers as numbers; else as texts.
        longest: Characters that `text` may have.
        deepest: How deep lists and mappings may be nested.
        aliases: Whether ``*name`` may stand for what ``&name`` marks, and ``<<`` merge it.

    Returns:
        Scalars, lists and mappings.

    Raises:
        ValueError: In one line, with the place, if it is not plain YAML.

    Example:
        >>> read_yaml("{lr: 1e-4, milestones: [60, 100]}")
        {'lr': '1e-4', 'milestones': ['60', '100']}
    """
    if len(text) > longest:
        raise ValueError(f"longer than {longest} characters")
    loader = _TypedLoader if typed else _Loader
    try:
        _check_growth(yaml.parse(text, Loader=loader), deepest, aliases)
        return yaml.load(text, Loader=loader)  # makes nothing but scalars
    except yaml.MarkedYAMLError as error:
        place = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(f"{place}{printable(str(error.problem), 200)}") from None
    except (yaml.YAMLError, OverflowError) as error:  # OverflowError: 1:00:00:... as a number
        raise ValueError(printable(str(error), 200)) from None


def _check_growth(events: Iterable[yaml.Event], deepest: int, aliases: bool) -> None:
    """Refuses what YAML could make of a text beyond plain values, before anything recurses into it.

    Raises:
        ValueError: With the place.
    """
    size = 0
    around: list[_Node] = [_Node("", 0)]  # the file, then the lists and mappings that are open
    marked: dict[str, _Node] = {}
    for event in events:
        line = f"line {event.start_mark.line + 1}" if event.start_mark else ""
        anchor = str(getattr(event, "anchor", None) or "")
        if anchor and not aliases:
            raise ValueError(f"{line}: anchors and aliases (&, *) are not read")
        if getattr(event, "tag", None):
            raise ValueError(f"{line}: tags (!) are not read")
        size += 1
        height = 0
        if isinstance(event, yaml.CollectionStartEvent):
            around.append(_Node(anchor, size))
            height = 1
        elif isinstance(event, yaml.CollectionEndEvent):
            node = around.pop()
            node.size = size - node.size
            marked[node.anchor] = node
            around[-1].height = max(around[-1].height, node.height + 1)
        elif isinstance(event, yaml.AliasEvent):
            if any(node.anchor == anchor for node in around):
                raise ValueError(f"{line}: *{printable(anchor)} stands within what it is")
            if anchor in marked:  # else it marks a scalar, or nothing, as PyYAML will say
                size += marked[anchor].size
                height = marked[anchor].height + 1
                around[-1].height = max(around[-1].height, height)
        if len(around) - 1 + max(height - 1, 0) > deepest:
            raise ValueError(f"{line}: nested more than {deepest} deep")
        if size > LARGEST_SIZE:
            raise ValueError(f"{line}: aliases make more than {LARGEST_SIZE} values")


@dataclass
class _Node:
    """A list or mapping.

    Attributes:
        anchor: Its name.
        size: What was read before it; once it is closed, what it holds.
        height: How deep it is nested within.
    """

    anchor: str
    size: int
    height: int = 0


def read_mapping(text: str, where: str) -> dict[str, Any]:
    """Reads YAML that must be a mapping.

    Args:
        text: One document; an empty one is an empty mapping.
        where: Its name in errors.

    Returns:
        Texts, lists and mappings by name.

    Raises:
        InputError: If it is not.
    """
    try:
        found = read_yaml(text)
    except ValueError as error:
        raise InputError(f"{where} is not plain YAML: {error}") from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise InputError(f"{where} must be a mapping of names to values such as 'lr: 0.1'")
    return found


def read_file(path: str | Path, *, longest: int = LARGEST_FILE, kind: str = "configuration") -> str:
    """Reads a configuration file, or another one in YAML.

    Args:
        path: The file.
        longest: Bytes that it may have.
        kind: What it is meant to be, for errors.

    Returns:
        Its text.

    Raises:
        InputError: If it cannot be read.
    """
    where = printable(str(path), 200)
    try:
        with open_file(expanded(path)) as file:
            content = file.read(longest + 1)
    except IsADirectoryError:
        stored = Path(path, "config.yaml")
        hint = f", did you mean {printable(str(stored), 200)!r}?" if stored.is_file() else ""
        raise InputError(f"{where} is a directory, not a YAML file{hint}") from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"cannot read {where}: {reason}") from None
    if len(content) > longest:
        raise InputError(f"{where} is no {kind}: it is longer than {longest} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{where} is not a text file in UTF-8") from None
