"""``lowrank runs``: run records as a table on the terminal, as CSV or as JSON."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from lowrank.commands import one_sweep, run_paths
from lowrank.common.errors import InputError
from lowrank.common.terminal import say
from lowrank.common.texts import to_json
from lowrank.config.options import Options, option


class Runs(Options):
    """What ``lowrank runs`` is asked for."""

    paths: tuple[str, ...] = run_paths("runs")
    sweep: str | None = one_sweep()
    csv: bool = option(False)
    as_json: bool = option(
        False, "the same for programs, with every setting that varies", alias="json"
    )

    def conflicts(self) -> Iterable[str]:
        """Finds what is wrong with options that are right each for itself.

        Yields:
            Lines.
        """
        if self.csv and self.as_json:
            yield "--json and --csv both go to the standard output; allowed: one of them"


def run(options: Runs) -> int:
    """Prints what every run is and how far it came.

    Args:
        options: What is asked for.

    Returns:
        The exit code 0.

    Raises:
        InputError: If there are no runs, or none of them can be read.
    """
    from lowrank.views.table.choice import find_of
    from lowrank.views.table.listing import entries_of, table, to_csv
    from lowrank.views.table.rows import common_definition, read_rows

    runs, _, unread = find_of(options.paths, options.sweep)
    definition = common_definition(runs)
    rows, more = read_rows(runs, definition)
    if not rows:
        raise InputError([*unread, *more])
    entries = entries_of(rows)
    if options.as_json:
        print(to_json(entries, indent=1))
    elif options.csv:
        print(to_csv(entries), end="")
    else:
        print(table(entries, definition))
    for line in [*unread, *more]:
        say(line, sys.stderr)
    return 0
