"""A command's options: one model, from which its words are read and its help is printed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

from lowrank.common.errors import InputError, refuse
from lowrank.common.files import expanded
from lowrank.common.texts import printable, wrapped
from lowrank.config.flags import Flag, read_words
from lowrank.config.settings import Config
from lowrank.config.sources import Given, bad_values, complaint
from lowrank.config.values import is_optional, read_value

WIDTH = 80
"""Columns of a help text."""


class OptionError(ValueError):
    """A bad value of which more is to be said than what its flag takes.

    Args:
        lines: Each complete in itself.
    """

    def __init__(self, *lines: str) -> None:
        super().__init__("; ".join(lines))
        self.lines = lines


def option(
    default: Any,
    meaning: str = "",
    metavar: str = "",
    allowed: str = "",
    *,
    short: str = "",
    of_config: bool = False,
    **limits: Any,
) -> Any:
    """Declares a flag.

    Args:
        default: The value where it is not given.
        meaning: For the help, in which ``{default}`` is the default; a flag without it stands in
            one line with the next.
        metavar: For the help, what stands behind the flag.
        allowed: What it takes, in words; by default its type and limits say it.
        short: A letter that stands for it.
        of_config: Whether it is the configuration's field of that name, with its limits.
        **limits: As pydantic takes them.

    Returns:
        What pydantic takes as the value of a class's attribute.
    """
    extra: dict[str, Any] = {"metavar": metavar, "allowed": allowed, "short": short}
    extra["of_config"] = of_config
    return Field(default, description=meaning, json_schema_extra=extra, **limits)


def word(metavar: str, meaning: str, ask: str, many: str = "") -> Any:
    """Declares the words beside the flags: at least one if the type is a tuple, else one.

    Args:
        metavar: Their name in the help.
        meaning: For the help; nothing where the usage says it.
        ask: The complaint where there is none; empty where none is needed.
        many: The complaint where there are too many, with ``{}`` for them; by default `ask`.

    Returns:
        As `option` does. Where there are none it is empty.
    """
    extra: dict[str, Any] = {"metavar": metavar, "ask": ask, "many": many or ask}
    return Field((), description=meaning, json_schema_extra=extra)


def settings(meaning: str, **refused: str) -> Any:
    """Declares that every field of the configuration is a flag, too.

    Args:
        meaning: For the help.
        **refused: The fields that are not, and why.

    Returns:
        As `option` does. The value is the text of each field that was given.
    """
    extra: dict[str, Any] = {"metavar": "--NAME=VALUE", "refused": refused}
    return Field(default_factory=dict, description=meaning, json_schema_extra=extra)


class Options(BaseModel):
    """What a command's words say; each command has a model of its own, named as it.

    Example:
        >>> class Greet(Options):
        ...     names: tuple[str, ...] = word("NAME", "whom to greet", "whom?")
        ...     times: int = option(1, "how often; default {default}", "N", ge=1)
        >>> Greet.read(["Ada", "--times", "2"])
        Greet(names=('Ada',), times=2)
        >>> print(Greet.help(), end="")
        NAME             whom to greet
        --times=N        how often; default 1
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, populate_by_name=True
    )
    column: ClassVar[int] = 17
    """Where meanings begin in the help."""
    notes: ClassVar[str] = ""
    """What the help says at its end."""

    @field_validator("*", mode="before")
    @classmethod
    def _read(cls, value: Any, info: ValidationInfo) -> Any:
        field = cls.model_fields[info.field_name or ""]
        if not isinstance(value, str) or "ask" in _extra(field):
            return value
        kind = get_args(field.annotation)[0] if is_optional(field.annotation) else field.annotation
        if kind is str:  # as typed: "none" is a name like others, and so are odd bytes
            return value
        if kind is Path:
            try:
                return expanded(value)
            except InputError as error:
                raise OptionError(*(f"{info.field_name}: {line}" for line in error.lines)) from None
        return read_value(kind, value)

    def conflicts(self) -> Iterable[str]:
        """Finds what is wrong with options that are right each for itself.

        Returns:
            Lines.
        """
        return ()

    @classmethod
    def read(cls, argv: Sequence[str]) -> Self:
        """Reads the words after a command.

        Args:
            argv: The words.

        Returns:
            The options.

        Raises:
            InputError: With a line for each thing that is wrong.
        """
        lines: list[str] = []
        fields = {field.alias or name: field for name, field in cls.model_fields.items()}
        own = {name: field for name, field in fields.items() if "allowed" in _extra(field)}
        rest = next((n for n, field in fields.items() if "refused" in _extra(field)), "")
        flags = {name: Flag.of(field) for name, field in own.items()}
        if rest:
            flags = {n: Flag.of(field) for n, field in Config.model_fields.items()} | flags
        short = {f"-{s}": name for name, field in own.items() if (s := _extra(field)["short"])}
        long = [f"--{short[w[:2]]}{w[2:]}" if w[:2] in short else w for w in argv]
        others, pairs = read_words(long, flags, lines, others=True)
        given, values = dict(pairs), dict[str, Any]()
        for name, field in fields.items():
            if "ask" in _extra(field):
                found = _words(field, others, lines)
                values |= {} if found == () else {name: found}
            elif name in own and name in given and not given[name]:
                lines.append(flags[name].missing(name))
            elif name in own and name in given:
                values[name] = given[name]
        if rest:
            refused = _extra(fields[rest])["refused"]
            values[rest] = {n: v for n, v in given.items() if n not in {**own, **refused}}
            lines += [f"{name}: {why}" for name, why in refused.items() if name in given]
        return cls._checked(values, fields, lines)

    @classmethod
    def _checked(
        cls, values: dict[str, Any], fields: Mapping[str, FieldInfo], lines: list[str]
    ) -> Self:
        """Returns the options.

        Raises:
            InputError: If there is anything to complain of.
        """
        bad = dict[str, list[str]]()
        for name, value in values.items():
            extra = _extra(fields[name])
            if extra.get("of_config"):
                wrong = bad_values({name: Given(value, f"--{name}")})
            elif "refused" in extra:
                wrong = bad_values({n: Given(text, f"--{n}") for n, text in value.items()})
            else:
                continue
            if wrong:
                bad[name] = list(wrong.values())
        try:
            cls.model_validate({n: v for n, v in values.items() if n not in bad})
        except ValidationError as error:
            for each in error.errors(include_url=False):
                name, cause = str(each["loc"][0]), each.get("ctx", {}).get("error")
                if isinstance(cause, OptionError):
                    bad[name] = list(cause.lines)
                else:
                    bad[name] = [complaint(name, Given(values[name]), fields[name])]
        lines += [line for name in fields for line in bad.get(name, ())]
        options = cls.model_validate({n: v for n, v in values.items() if n not in bad})
        lines += options.conflicts()
        refuse(lines)
        return options

    @classmethod
    def help(cls) -> str:
        """Returns what ``--help`` says of the options, a paragraph for each, and the notes."""
        paragraphs, names = [], list[str]()
        for name, field in cls.model_fields.items():
            names += _named(field.alias or name, field)
            if field.description:
                shown = field.description.replace("{default}", _shown(field.default))
                paragraphs.append(help_entry(", ".join(names), shown.split("\n"), cls.column))
                names = []
            elif "ask" in _extra(field):
                names = []
        return "".join(paragraphs) + (f"\n{cls.notes}" if cls.notes else "")


