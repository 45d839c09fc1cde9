"""``lowrank figures``: from run records to files."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lowrank.common.errors import Failure, InputError
from lowrank.common.files import replacing
from lowrank.common.terminal import say
from lowrank.common.texts import nearest, printable
from lowrank.runs.find import Run
from lowrank.views.figures.curves import curves_figure
from lowrank.views.figures.landscape import landscape_figure
from lowrank.views.figures.layout import Layout, curves_layouts, landscape_layouts
from lowrank.views.figures.options import Options, parse
from lowrank.views.figures.style import save
from lowrank.views.figures.tables import curves_csv, curves_table, landscape_csv, landscape_table
from lowrank.views.table.fields import plain, text
from lowrank.views.table.points import Plan, Sweep, sweep_of
from lowrank.views.table.rows import Definition, common_definition, find, read_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["parse", "run"]


def run(options: Options) -> int:
    """Draws the figures and says what was drawn, and what is missing.

    Args:
        options: What is asked for.

    Returns:
        The exit code 0.

    Raises:
        InputError: If there are no such runs, or what is asked for cannot be drawn of them.
    """
    from matplotlib import rc_context

    plan = read_plan(options.sweep) if options.sweep else None
    runs, lines = find(options.paths)
    runs = chosen(runs, options.where)
    definition = common_definition(runs, options.epsilon, options.rank_norm)
    rows, unread = read_rows(runs, definition)
    if not any(row.epochs.size for row in rows):
        raise InputError([*lines, *unread, "none of the runs has a measured epoch yet"])
    sweep = sweep_of(rows, plan)
    if not sweep.rows:
        raise InputError([*lines, *unread, *sweep.lines, "no run is left to draw"])
    layouts = _layouts(options, sweep)
    if options.stem and len(layouts) > 1:
        raise InputError(
            f"output: {len(layouts)} figures do not fit into one file; name a directory, or choose "
            "one with --kind, --by, --where, --x and --y: "
            + ", ".join(layout.stem for layout in layouts)
        )
    _make(options.directory)
    with rc_context({"text.parse_math": False}):  # a $ in a foreign text is one
        for layout in layouts:
            say(printable(_draw(layout, sweep, definition, options), None))
    for line in [*lines, *unread, *sweep.lines]:
        say(printable(line, None))
    return 0


def read_plan(path: str) -> Plan:
    """Reads the points of a sweep file.

    Args:
        path: The file.

    Returns:
        The plan.
    """
    from lowrank.config.sweepfile import load_sweep_file

    file = load_sweep_file(path)
    return Plan.of([config.recorded() for config in file.configs()], file.swept)


def chosen(runs: Sequence[Run], where: Mapping[str, Sequence[Hashable]]) -> list[Run]:
    """Chooses runs by their settings.

    Args:
        runs: All runs.
        where: The values wanted, by setting.

    Returns:
        The runs that have them, at least one.

    Raises:
        InputError: If no run has a setting of this name, or none has these values.
    """
    names = sorted({name for run in runs for name in run.config})
    lines = [
        f"where: no run has a setting '{printable(name)}'{nearest(name[:60], names)}"
        for name in where
        if name not in names
    ]
    if lines:
        raise InputError(lines)
    found = [
        run
        for run in runs
        if all(plain(run.config.get(name)) in wanted for name, wanted in where.items())
    ]
    if not found:
        there = "; ".join(
            f"{name} is " + ", ".join(sorted({text(plain(run.config.get(name))) for run in runs}))
            for name in where
        )
        raise InputError(f"where: none of {len(runs)} runs has these values; {there}")
    return found


def _layouts(options: Options, sweep: Sweep) -> list[Layout]:
    """Returns the figures to draw.

    Raises:
        InputError: If there is none, or too many.
    """
    layouts: list[Layout] = []
    if "curves" in options.kinds:
        layouts += curves_layouts(sweep.fields, sweep.points, options.wishes)
    if "landscape" in options.kinds:
        layouts += landscape_layouts(sweep.fields, sweep.points, options.wishes)
    if not layouts:
        what = f"only {sweep.fields[0]} varies" if len(sweep.fields) == 1 else "nothing varies"
        if len(sweep.fields) > 1:
            what = f"no pair of {', '.join(sweep.fields)} forms a grid; choose one with --x and --y"
        raise InputError(f"no landscape: {what}")
    return [
        layout
        for layout in layouts
        if any(point.rows for _, members in layout.panels(sweep.points) for point in members)
    ]


def _draw(layout: Layout, sweep: Sweep, definition: Definition, options: Options) -> str:
    """Draws one figure into its files.

    Returns:
        A line: the files and what they show.
    """
    if layout.up is None:
        curves = curves_table(sweep.points, layout, definition)
        figure = curves_figure(curves, options.width, options.height)
        by = f" by {curves.by}" if curves.by else ""
        shown = f"average rank and accuracy over epochs{by}"
        numbers, panels = curves_csv(curves), len(curves.panels)
    else:
        landscape = landscape_table(sweep.points, layout, definition, options.epoch)
        figure = landscape_figure(
            landscape, contours=options.contours, width=options.width, height=options.height
        )
        shown = f"average rank over {landscape.x} and {landscape.y}"
        numbers, panels = landscape_csv(landscape), len(landscape.panels)
    count = sum(len(point.rows) for _, members in layout.panels(sweep.points) for point in members)
    stem = options.directory / (options.stem or layout.stem)
    written = _write(figure, stem, options)
    if options.csv:
        path = stem.with_name(f"{stem.name}.csv")
        _write_text(path, numbers)
        written.append(path)
    if panels > 1 and layout.by_panel is not None:
        shown += f", a panel for each {layout.by_panel.name}"
    if layout.title:
        shown += f"; {layout.title}"
    files = ", ".join(str(path) for path in written)
    return f"{files}: {shown}; {definition}, {count} run{'s' if count > 1 else ''}"


def _write(figure: Figure, stem: Path, options: Options) -> list[Path]:
    """Writes a figure in every format.

    Returns:
        The files.

    Raises:
        Failure: If the disk refuses.
    """
    engine = figure.get_layout_engine()
    if engine is not None:  # laid out once, it is the same in every format
        engine.execute(figure)
        figure.set_layout_engine("none")
    paths = [stem.with_name(f"{stem.name}.{form}") for form in options.formats]
    for path in paths:
        try:
            save(figure, path, options.dpi)
        except OSError as error:
            raise Failure(f"{path}: cannot be written ({error.strerror})") from error
    return paths


def _write_text(path: Path, content: str) -> None:
    """Writes a text whole or not at all.

    Raises:
        Failure: If the disk refuses.
    """
    try:
        with replacing(path) as new:
            new.write_text(content, encoding="utf-8")
    except OSError as error:
        raise Failure(f"{path}: cannot be written ({error.strerror})") from error


def _make(directory: Path) -> None:
    """Makes the directory for the figures.

    Raises:
        InputError: If that cannot be done.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"output: cannot make the directory {printable(str(directory), 200)} ({error.strerror})"
        ) from error
