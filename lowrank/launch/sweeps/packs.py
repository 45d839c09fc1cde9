"""Which points of a sweep train as one batched computation: decided by the sweep alone.

A *pack* is a tuple of numbers of points whose runs `lowrank.config.packs` lets train together. What
has been done of them has no part in it, so that a sweep that goes on forms the same packs again.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from lowrank.config.packs import pack_key, unpackable
from lowrank.launch.sweeps.search import Search

AUTO, OFF = "auto", "off"

_ALL = "all"
"""Stands for the points of a search, whose kinds are not known beforehand."""

_TRIED = 16  # first points of a search of which one may tell how many fit


def form(
    kinds: Mapping[int, str | None], most: Callable[[str], int], block: int | None = None
) -> list[tuple[int, ...]]:
    """Groups points of one kind in the order of their numbers.

    Args:
        kinds: What the members of a pack have in common, by point; None for a point that can only
            train alone.
        most: Members of a pack, by kind.
        block: Points of which each pack takes from one block of so many numbers; None for a grid,
            all of whose points are known.

    Returns:
        The packs, each point in one, by their first points.

    Example:
        >>> form({0: "a", 1: "b", 2: "a", 3: None, 4: "a"}, lambda kind: 2)
        [(0, 2), (1,), (3,), (4,)]
    """
    groups: dict[Any, list[int]] = defaultdict(list)
    for number, kind in sorted(kinds.items()):
        groups[number if kind is None else (number // block if block else 0, kind)].append(number)
    packs = []
    for members in groups.values():
        kind = kinds[members[0]]
        size = 1 if kind is None else most(kind)
        packs += [tuple(members[i : i + size]) for i in range(0, len(members), size)]
    return sorted(packs)


class Packs:
    """The packs of one sweep, as all of its launchers see them.

    Args:
        search: The sweep's points.
        asked: `AUTO`, `OFF`, or the most members of a pack.

    Attributes:
        sizes: Members of a pack by kind, as `AUTO` has decided them. The launchers share them.
        limits: Members by kind at which memory has not run out. Likewise.
        reasons: Why points train alone that could not do otherwise, by point.
    """

    def __init__(self, search: Search, asked: str | int) -> None:
        self._search = search
        self._asked = asked
        self._kinds: dict[int, str | None] = {}
        self.sizes: dict[str, int] = {}
        self.limits: dict[str, int] = {}
        self.reasons: dict[int, str] = {}

    @property
    def on(self) -> bool:
        """Whether any points are packed."""
        return self._asked != OFF

    @property
    def block(self) -> int:
        """Points that a search asks for at once."""
        if isinstance(self._asked, int):
            return self._asked
        return self.sizes.get(_ALL, 1) if self.on else 1

    def of(self, points: Mapping[int, Mapping[str, Any]]) -> list[tuple[int, ...]]:
        """Groups points.

        Args:
            points: Values of all those that are known, by number.

        Returns:
            The packs.
        """
        if not self.on:
            return [(number,) for number in points]
        kinds = {number: self.kind(number, values) for number, values in points.items()}
        return form(kinds, self.most, None if self._search.grid is not None else self.block)

    def kind(self, number: int, values: Mapping[str, Any]) -> str | None:
        """Returns what a point has in common with the others of its pack.

        Args:
            number: Of the point.
            values: Of every parameter.

        Returns:
            The kind; None if it can only train alone.
        """
        if number not in self._kinds:
            config = self._search.config(values)
            if reason := unpackable(config):
                self.reasons[number] = reason
            key = hashlib.sha256(repr(pack_key(config)).encode()).hexdigest()[:12]
            self._kinds[number] = None if reason else key
        return self._kinds[number]

    def most(self, kind: str) -> int:
        """Returns the most members of a pack of some kind."""
        size = self._asked
        if not isinstance(size, int):
            size = self.sizes.get(_ALL if self._search.grid is None else kind, 1)
        return min(size, self.limits.get(kind, size))

    def undecided(self, seed: int) -> dict[str, tuple[list[str], int]]:
        """Finds the kinds whose size is still to be decided by the memory.

        Args:
            seed: Of random and Bayesian search.

        Returns:
            The arguments of one of its runs, and how many points there are of it, by kind.
        """
        found: dict[str, tuple[list[str], int]] = {}
        if self._asked != AUTO:
            return found
        if self._search.grid is None:
            if _ALL in self.sizes:
                return found
            for number in range(min(self._search.size, _TRIED)):
                values = self._search.point(number, self._search.propose(number, seed).params)
                if unpackable(self._search.config(values)) is None:
                    return {_ALL: (self._command(values), self._search.size)}
            return found
        for number, values in enumerate(self._search.grid[: self._search.size]):
            kind = self.kind(number, values)
            if kind is not None and kind not in self.sizes:
                words, count = found.get(kind) or (self._command(values), 0)
                found[kind] = words, count + 1
        return found

    def decide(
        self,
        undecided: Mapping[str, tuple[list[str], int]],
        members: Mapping[str, int],
        slots: int,
    ) -> dict[str, int]:
        """Spreads the points evenly over slots, as far as memory allows.

        Args:
            undecided: From `undecided`.
            members: How many fit into memory, by kind.
            slots: How many there are.

        Returns:
            Members of a pack by kind, which are in `sizes` from now on.
        """
        sizes = {
            kind: min(members[kind], -(-count // slots)) for kind, (_, count) in undecided.items()
        }
        self.sizes |= sizes
        return sizes

    def described(self) -> str:
        """Returns in words how many packs there are, as far as that is known."""
        grid = self._search.grid
        if grid is None:
            return f"packs of up to {self.block}"
        if self.undecided(0):
            return "packs"
        packs = self.of(dict(enumerate(grid[: self._search.size])))
        count = sum(pack[0] not in self.reasons for pack in packs)
        alone = f" and {len(self.reasons)} alone" if self.reasons else ""
        return f"{count} {'pack' if count == 1 else 'packs'}{alone}"

    def told(self) -> list[str]:
        """Returns a line for each reason why points train alone, of the points that are known."""
        return [
            f"{count} {'point trains' if count == 1 else 'points train'} alone: {reason}"
            for reason, count in Counter(self.reasons.values()).items()
        ]

    def _command(self, values: Mapping[str, Any]) -> list[str]:
        return self._search.sweep.command(values, self._search.overrides)
