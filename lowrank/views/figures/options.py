"""The flags of ``lowrank figures``."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

from lowrank.common.errors import InputError
from lowrank.common.texts import nearest, one_of, printable
from lowrank.config import Config
from lowrank.config.flags import is_on, read_flags
from lowrank.config.values import read_value
from lowrank.config.yamltext import read_mapping
from lowrank.views.figures.layout import Wishes
from lowrank.views.figures.style import FORMATS
from lowrank.views.table.fields import plain

KINDS = ("curves", "landscape")
NORMS = ("frobenius", "spectral")
_VALUES = {
    "kind": "curves, landscape or all",
    "by": "a setting that varies, such as lr",
    "columns": "a setting that varies, such as batch_size",
    "x": "a setting that varies, such as lr",
    "y": "a setting that varies, such as weight_decay",
    "where": "a mapping such as '{batch_size: 16}' or '{batch_size: [4, 8]}'",
    "epsilon": "a number above 0 and below 1",
    "rank_norm": "frobenius or spectral",
    "epoch": "a whole number from 0",
    "sweep": "a sweep file",
    "output": "a directory, or a file that ends with .pdf, .png or .svg",
    "format": "pdf, png, svg or several, such as pdf,png",
    "width": "inches from 1 to 40",
    "height": "inches from 1 to 40",
    "dpi": "a whole number from 50 to 2400",
}
_SWITCHES = ("contours", "csv")
_SMALLEST, _LARGEST = 1.0, 40.0  # inches; a page and a poster
_COARSEST, _FINEST = 50, 2400  # dots per inch


@dataclass(frozen=True)
class Options:
    """What the command line asks for.

    Attributes:
        paths: Where runs are, at least one.
        kinds: Of figures.
        wishes: What curves, panels and axes stand for.
        where: The values that runs must have, by setting.
        epsilon: Threshold of the rank; None for the recorded one.
        rank_norm: Its norm; None for the recorded one.
        epoch: Of landscapes; None for the last.
        sweep: The sweep file; None for none.
        directory: Where files are written.
        stem: Name of the only file, without suffix; None to name files by what they show.
        formats: Suffixes of the files.
        width: Inches; None for the default.
        height: Inches; None for the default.
        dpi: Dots per inch.
        contours: Landscapes as contours.
        csv: Writes the numbers beside the figures.
    """

    paths: list[str]
    kinds: tuple[str, ...]
    wishes: Wishes
    where: dict[str, tuple[Hashable, ...]]
    epsilon: float | None
    rank_norm: str | None
    epoch: int | None
    sweep: str | None
    directory: Path
    stem: str | None
    formats: tuple[str, ...]
    width: float | None
    height: float | None
    dpi: int
    contours: bool
    csv: bool


def parse(arguments: Sequence[str]) -> Options:
    """Reads the command line of ``lowrank figures``.

    Args:
        arguments: The words after the subcommand.

    Returns:
        The options.

    Raises:
        InputError: With a line for each thing that is wrong.

    Example:
        >>> options = parse(["runs", "--by=lr", "--format=png", "--where={batch_size: 16}"])
        >>> options.kinds, options.wishes.by, options.formats, options.where
        (('curves',), 'lr', ('png',), {'batch_size': (16,)})
    """
    lines: list[str] = []
    paths, given = read_flags(arguments, _VALUES, _SWITCHES, lines)
    if not paths:
        lines.append("which runs? for example: lowrank figures runs")
    contours, csv = (is_on(name, given, lines) for name in _SWITCHES)
    wishes = Wishes(**{n: given.get(n, "").strip() for n in ("by", "columns", "x", "y")})
    kinds = _kinds(given, wishes, lines)
    directory, stem, suffix = _output(given.get("output", "figures"))
    formats = _formats(given, suffix, lines)
    norm = given.get("rank_norm")
    if norm is not None and norm not in NORMS:
        lines.append(
            f"rank_norm: got '{printable(norm)}'; allowed: {_VALUES['rank_norm']}"
            f"{nearest(norm[:60], NORMS)}"
        )
    options = Options(
        paths=paths,
        kinds=kinds,
        wishes=wishes,
        where=where_of(given.get("where", ""), lines),
        epsilon=_number(given, "epsilon", float, 0.0, 1.0, lines, strict=True),
        rank_norm=norm,
        epoch=_number(given, "epoch", int, 0, 2**31 - 1, lines),
        sweep=given.get("sweep"),
        directory=directory,
        stem=stem,
        formats=formats,
        width=_number(given, "width", float, _SMALLEST, _LARGEST, lines),
        height=_number(given, "height", float, _SMALLEST, _LARGEST, lines),
        dpi=_number(given, "dpi", int, _COARSEST, _FINEST, lines) or 300,
        contours=contours,
        csv=csv,
    )
    if lines:
        raise InputError(lines)
    return options


def _kinds(given: Mapping[str, str], wishes: Wishes, lines: list[str]) -> tuple[str, ...]:
    """Returns the kinds asked for: by name, else by the flags that only one kind has."""
    kind = given.get("kind", "").strip()
    if kind and kind not in (*KINDS, "all"):
        near = nearest(kind[:60], (*KINDS, "all"))
        lines.append(f"kind: got '{printable(kind)}'; allowed: {_VALUES['kind']}{near}")
    of_curves = bool(wishes.by)
    of_landscape = bool(wishes.x or wishes.y or "contours" in given or "epoch" in given)
    if kind == "all" or (not kind and of_curves == of_landscape):
        return KINDS
    if kind == "curves" and of_landscape:
        lines.append("x, y, epoch and contours are of landscapes; allowed: kind=landscape or all")
    if kind == "landscape" and of_curves:
        lines.append("by is of curves; allowed: kind=curves or all")
    return (kind or ("curves" if of_curves else "landscape"),)


def _output(text: str) -> tuple[Path, str | None, str]:
    """Returns a directory and, where one file is meant, its name and format."""
    path = Path(text)
    suffix = path.suffix.removeprefix(".").lower()
    if suffix in FORMATS and not path.is_dir():
        return path.parent, path.stem, suffix
    return path, None, ""


def _formats(given: Mapping[str, str], suffix: str, lines: list[str]) -> tuple[str, ...]:
    if "format" not in given:
        return (suffix,) if suffix else ("pdf", "png")
    found = tuple(dict.fromkeys(read_value(tuple[str, ...], given["format"])))
    unknown = [name for name in found if name not in FORMATS]
    if unknown or not found:
        got, near = printable(given["format"]), nearest(str(unknown[:1])[2:-2], FORMATS)
        lines.append(f"format: got '{got}'; allowed: {_VALUES['format']}{near}")
    elif suffix and suffix not in found:
        lines.append(
            f"format: got '{printable(given['format'])}' for a file that ends with .{suffix}"
        )
    return found


def _number(
    given: Mapping[str, str],
    name: str,
    kind: type,
    low: Any,
    high: Any,
    lines: list[str],
    strict: bool = False,
) -> Any:
    """Returns a number in a range, or None where there is none or it is not in range."""
    if name not in given:
        return None
    try:
        value = read_value(kind, given[name])
    except ValueError:
        value = float("nan")
    inside = low < value < high if strict else low <= value <= high
    if not inside:
        lines.append(f"{name}: got '{printable(given[name])}'; allowed: {_VALUES[name]}")
    return value if inside else None


def where_of(text: str, lines: list[str]) -> dict[str, tuple[Hashable, ...]]:
    """Reads which values of settings are wanted.

    Args:
        text: A YAML mapping of settings to a value or a list of values.
        lines: Complaints are added here.

    Returns:
        The values by setting, as configurations hold them.
    """
    if not text:
        return {}
    try:
        mapping = read_mapping(text, "where")
    except InputError as error:
        lines += error.lines
        return {}
    found: dict[str, tuple[Hashable, ...]] = {}
    for name, value in mapping.items():
        field = Config.model_fields.get(name)
        is_list = field is not None and get_origin(field.annotation) is tuple
        values = value if isinstance(value, list) and not is_list else [value]
        try:
            read = [v if field is None else read_value(field.annotation, v) for v in values]
        except ValueError:
            lines.append(f"where: {name}={printable(str(value))} is no value of {name}")
            continue
        literals = get_args(field.annotation) if field is not None else ()
        texts = [v for v in literals if isinstance(v, str)]
        wrong = [v for v in read if texts and v not in texts and v is not None]
        if wrong:
            near = nearest(str(wrong[0])[:60], texts)
            lines.append(
                f"where: {name} is {one_of(texts)}, not '{printable(str(wrong[0]))}'{near}"
            )
        found[name] = tuple(plain(v) for v in read)
    return found
