"""The words of a command line: flags with their values, and other words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, get_args

from pydantic.fields import FieldInfo

from lowrank.common.texts import nearest, printable
from lowrank.config.sources import taken
from lowrank.config.values import BOOLEANS


class Flag(NamedTuple):
    """What a flag takes.

    Attributes:
        takes: In words.
        alone: Whether it may stand without a value, which then is True.
        often: Whether it may be given several times.
    """

    takes: str
    alone: bool = False
    often: bool = False

    @classmethod
    def of(cls, field: FieldInfo) -> Flag:
        """Returns the flag of a field.

        Args:
            field: Of a configuration or of a command's options.
        """
        kind = field.annotation
        return cls(taken(field), alone=bool in (kind, *get_args(kind)))

    def missing(self, name: str) -> str:
        """Returns the complaint about a flag that needs a value and has none.

        Args:
            name: The flag's.
        """
        return f"{name}: no value after --{name}; allowed: {self.takes}"


def read_words(
    argv: Sequence[str], flags: Mapping[str, Flag], lines: list[str], *, others: bool
) -> tuple[list[str], list[tuple[str, str]]]:
    """Reads ``--NAME=VALUE``, ``--NAME VALUE`` and ``--NAME``; what they mean is said elsewhere.

    Args:
        argv: The words.
        flags: Those that there are, by name.
        lines: Complaints are added here.
        others: Whether there are other words, such as the names of files. Where there are none,
            unknown names are returned as well, as the environment and files have names, too.

    Returns:
        The other words, and name and value of every flag, each once but for those given often.

    Example:
        >>> flags = {"dpi": Flag("a number"), "csv": Flag("True or False", alone=True)}
        >>> read_words(["runs", "--dpi", "300", "--csv"], flags, [], others=True)
        (['runs'], [('dpi', '300'), ('csv', 'True')])
    """
    words: list[str] = []
    given: list[tuple[str, str]] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if others and not word.startswith("-"):
            words.append(word)
            continue
        name, equals, value = word.removeprefix("--").partition("=")
        flag = flags.get(name)
        if not word.startswith("--") or not name or (others and flag is None):
            lines.append(_unknown(word, flags, others))
            continue
        may_stand_alone = flag is not None and flag.alone
        if not equals:
            if rest and (rest[0].lower() in BOOLEANS if may_stand_alone else rest[0][:2] != "--"):
                value = rest.pop(0)
            elif may_stand_alone:
                value = "True"
            elif flag is not None:
                lines.append(flag.missing(name))
                continue
        before = next((text for other, text in given if other == name), None)
        if before is None or (flag is not None and flag.often):
            given.append((name, value))
        else:
            both = f", '{printable(before)}' and '{printable(value)}' from --{printable(name)}"
            lines.append(f"{printable(name)}: given twice{'' if others else both}; allowed: once")
    return words, given


def _unknown(word: str, flags: Mapping[str, Flag], others: bool) -> str:
    if others:
        name = word.removeprefix("--").partition("=")[0].lstrip("-")
        return f"unknown flag '{printable(word)}'{nearest(name[:60].replace('-', '_'), flags)}"
    meant = word.lstrip("-+")
    known = meant.partition("=")[0] in flags and "=" in meant
    hint = f", did you mean '--{printable(meant)}'?" if known else ""
    return f"unexpected word '{printable(word)}'; allowed: --NAME=VALUE{hint}"