def help_entry(flag: str, paragraphs: Iterable[str], column: int) -> str:
    """Returns a flag and what it means, as a help text has it.

    Args:
        flag: With what it takes; a long one has a line of its own.
        paragraphs: Each begins on a line of its own.
        column: Where they begin.

    Returns:
        Lines.
    """
    lines = [line for text in paragraphs for line in wrapped(text, WIDTH - column)]
    head = [flag.ljust(column) + lines.pop(0)] if len(flag) < column else [flag]
    return "\n".join([*head, *(" " * column + line for line in lines)]) + "\n"


def _extra(field: FieldInfo) -> dict[str, Any]:
    extra = field.json_schema_extra
    assert isinstance(extra, dict)
    return extra


def _named(name: str, field: FieldInfo) -> list[str]:
    extra = _extra(field)
    metavar = str(extra["metavar"])
    if "allowed" not in extra:
        return [metavar]
    value = metavar if metavar[:1] in ("", "[") else f"={metavar}"
    return [*([f"-{extra['short']}"] if extra["short"] else []), f"--{name}{value}"]


def _words(field: FieldInfo, others: Sequence[str], lines: list[str]) -> Any:
    """Returns the value of a `word`; empty after a complaint."""
    extra = _extra(field)
    if field.annotation is not str and others:
        return tuple(others)
    if len(others) == 1:
        return others[0]
    got = ", ".join(map(printable, others))
    if not others and not extra["ask"]:
        return ()
    lines.append(str(extra["many"]).format(got) if others else str(extra["ask"]))
    return ()


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
