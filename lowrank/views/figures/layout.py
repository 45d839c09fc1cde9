"""Which figures a sweep asks for: what its curves, panels and axes stand for."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import combinations
from typing import Any

from lowrank.common.errors import InputError, refuse
from lowrank.common.texts import nearest, one_of
from lowrank.views.table.factors import Factor, Values, centre, factors_of, is_grid, joint
from lowrank.views.table.fields import text
from lowrank.views.table.points import Point

_LONGEST = 200  # bytes of a file's name, of which a form and a new file's mark take up to 50 more

MOST_CURVES = 12
"""More points that form no grid are not drawn as curves of one panel, nor as panels."""

MOST_FIGURES = 48
"""More figures than this are refused: nobody looks at them."""


@dataclass(frozen=True)
class Layout:
    """What one figure shows.

    Attributes:
        across: What curves stand for, or the x-axis of a landscape.
        up: The y-axis of a landscape; None for curves.
        by_panel: What panels stand for; None for one panel.
        fixed: What is the same in the whole figure, with its level.
        along_arm: Whether that is the centre of a star, of which there is one.
        kind: curves, landscape, scatter (every network against each setting), spectra, ratio,
            truncation or directions.
    """

    across: Factor
    up: Factor | None = None
    by_panel: Factor | None = None
    fixed: tuple[tuple[Factor, int], ...] = ()
    along_arm: bool = False
    kind: str = "curves"

    @property
    def title(self) -> str:
        """What is the same in the whole figure, in words."""
        return ", ".join(factor.title(place) for factor, place in self.fixed)

    def by_value(self, title: str = "") -> dict[str, Any]:
        """Returns what `ByValue` says of the figure.

        Args:
            title: What is to stand before the layout's.

        Returns:
            By attribute.
        """
        return {
            "title": ", ".join(filter(None, [title, self.title])),
            "by": self.across.name,
            "values": [level[0] if len(level) == 1 else level for level in self.across.levels],
            "labels": self.across.labels,
        }

    @property
    def stem(self) -> str:
        """The name of the figure's file, without suffix: `name`, where it is short enough."""
        whole = self.name.encode()
        if len(whole) <= _LONGEST:
            return self.name
        return f"{whole[: _LONGEST - 9].decode(errors='ignore')}-{sha256(whole).hexdigest()[:8]}"

    @property
    def name(self) -> str:
        """What the figure shows, such as can name a file but for its length."""
        parts = [self.kind]
        parts += ["+".join(f.fields) for f in (self.across, self.up) if f is not None and f.fields]
        for factor, place in () if self.along_arm else self.fixed:
            pairs = zip(factor.fields, factor.levels[place], strict=True)
            parts += [f"{field}={text(value)}" for field, value in pairs]
        name = "-".join(parts)
        return "".join(c if c.isalnum() or c in "-_=.+," else "_" for c in name)

    def panels(self, points: Sequence[Point]) -> list[tuple[str, list[Point]]]:
        """Returns title and points of every panel.

        Args:
            points: Of the sweep.

        Returns:
            Also the panels without any point.
        """
        members = [
            point
            for point in points
            if all(factor.place(point.values) == place for factor, place in self.fixed)
        ]
        if self.by_panel is None:
            return [("", members)]
        panel = self.by_panel
        return [
            (panel.title(place), [p for p in members if panel.place(p.values) == place])
            for place in range(len(panel.levels))
        ]


@dataclass(frozen=True)
class ByValue:
    """What a figure shows by the value of a setting, in panels.

    Attributes:
        title: What is the same in all panels, in words; may be empty.
        by: What lines or curves stand for, in words; empty for a single one.
        values: Its values, for the colours.
        labels: Their words.
    """

    title: str
    by: str
    values: Sequence[Hashable]
    labels: Sequence[str]


@dataclass(frozen=True)
class Wishes:
    """What the command line asks for; empty texts ask for nothing.

    Attributes:
        by: The setting that curves stand for.
        columns: The setting that panels stand for.
        x: The setting on the x-axis of a landscape.
        y: The setting on its y-axis.
    """

    by: str = ""
    columns: str = ""
    x: str = ""
    y: str = ""


