"""The words after a subcommand: names of files, flags with a value, and switches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lowrank.common.texts import nearest, printable
from lowrank.config.values import read_value


def read_flags(
    arguments: Sequence[str],
    values: Mapping[str, str],
    switches: Sequence[str],
    lines: list[str],
) -> tuple[list[str], dict[str, str]]:
    """Tells flags from other words; what they mean is for the caller to say.

    Args:
        arguments: The words after the subcommand.
        values: The flags that take a value, each with what it takes.
        switches: The flags that need none.
        lines: Complaints are added here.

    Returns:
        The other words, and the value of every flag as text.

    Example:
        >>> read_flags(["runs", "--dpi=300", "--csv"], {"dpi": "a number"}, ["csv"], [])
        (['runs'], {'dpi': '300', 'csv': 'True'})
    """
    words: list[str] = []
    given: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            words.append(word)
            continue
        name, equals, value = word.removeprefix("--").partition("=")
        if name not in (*values, *switches) or not word.startswith("--"):
            near = nearest(name.lstrip("-")[:60].replace("-", "_"), [*values, *switches])
            lines.append(f"unknown flag '{printable(word)}'{near}")
            continue
        if not equals and name in switches:
            value = "True"
        elif not equals and rest and not rest[0].startswith("--"):
            value = rest.pop(0)
        if name in given:
            lines.append(f"{name}: given twice; allowed: once")
        given[name] = value
        if name in values and not value:
            lines.append(f"{name}: no value after --{name}; allowed: {values[name]}")
            del given[name]
    return words, given


def is_on(name: str, given: Mapping[str, str], lines: list[str]) -> bool:
    """Returns whether a switch is on.

    Args:
        name: The switch.
        given: What `read_flags` found.
        lines: A complaint is added here if its value is neither true nor false.

    Returns:
        False where it was not given.
    """
    try:
        return bool(read_value(bool, given.get(name, "False")))
    except ValueError:
        lines.append(f"{name}: got '{printable(given[name])}'; allowed: True or False")
        return False
