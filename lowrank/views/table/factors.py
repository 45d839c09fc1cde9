"""What varies over a sweep: factors, and whether their points form a grid or a star."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, product

from lowrank.views.table.fields import in_order, text, words

MOST_COUPLED = 12
"""More points of which each has values of its own are drawn at random, not coupled."""

Values = tuple[Hashable, ...]
"""Of the settings that vary, at one point of a sweep."""


@dataclass(frozen=True)
class Factor:
    """One thing that varies: a setting, or settings that change together.

    Attributes:
        fields: Their names.
        indices: Their places in the values of a point.
        levels: The combinations of values that occur, in order.
    """

    fields: tuple[str, ...] = ()
    indices: tuple[int, ...] = ()
    levels: tuple[Values, ...] = ((),)

    @property
    def name(self) -> str:
        """The settings in words."""
        return ", ".join(words(field) for field in self.fields)

    @property
    def labels(self) -> list[str]:
        """Each level in words."""
        return [", ".join(text(value) for value in level) for level in self.levels]

    def place(self, values: Values) -> int:
        """Returns which level a point has."""
        return self.levels.index(tuple(values[index] for index in self.indices))

    def title(self, place: int) -> str:
        """Returns one level with the settings' names."""
        pairs = zip(self.fields, self.levels[place], strict=True)
        return ", ".join(f"{words(field)} {text(value)}" for field, value in pairs)


def spread_by_factors(values: Collection[Hashable]) -> bool:
    """Tells whether numbers belong on a logarithmic axis, by how they lie.

    Args:
        values: Of one setting.

    Returns:
        Whether all are positive, the largest is 20 times the least or more, and half of them are in
        the lowest quarter. False where one of them is no number.

    Example:
        >>> spread_by_factors([1e-4, 1e-3, 1e-2]), spread_by_factors([0.01, 0.4, 0.6, 0.9])
        (True, False)
    """
    found = sorted(v for v in values if isinstance(v, int | float) and v > 0)
    if len(found) < max(2, len(values)) or any(isinstance(v, bool) for v in values):
        return False
    low, middle, high = found[0], found[len(found) // 2], found[-1]
    return high >= 20 * low and middle <= low + 0.25 * (high - low)


def factors_of(fields: Sequence[str], points: Sequence[Values]) -> list[Factor]:
    """Returns what varies; fields that follow from another one belong to it.

    So do two fields of a sweep without shape of which some pairs occur, each with everything else.

    Args:
        fields: The settings that vary.
        points: Values of the fields.

    Returns:
        The factors, in the order of their first fields.

    Example:
        >>> pairs = [(0.001, 6e-3, 4), (0.001, 6e-3, 8), (0.01, 4e-4, 4), (0.01, 4e-4, 8)]
        >>> [factor.fields for factor in factors_of(["lr", "weight_decay", "batch_size"], pairs)]
        [('lr', 'weight_decay'), ('batch_size',)]
    """
    columns = list(zip(*points, strict=True))
    many = len(points) > MOST_COUPLED
    leaders: list[int] = []
    followers: dict[int, list[int]] = {}
    for index in sorted(range(len(fields)), key=lambda i: -len(set(columns[i]))):
        for leader in leaders:
            pairs = set(zip(columns[leader], columns[index], strict=True))
            # Values drawn at random follow from each other as well: no two points share any.
            drawn = many and len(set(columns[index])) == len(points)
            if len(pairs) == len(set(columns[leader])) and not drawn:
                followers[leader].append(index)
                break
        else:
            leaders.append(index)
            followers[index] = [index]
    factors = [joint(fields, points, sorted(followers[leader])) for leader in sorted(leaders)]
    if len(factors) > 2 and not is_grid(factors, points) and centre(factors, points) is None:
        for pair in combinations(factors, 2):
            indices = sorted(index for factor in pair for index in factor.indices)
            merged = joint(fields, points, indices)
            left = [factor for factor in factors if factor not in pair]
            if math.prod(len(f.levels) for f in [merged, *left]) == len(set(points)):
                return sorted([merged, *left], key=lambda factor: factor.indices)
    return factors


def joint(fields: Sequence[str], points: Sequence[Values], indices: Sequence[int]) -> Factor:
    """Returns some settings as one factor.

    Args:
        fields: The settings that vary.
        points: Values of the fields.
        indices: Which of the fields.

    Returns:
        The factor of the combinations that occur.
    """
    orders = [in_order(values[index] for values in points) for index in indices]
    levels = {tuple(values[index] for index in indices) for values in points}
    ordered = sorted(
        levels, key=lambda level: [o.index(v) for o, v in zip(orders, level, strict=True)]
    )
    return Factor(tuple(fields[index] for index in indices), tuple(indices), tuple(ordered))


def grid(factors: Sequence[Factor]) -> list[Values]:
    """Returns every combination of levels, as values of the fields.

    Args:
        factors: Of all fields.

    Returns:
        As many points as the product of the numbers of levels.
    """
    order = [index for factor in factors for index in factor.indices]
    cells = []
    for levels in product(*(factor.levels for factor in factors)):
        values = dict(zip(order, chain.from_iterable(levels), strict=True))
        cells.append(tuple(values[index] for index in sorted(values)))
    return cells


def is_grid(factors: Sequence[Factor], points: Sequence[Values]) -> bool:
    """Returns whether points fill at least half of the grid of all levels, and are no star.

    Args:
        factors: What varies.
        points: Values of the fields.

    Returns:
        True where nothing varies.
    """
    size = math.prod(len(factor.levels) for factor in factors)
    return size <= 2 * len(points) and centre(factors, points) is None


def centre(factors: Sequence[Factor], points: Sequence[Values]) -> tuple[int, ...] | None:
    """Returns the centre of a star: the point from which all others differ in one factor each.

    Args:
        factors: What varies.
        points: Values of the fields.

    Returns:
        Its level of every factor; None where there is one factor only, the points fill three
        quarters of a grid, or they have another shape.

    Example:
        >>> star = [(1, 1), (0, 1), (2, 1), (1, 0), (1, 2)]
        >>> centre(factors_of(["lr", "weight_decay"], star), star)
        (1, 1)
    """
    sizes = [len(factor.levels) for factor in factors]
    if len(sizes) < 2 or 4 * len(points) >= 3 * math.prod(sizes):
        return None
    levels = [tuple(factor.place(values) for factor in factors) for values in points]
    for middle in levels:
        if all(sum(a != b for a, b in zip(middle, each, strict=True)) <= 1 for each in levels):
            return middle
    return None
