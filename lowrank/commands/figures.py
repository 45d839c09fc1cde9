"""``lowrank figures``: from run records to curves and landscapes in files."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import field_validator

from lowrank.commands import one_sweep, read_where, run_paths, values_wanted
from lowrank.common.errors import InputError
from lowrank.common.terminal import say
from lowrank.common.texts import nearest, printable
from lowrank.config.options import OptionError, Options, option
from lowrank.views import FORMATS

KINDS = ("curves", "landscape")
_FORMATS = "pdf, png, svg or several, such as pdf,png"


class Figures(Options):
    """What ``lowrank figures`` is asked for."""

    paths: tuple[str, ...] = run_paths("figures")
    kind: (
        Literal[
            "curves", "landscape", "scatter", "spectra", "ratio", "truncation", "directions", "all"
        ]
        | None
    ) = option(
        None,
        "curves: average rank over epochs by the value of a setting, with train and test "
        "accuracies below; landscape: average rank over two settings; scatter: average rank "
        "against each setting; spectra: singular values of a matrix by the value of a setting; "
        "ratio: norms over those some epochs before, beside pure decay; truncation: test "
        "accuracy at lower ranks by the value of a setting; directions: how far the leading "
        "singular vectors of one run stay; all (default): curves and landscape, or scatter where "
        "many points form no grid",
        "KIND",
    )
    by: str = option(
        "",
        "the setting that lines stand for; default: a figure for each setting that varies",
        "NAME",
        "a setting that varies, such as lr",
    )
    columns: str = option(
        "",
        "the setting that panels stand for",
        "NAME",
        "a setting that varies, such as batch_size",
    )
    x: str = option("", "", "NAME", "a setting that varies, such as lr")
    y: str = option(
        "",
        "the settings of a landscape; default: each pair of a grid",
        "NAME",
        "a setting that varies, such as weight_decay",
    )
    contours: bool = option(False, "landscapes as contours instead of a heat map")
    epoch: int | None = option(
        None,
        "the epoch of landscapes, spectra and lower ranks; default: the last one",
        "N",
        "a whole number from 0",
        ge=0,
        le=2**31 - 1,
    )
    layer: str = option(
        "",
        "the matrix of spectra (default: the middle one) and norm ratios (default: the mean over "
        "all that are counted)",
        "NAME",
        "the name of a layer such as linear3",
    )
    every: int = option(
        10,
        "epochs of a norm ratio; default {default}",
        "N",
        "a whole number from 1",
        ge=1,
        le=2**31 - 1,
    )
    published: str = option(
        "",
        "draws the values of a published figure, or of a panel of it, beside the curves of runs "
        "with its settings, at its threshold: 7, 4a, '7 B 128'",
        "FIGURE",
        "a figure such as 7",
    )
    where: dict[str, tuple[Hashable, ...]] = values_wanted()
    epsilon: float | None = option(
        None,
        "threshold of the rank, any; default: the recorded one",
        "E",
        "a number above 0 and below 1",
        gt=0,
        lt=1,
    )
    rank_norm: Literal["frobenius", "spectral"] | None = option(
        None, "frobenius or spectral; default: the recorded one", "NORM"
    )
    metric: str = option(
        "", "any recorded metric instead of the rank", "NAME", "a metric such as train_loss"
    )
    sweep: str | None = one_sweep(", which says which of its points have no run")
    output: Path = option(
        Path("figures"),
        "directory (default {default}) or, for one figure, its file",
        "PLACE",
        "a directory, or a file that ends with .pdf, .png or .svg",
    )
    formats: tuple[str, ...] = option(
        ("pdf", "png"), "pdf, png, svg; default {default}", "LIST", _FORMATS, alias="format"
    )
    width: float | None = option(None, "", "INCHES", "inches from 1 to 40", ge=1, le=40)
    height: float | None = option(
        None,
        "default: one column of a page (3.35) or both (7)",
        "INCHES",
        "inches from 1 to 40",
        ge=1,  # a page
        le=40,  # and a poster
    )
    dpi: int = option(
        300,
        "dots per inch; default {default}",
        "N",
        "a whole number from 50 to 2400",
        ge=50,
        le=2400,
    )
    csv: bool = option(False, "writes the numbers beside the figures")
    notes = """\
