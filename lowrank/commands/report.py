"""``lowrank report``: run records as one HTML file."""

from __future__ import annotations

import shlex
import webbrowser
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import field_validator

from lowrank.commands import file_to_write, one_sweep, run_paths
from lowrank.common.terminal import say
from lowrank.common.texts import printable
from lowrank.config.options import OptionError, Options, option
from lowrank.views.report import MOST_SECTIONS

_RUNS = f"up to {MOST_SECTIONS} run ids such as a,b"


class Report(Options):
    """What ``lowrank report`` is asked for."""

    paths: tuple[str, ...] = run_paths("report")
    output: Path = option(
        Path("report.html"),
        "the file to write; default {default}",
        allowed="a file that ends with .html",
        short="o",
    )
    runs: tuple[str, ...] = option(
        (),
        f"up to {MOST_SECTIONS} runs that are shown layer by layer, with spectra; default: all, or "
        f"of more than {MOST_SECTIONS} those spread evenly from the lowest to the highest rank",
        "ID,ID",
        _RUNS,
    )
    sweep: str | None = one_sweep()
    open: bool = option(False, "opens the file in a browser")
    follow: bool = option(
        False, "writes the file again as runs go on, until none does or Ctrl-C; it reloads itself"
    )

    @field_validator("output")
    @classmethod
    def _is_html(cls, path: Path) -> Path:
        return file_to_write("output", path, ("html", "htm"))

    @field_validator("runs", mode="before")
    @classmethod
    def _are_few(cls, ids: Any) -> Any:
        if isinstance(ids, str):
            ids = tuple(dict.fromkeys(filter(None, ids.split(","))))
        if len(ids) > MOST_SECTIONS:
            raise OptionError(f"runs: got {len(ids)}; allowed: {_RUNS}")
        return ids


def run(options: Report) -> int:
    """Writes the report and says what is in it; followed, the last time when no run goes on.

    Args:
        options: What is asked for.

    Returns:
        The exit code 0.
    """
    from lowrank.views.report.follow import RELOAD, follow
    from lowrank.views.report.write import write_report

    flags = [f"--sweep={options.sweep}"] if options.sweep else []
    command = shlex.join(["lowrank", "report", *options.paths, *flags])
    said: set[str] = set()

    def write(reload: int = 0) -> None:
        *notes, line = write_report(
            options.paths, options.output, options.runs, command, sweep=options.sweep, reload=reload
        )
        lines = [note for note in notes if note not in said]
        if not reload or not said:
            lines.append(line)
        for each in lines:
            say(printable(each, None))
        if options.open and not said and not webbrowser.open(options.output.resolve().as_uri()):
            print("no browser could be started: open the file in one")
        said.update(lines)

    if options.follow:
        with suppress(KeyboardInterrupt):
            follow(options.paths, partial(write, RELOAD))
    write()
    return 0