def curves_layouts(fields: Sequence[str], points: Sequence[Point], wishes: Wishes) -> list[Layout]:
    """Chooses the figures of curves over epochs.

    One figure for each setting that varies: along the arm of a star; over a grid with a panel for
    each value of the smallest other setting, and a figure for each combination of further ones.
    A few points of any other shape are curves of one panel.

    Args:
        fields: The settings that vary.
        points: Of the sweep.
        wishes: What is asked for.

    Returns:
        At least one layout.

    Raises:
        InputError: If a setting does not vary, or there would be too many curves or figures.
    """
    values = [point.values for point in points]
    factors = factors_of(fields, values)
    asked, panel = _wanted(factors, {"by": wishes.by, "columns": wishes.columns})
    if not factors:
        return [Layout(Factor())]
    middle = centre(factors, values) if panel is None else None
    has_shape = middle is not None or is_grid(factors, values)
    if asked is not None and panel is None and not has_shape and len(points) > MOST_CURVES:
        return [Layout(asked)]  # the other settings have no panels: too many values
    if asked is None and not has_shape:
        if len(points) > MOST_CURVES:
            raise InputError(
                f"the {len(points)} points of {', '.join(fields)} form neither a grid nor a star: "
                f"choose with --by and --where, or draw all with --kind=scatter"
            )
        return [Layout(joint(fields, values, range(len(fields))))]
    layouts: list[Layout] = []
    for factor in [asked] if asked else [f for f in factors if f != panel]:
        layouts += _with_others(Layout(factor), factors, values, panel, middle)
    return _not_too_many(layouts)


def landscape_layouts(
    fields: Sequence[str], points: Sequence[Point], wishes: Wishes
) -> list[Layout]:
    """Chooses the landscapes: every pair of settings that forms a grid.

    Args:
        fields: The settings that vary.
        points: Of the sweep.
        wishes: What is asked for; a pair that is asked for need not form a grid.

    Returns:
        The layouts; none where no pair forms a grid.

    Raises:
        InputError: If a setting does not vary, or there would be too many figures.
    """
    values = [point.values for point in points]
    factors = factors_of(fields, values)
    x, y = _wanted(factors, {"x": wishes.x, "y": wishes.y})
    (panel,) = _wanted(factors, {"columns": wishes.columns})
    if x is not None and x == y:
        raise InputError(f"x and y: {x.name} change together; choose two that vary on their own")
    if x is None and y is None and not is_grid(factors, values):
        return []
    middle = centre(factors, values) if panel is None else None
    layouts: list[Layout] = []
    for one, other in combinations(factors, 2):
        if not {f for f in (x, y) if f is not None} <= {one, other} or panel in (one, other):
            continue
        across, up = (other, one) if x == other or y == one else (one, other)
        layouts += _with_others(
            Layout(across, up, kind="landscape"), factors, values, panel, middle
        )
    return _not_too_many(layouts)


def is_scattered(fields: Sequence[str], points: Sequence[Point]) -> bool:
    """Returns whether there are many points that form neither a grid nor a star.

    Args:
        fields: The settings that vary.
        points: Of the sweep.

    Returns:
        True for points of a random search, for example.
    """
    values = [point.values for point in points]
    factors = factors_of(fields, values)
    has_shape = is_grid(factors, values) or centre(factors, values) is not None
    return len(points) > MOST_CURVES and not has_shape


def _wanted(factors: Sequence[Factor], names: dict[str, str]) -> list[Factor | None]:
    """Returns the factors that flags name.

    Raises:
        InputError: A line for each that does not vary.
    """
    of_field = {field: factor for factor in factors for field in factor.fields}
    refuse(
        f"{flag}: {name} does not vary over these runs; allowed: "
        + (one_of(list(of_field)) + nearest(name[:60], of_field) if of_field else "none: none does")
        for flag, name in names.items()
        if name and name not in of_field
    )  # fmt: skip
    return [of_field.get(name) for name in names.values()]


def _with_others(
    layout: Layout,
    factors: Sequence[Factor],
    values: Sequence[Values],
    panel: Factor | None,
    middle: Sequence[int] | None,
) -> list[Layout]:
    """Returns a figure's layouts with the other factors as panels and as separate figures.

    Those of a star have their values in its middle.
    """
    rest = [factor for factor in factors if factor not in (layout.across, layout.up)]
    if middle is not None:
        pairs = zip(factors, middle, strict=True)
        fixed = tuple((factor, place) for factor, place in pairs if factor in rest)
        return [replace(layout, fixed=fixed, along_arm=True)]
    if not rest:
        return [layout]
    rest.sort(key=lambda factor: (factor != panel, len(factor.levels)))
    present = {tuple(factor.place(v) for factor in rest[1:]) for v in values}
    return [
        replace(layout, by_panel=rest[0], fixed=tuple(zip(rest[1:], places, strict=True)))
        for places in sorted(present)
    ]


def _not_too_many(layouts: list[Layout]) -> list[Layout]:
    """Returns the layouts.

    Raises:
        InputError: If they are too many.
    """
    panels = max((len(x.by_panel.levels) for x in layouts if x.by_panel), default=1)
    if len(layouts) > MOST_FIGURES or panels > MOST_CURVES:
        raise InputError(
            f"this would be {len(layouts)} figures of up to {panels} panels; allowed: up to "
            f"{MOST_FIGURES} of {MOST_CURVES}: choose with --where, --by, --columns, --x and --y"
        )
    return layouts
