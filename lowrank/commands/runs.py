"""``lowrank runs``: run records as a table on the terminal, as CSV or as JSON."""

from __future__ import annotations

import sys
from collections.abc import Hashable, Iterable

from pydantic import field_validator

from lowrank.commands import one_sweep, read_where, run_paths, values_wanted
from lowrank.common.errors import InputError
from lowrank.common.terminal import say, width
from lowrank.common.texts import to_json
from lowrank.config.options import Options, option


class Runs(Options):
    """What ``lowrank runs`` is asked for."""

    paths: tuple[str, ...] = run_paths("runs")
    sweep: str | None = one_sweep()
    where: dict[str, tuple[Hashable, ...]] = values_wanted()
    sort: str = option(
        "",
        "by what is listed: rank_last, lr, seconds …; '-rank_last' for the largest first",
        "NAME",
        "a name in --csv",
    )
    columns: tuple[str, ...] = option(
        (),
        "in place of those chosen by themselves: settings, metrics (their last values), or what "
        "--csv has",
        "NAMES",
        "names with commas between",
    )
    group: bool = option(False, "a line for each point: mean ± sd over its seeds")
    csv: bool = option(False)
    as_json: bool = option(
        False, "the same for programs, with every setting that varies", alias="json"
    )

    _are_settings = field_validator("where", mode="before")(read_where)

    def conflicts(self) -> Iterable[str]:
        """Finds what is wrong with options that are right each for itself.

        Yields:
            Lines.
        """
        if self.csv and self.as_json:
            yield "--json and --csv both go to the standard output; allowed: one of them"
        if self.group and self.columns:
            yield "--columns are of single runs; allowed: one of --columns and --group"


def run(options: Runs) -> int:
    """Prints what every run is and how far it came.

    Args:
        options: What is asked for.

    Returns:
        The exit code 0.

    Raises:
        InputError: If there are no runs, or none of them can be read.
    """
    from lowrank.views.table.choice import chosen, find_of
    from lowrank.views.table.entries import entries_of, grouped, ordered, with_columns
    from lowrank.views.table.listing import table, to_csv
    from lowrank.views.table.rows import common_definition, read_rows

    runs, _, unread = find_of(options.paths, options.sweep)
    runs = chosen(runs, options.where)
    definition = common_definition(runs)
    rows, more = read_rows(runs, definition)
    if not rows:
        raise InputError([*unread, *more])
    by_path = {each.path: each for each in runs}
    read = [by_path[row.path] for row in rows]
    entries = entries_of(rows, read)
    if options.columns:
        entries = with_columns(entries, read, options.columns)
    if options.group:
        entries = grouped(entries)
    if options.sort:
        entries = ordered(entries, options.sort)
    if options.as_json:
        print(to_json(entries, indent=1))
    elif options.csv:
        print(to_csv(entries), end="")
    else:
        print(table(entries, definition, width(sys.stdout)))
    for line in [*unread, *more]:
        say(line, sys.stderr)
    return 0
