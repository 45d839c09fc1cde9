"""Figures of a sweep, drawn into files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from lowrank.common.errors import Failure, InputError
from lowrank.common.files import replacing
from lowrank.common.texts import printable
from lowrank.runs.find import load_run
from lowrank.views.figures.as_csv import curves_csv, landscape_csv, scatter_csv
from lowrank.views.figures.curves import curves_figure, shows_accuracy
from lowrank.views.figures.directions import DirectionsTable, directions_csv, directions_figure
from lowrank.views.figures.landscape import landscape_figure
from lowrank.views.figures.layout import (
    Layout,
    Wishes,
    curves_layouts,
    is_scattered,
    landscape_layouts,
)
from lowrank.views.figures.lines import lines_figure
from lowrank.views.figures.matrices import lines_csv, ratio_table, spectra_table, truncation_table
from lowrank.views.figures.one_run import settings_of
from lowrank.views.figures.scatter import scatter_figure
from lowrank.views.figures.style import save
from lowrank.views.figures.tables import (
    curves_table,
    landscape_table,
    published_words,
    scatter_table,
)
from lowrank.views.published.figures import Point as Published
from lowrank.views.table.factors import Factor
from lowrank.views.table.fields import words
from lowrank.views.table.matrices import EVERY
from lowrank.views.table.points import Sweep
from lowrank.views.table.rows import Definition

_OF_LINES = {
    "spectra": "spectrum of {title}{by}",
    "ratio": "norm ratio over {every} epochs{by} ({title})",
    "truncation": "test accuracy at lower ranks{by} ({title})",
}
"""What figures show that are lines of single matrices or of networks at one epoch."""


@dataclass(frozen=True)
class Look:
    """How figures look, and their files.

    Attributes:
        directory: Where files are written.
        stem: Name of the only file, without suffix; None to name files by what they show.
        formats: Suffixes of the files.
        width: Inches; None for the default.
        height: Inches; None for the default.
        dpi: Dots per inch.
        epoch: Of landscapes, spectra and truncated networks; None for the last.
        contours: Landscapes as contours.
        csv: Writes the numbers beside the figures.
        layer: Of spectra and norm ratios; empty for the default.
        every: Epochs of a norm ratio.
        published: Points that are drawn beside the curves of runs that stand for them.
    """

    directory: Path
    stem: str | None = None
    formats: Sequence[str] = ("pdf", "png")
    width: float | None = None
    height: float | None = None
    dpi: int = 300
    epoch: int | None = None
    contours: bool = False
    csv: bool = False
    layer: str = ""
    every: int = EVERY
    published: Sequence[Published] = ()


def layouts_of(sweep: Sweep, kinds: Sequence[str], wishes: Wishes) -> list[Layout]:
    """Chooses the figures to draw.

    Args:
        sweep: The runs.
        kinds: curves, landscape or both, scatter, spectra, ratio, truncation, or directions, which
            are of one run. Curves and landscape are one scatter figure where there are many points
            that form neither a grid nor a star, and nothing else is asked for.
        wishes: What curves, panels and axes stand for.

    Returns:
        Those that show a run.

    Raises:
        InputError: If there is none, or too many.
    """
    scattered = len(kinds) > 1 and wishes == Wishes() and is_scattered(sweep.fields, sweep.points)
    if "scatter" in kinds or scattered:
        if not sweep.fields:
            raise InputError("no scatter figure: nothing varies")
        return [Layout(Factor(), kind="scatter")]
    if "directions" in kinds:
        if len(sweep.rows) > 1:
            raise InputError(
                f"directions are drawn of one run, got {len(sweep.rows)}: give its directory, or "
                "choose it with --where"
            )
        return [Layout(Factor(), kind="directions")]
    layouts: list[Layout] = []
    for kind in set(kinds) & {"curves", *_OF_LINES}:
        found = curves_layouts(sweep.fields, sweep.points, wishes)
        layouts += [replace(layout, kind=kind) for layout in found]
    if "landscape" in kinds:
        layouts += landscape_layouts(sweep.fields, sweep.points, wishes)
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


def draw(
    layouts: Sequence[Layout], sweep: Sweep, definition: Definition, look: Look
) -> Iterator[str]:
    """Draws figures into files.

    Args:
        layouts: At least one.
        sweep: The runs.
        definition: Of the rank.
        look: How, and where to.

    Yields:
        After each figure a line: its files and what they show.

    Raises:
        InputError: If the files cannot be as they are asked for.
    """
    if look.stem and len(layouts) > 1:
        raise InputError(
            f"output: {len(layouts)} figures do not fit into one file; name a directory, or choose "
            "one with --kind, --by, --where, --x and --y: "
            + ", ".join(layout.stem for layout in layouts)
        )
    _make(look.directory)
    with rc_context({"text.parse_math": False}):  # a $ in a foreign text is one
        for layout in layouts:
            yield _draw(layout, sweep, definition, look)


def _draw(layout: Layout, sweep: Sweep, definition: Definition, look: Look) -> str:
    """Draws one figure into its files.

    Returns:
        A line: the files and what they show.

    Raises:
        InputError: If there is nothing to draw.
    """
    if layout.kind == "scatter":
        scatter = scatter_table(sweep.points, sweep.fields, definition, look.epoch)
        figure = scatter_figure(scatter, look.width, look.height)
        shown = f"{definition.name} against {', '.join(map(words, sweep.fields))}"
        numbers, panels = scatter_csv(scatter), 1
    elif layout.kind in _OF_LINES:
        if layout.kind == "spectra":
            lines = spectra_table(sweep.points, layout, definition, look.layer, look.epoch)
        elif layout.kind == "ratio":
            lines = ratio_table(sweep.points, layout, look.layer, look.every)
        else:
            lines = truncation_table(sweep.points, layout, look.epoch)
        figure = lines_figure(lines, look.width, look.height)
        by = f" by {lines.by}" if lines.by else ""
        shown = _OF_LINES[layout.kind].format(by=by, title=lines.title, every=look.every)
        numbers, panels = lines_csv(lines), len(lines.panels)
    elif layout.kind == "directions":
        run = load_run(sweep.rows[0].path)
        kept = DirectionsTable.of(run, settings_of(run))
        if kept is None:
            raise InputError(f"run {printable(run.id)} kept no directions; train with --directions")
        figure = directions_figure(kept)
        if look.width or look.height:
            figure.set_size_inches(look.width or 9, look.height or 6.6)
        shown = f"overlap of the leading {kept.count} singular directions of any two epochs"
        numbers, panels = directions_csv(kept), 1
    elif layout.kind == "curves":
        curves = curves_table(sweep.points, layout, definition, look.published)
        figure = curves_figure(curves, look.width, look.height)
        by = f" by {curves.by}" if curves.by else ""
        and_accuracy = " and accuracy" if shows_accuracy(curves) else ""
        shown = f"{definition.name}{and_accuracy} over epochs{by}"
        if look.published:
            shown += f", {published_words(curves, look.published[0].figure)}"
        numbers, panels = curves_csv(curves), len(curves.panels)
    else:
        landscape = landscape_table(sweep.points, layout, definition, look.epoch)
        figure = landscape_figure(
            landscape, contours=look.contours, width=look.width, height=look.height
        )
        shown = f"{definition.name} over {landscape.x} and {landscape.y}"
        numbers, panels = landscape_csv(landscape), len(landscape.panels)
    count = sum(len(point.rows) for _, members in layout.panels(sweep.points) for point in members)
    stem = look.directory / (look.stem or layout.stem)
    written = _write(figure, numbers, stem, look)
    if panels > 1 and layout.by_panel is not None:
        shown += f", a panel for each {layout.by_panel.name}"
    if layout.title:
        shown += f"; {layout.title}"
    if stem.name not in (look.stem, layout.name):
        shown += "; too many settings for the file's name, which is cut"
    files = ", ".join(str(path) for path in written)
    if layout.kind not in ("ratio", "truncation", "directions"):
        shown += f"; {definition}"
    return f"{files}: {shown}, {count} run{'s' if count > 1 else ''}"


def _write(figure: Figure, numbers: str, stem: Path, look: Look) -> list[Path]:
    """Writes a figure in every format and, where asked for, its numbers; each whole or not at all.

    Returns:
        The files.

    Raises:
        Failure: If one cannot be written.
    """
    engine = figure.get_layout_engine()
    if engine is not None:  # laid out once, it is the same in every format
        engine.execute(figure)
        figure.set_layout_engine("none")
    forms = [*look.formats, *(["csv"] if look.csv else [])]
    paths = [stem.with_name(f"{stem.name}.{form}") for form in forms]
    for path, form in zip(paths, forms, strict=True):
        try:
            if form != "csv":
                save(figure, path, look.dpi)
            else:
                with replacing(path) as new:
                    new.write_text(numbers, encoding="utf-8")
        except OSError as error:
            raise Failure(f"{path}: cannot be written ({error.strerror})") from error
    return paths


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