Runs that differ only in their seeds are drawn as mean and standard deviation.
A run that collapsed, died or is not finished is never part of a mean; it is
named below, as is every point that is missing.
"""

    _are_settings = field_validator("where", mode="before")(read_where)

    @field_validator("formats")
    @classmethod
    def _are_formats(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        unknown = next((name for name in names if name not in FORMATS), "")
        if unknown or not names:
            near, got = nearest(unknown, FORMATS), printable(",".join(names))
            raise OptionError(f"format: got '{got}'; allowed: {_FORMATS}{near}")
        return tuple(dict.fromkeys(names))

    @property
    def kinds(self) -> tuple[str, ...]:
        """Those asked for: by name, else by the flags that only one kind has."""
        if self.kind == "all" or (not self.kind and bool(self.by) == self._of_landscapes):
            return KINDS
        return (self.kind or ("curves" if self.by else "landscape"),)

    @property
    def _of_landscapes(self) -> bool:
        return bool(self.x or self.y) or not {"contours", "epoch"}.isdisjoint(self.model_fields_set)

    @property
    def file(self) -> str:
        """The format of the one file that `output` is; empty if it is a directory."""
        suffix = self.output.suffix.removeprefix(".").lower()
        return suffix if suffix in FORMATS and not self.output.is_dir() else ""

    def conflicts(self) -> Iterable[str]:
        """Finds what is wrong with options that are right each for itself.

        Yields:
            Lines.
        """
        if self.kind in ("curves", "ratio") and self._of_landscapes:
            yield "x, y, epoch and contours are of landscapes; allowed: kind=landscape or all"
        if self.kind == "directions" and (self._of_landscapes or self.by or self.columns):
            yield "by, columns, x, y, epoch and contours are of several runs; allowed: another kind"
        if self.kind in ("spectra", "truncation") and (self.x or self.y or self.contours):
            yield "x, y and contours are of landscapes; allowed: kind=landscape or all"
        if self.kind == "landscape" and self.by:
            yield "by is of curves; allowed: kind=curves or all"
        if self.layer and self.kind not in ("spectra", "ratio"):
            yield "layer is of spectra and norm ratios; allowed: kind=spectra or ratio"
        if "every" in self.model_fields_set and self.kind != "ratio":
            yield "every is of norm ratios; allowed: kind=ratio"
        if self.kind in ("spectra", "ratio", "truncation", "directions") and self.metric:
            yield "metric is in the place of the rank; allowed: kind=curves, landscape or scatter"
        if self.kind in ("ratio", "truncation", "directions") and (self.epsilon or self.rank_norm):
            yield "epsilon and rank_norm are of ranks and spectra; allowed: any other kind"
        if self.published and self.kind not in (None, "all", "curves"):
            yield "published values are drawn beside curves; allowed: kind=curves or all"
        if self.published and self.metric:
            yield "published values are ranks; allowed: one of --published and --metric"
        if self.file and "formats" in self.model_fields_set and self.file not in self.formats:
            got = ",".join(self.formats)
            yield f"format: got '{got}' for a file that ends with .{self.file}"


def run(options: Figures) -> int:
    """Draws the figures and says what was drawn, and what is missing.

    Args:
        options: What is asked for.

    Returns:
        The exit code 0.

    Raises:
        InputError: If there are no such runs, or what is asked for cannot be drawn of them.
    """
    from lowrank.views.figures.draw import Look, draw, layouts_of
    from lowrank.views.figures.layout import Wishes
    from lowrank.views.published.figures import of_figure
    from lowrank.views.table.choice import chosen, find_of, known_metric
    from lowrank.views.table.points import sweep_of
    from lowrank.views.table.rows import common_definition, read_rows

    runs, plan, lines = find_of(options.paths, options.sweep)
    runs = chosen(runs, options.where)
    published = of_figure(options.published) if options.published else ()
    epsilon = _epsilon_of(options, published)
    definition = common_definition(runs, epsilon, options.rank_norm)
    if options.metric:
        definition = replace(definition, metric=known_metric(options.metric, runs))
    rows, unread = read_rows(runs, definition)
    if not any(row.epochs.size for row in rows):
        raise InputError([*lines, *unread, "none of the runs has a measured epoch yet"])
    sweep = sweep_of(rows, plan)
    if not sweep.rows:
        raise InputError([*lines, *unread, *sweep.lines, "no run is left to draw"])
    wishes = Wishes(options.by, options.columns, options.x, options.y)
    look = Look(
        directory=options.output.parent if options.file else options.output,
        stem=options.output.stem if options.file else None,
        formats=(
            (options.file,)
            if options.file and "formats" not in options.model_fields_set
            else options.formats
        ),
        width=options.width,
        height=options.height,
        dpi=options.dpi,
        epoch=options.epoch,
        contours=options.contours,
        csv=options.csv,
        layer=options.layer,
        every=options.every,
        published=published,
    )
    for line in draw(layouts_of(sweep, options.kinds, wishes), sweep, definition, look):
        say(printable(line, None))
    for line in [*lines, *unread, *sweep.lines]:
        say(printable(line, None))
    return 0


def _epsilon_of(options: Figures, published: Sequence[Any]) -> float | None:
    """Returns the threshold asked for, which is a published figure's.

    Raises:
        InputError: If another one is asked for as well.
    """
    if not published:
        return options.epsilon
    epsilon: float = published[0].epsilon
    if options.epsilon not in (None, epsilon) or options.rank_norm == "spectral":
        raise InputError(
            f"published: figure {published[0].figure} is at ε = {epsilon:g}, Frobenius norm; "
            "allowed: no other --epsilon and --rank_norm"
        )
    return epsilon
