"""``lowrank published``: the paper's published numbers beside those of runs."""

from __future__ import annotations

import sys
from collections.abc import Hashable, Iterable
from typing import Any

from pydantic import field_validator

from lowrank.common.errors import InputError, refuse
from lowrank.common.terminal import say
from lowrank.common.texts import nearest, printable
from lowrank.config.options import OptionError, Options, option, word
from lowrank.views.published import ACCURACY_TOLERANCE, RANK_TOLERANCE


class Published(Options):
    """What ``lowrank published`` is asked for."""

    words: tuple[str, ...] = word(
        "[FIGURE] [PATH...]",
        "a figure's number, with the beginning of a panel's name or without: 7, 4a, '7 B 128'; "
        "then run directories, directories of runs or records",
        "",
    )
    rank_tolerance: float = option(
        RANK_TOLERANCE,
        "by how many per cent of full rank our mean may differ; default {default}: published "
        "values are of one run, and seeds of ours differ by as much where ranks fall",
        "P",
        "a number from 0 to 100",
        ge=0,
        le=100,
    )
    accuracy_tolerance: float = option(
        ACCURACY_TOLERANCE,
        "likewise accuracies, in points; default {default}",
        "P",
        "a number from 0 to 100",
        ge=0,
        le=100,
    )
    epsilon: float | None = option(
        None,
        "threshold of our ranks; default: the figure's",
        "E",
        "a number above 0 and below 1",
        gt=0,
        lt=1,
    )
    instead: dict[str, Hashable] = option(
        {},
        "settings of the runs in place of the figure's: '{momentum: 0.9}'",
        "MAPPING",
        "a mapping such as '{momentum: 0.9}'",
    )
    csv: bool = option(False)
    markdown: bool = option(False, "the same numbers for programs, or for a page")
    notes = """\
A run stands for a published point if it has every setting of it; seed, place
and machine do not count, and images from a folder (dataset=imagefolder) stand
in for any data set, which is said. Values are those after as many epochs as the
figure's, 490 of 500, from the record: ranks are counted in the spectra at the
figure's ε. A network that collapsed or died has no rank and is in no mean.
"""

    @field_validator("instead", mode="before")
    @classmethod
    def _are_settings(cls, given: Any) -> Any:
        from lowrank.views.table.choice import where_of

        if not isinstance(given, str):
            return given
        try:
            found = where_of(given, "instead")
        except InputError as error:
            raise OptionError(*error.lines) from None
        many = [name for name, values in found.items() if len(values) != 1]
        if many:
            raise OptionError(*(f"instead: {name} takes one value" for name in many))
        return {name: value for name, (value,) in found.items()}

    def conflicts(self) -> Iterable[str]:
        """Finds what is wrong with options that are right each for itself.

        Yields:
            Lines.
        """
        if self.csv and self.markdown:
            yield "--csv and --markdown both go to the standard output; allowed: one of them"


def run(options: Published) -> int:
    """Prints published values beside those of runs.

    Args:
        options: What is asked for.

    Returns:
        The exit code 0.
    """
    from lowrank.views.published import figures, table
    from lowrank.views.published.comparison import compare
    from lowrank.views.table.rows import find

    first, *rest = options.words or ("",)
    has_figure = figures.is_figure(first)
    points = figures.of_figure(first) if has_figure else figures.published()
    _check(options.instead, points)
    paths = rest if has_figure else options.words
    runs, unread = find(paths) if paths else ([], [])
    by_figure = [
        [point for point in points if point.figure == number]
        for number in dict.fromkeys(point.figure for point in points)
    ]
    compared = [compare(each, runs, options.instead, options.epsilon) for each in by_figure]
    tolerance = table.Tolerance(options.rank_tolerance, options.accuracy_tolerance)
    lines, told = unread, sys.stderr
    if options.csv:
        print(table.as_csv(compared, tolerance), end="")
    elif not has_figure:
        print(table.listing(points, compared if paths else []))
        lines = [*unread, *dict.fromkeys(line for each in compared for line in each.lines)]
    elif not paths:
        print(table.values(points))
    elif options.markdown:
        print(table.as_markdown(compared[0], tolerance))
        lines = [*unread, f"{table.summary(compared[0], tolerance)}.", *table.notes(compared[0])]
    else:
        print(table.as_text(compared[0], tolerance))
        lines, told = [*unread, *table.notes(compared[0])], sys.stdout
    for line in lines:
        say(printable(line, None), told)
    return 0


def _check(instead: dict[str, Hashable], points: Iterable[Any]) -> None:
    """Makes sure that settings can be in place of a figure's.

    Raises:
        InputError: With a line for each that cannot.
    """
    known = [dict(point.settings) for point in points]
    swept = {point.x_name for point in points}
    names = dict.fromkeys(name for settings in known for name in settings)
    lines = [
        f"instead: {name} is what the figure varies"
        if name in swept and len(swept) == 1
        else f"instead: '{printable(name)}' decides nothing here{nearest(name[:60], names)}"
        for name in instead
        if name not in names or (name in swept and len(swept) == 1)
    ]
    refuse(lines)
