"""How a sweep stands, seen by who starts nothing and changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from lowrank.launch.sweeps.growth import (
    contradictions,
    definition_of,
    grow,
    growth_lines,
    search_of,
)
from lowrank.launch.sweeps.identity import check, stored_identity
from lowrank.launch.sweeps.search import Search
from lowrank.launch.sweeps.trials import by_point, point_of, tally_of

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


def contradicting(search: Search, definition: Mapping[str, Any]) -> dict[str, str]:
    """Returns what keeps a stored sweep from growing to the present one, as `contradictions` does.

    Args:
        search: The present one.
        definition: The stored one.
    """
    return contradictions(search_of(definition, search.sweep), search)


class Standing:
    """A stored sweep, read once.

    Args:
        search: The points; they get the numbers that they have in the sweep.
        url: Of the storage; None if there is none.
        search_seed: The seed asked for.
        as_stored: Whether the sweep is taken as it is stored, whatever the file says now.

    Attributes:
        search: As given, or as stored.
        begun: Whether any launcher has come so far.
        prefix: Start of every run id.
        points: The trials of every point.
        grown: In lines, how the sweep would grow by a start.

    Raises:
        InputError: A line for everything in which the stored sweep contradicts.
    """

    def __init__(
        self,
        search: Search,
        url: str | None,
        search_seed: int | None = None,
        *,
        as_stored: bool = False,
    ) -> None:
        self.search = search
        self.begun, self.prefix = False, ""
        self.points: dict[int, list[FrozenTrial]] = {}
        self.grown: list[str] = []
        self._ran = set[int]()
        if url is not None:
            self._read(url, search_seed, as_stored)

    def _read(self, url: str, search_seed: int | None, as_stored: bool) -> None:
        import optuna

        from lowrank.launch.sweeps.storage import open_storage

        search, storage = self.search, open_storage(url)
        name = search.sweep.name
        if name not in optuna.get_all_study_names(storage):
            return
        study = optuna.load_study(storage=storage, study_name=name)
        identity = stored_identity(study)
        if identity is None:
            return
        grows = False
        if as_stored:
            cap, size = search.cap, search.size
            search = self.search = search_of(identity.definitions[-1], search.sweep)
            if search.grid is not None:
                size = len(search.grid) if cap is None else min(cap, len(search.grid))
            search.size = size
        else:
            ask = partial(contradicting, search)
            grows = check(identity, name, definition_of(search), search_seed, None, ask)
        earlier = identity.definitions[: None if grows else -1]
        before = [search_of(each, search.sweep) for each in earlier]
        if before:
            grow(search, before)
        if grows:
            self.grown = growth_lines(search, before[-1])
        self.begun, self.prefix = True, identity.prefix
        trials = study.get_trials(deepcopy=False)
        self.points = by_point(trials, search)
        self._ran = {point_of(trial) for trial in trials if trial.state.name != "WAITING"}

    def counted(self) -> list[str]:
        """Returns in lines what is done already and what is new; none of a sweep that is new."""
        if not self.begun:
            return []
        size = self.search.size
        done = tally_of(self.points, size, 0).done
        new = size - sum(number < size for number in self._ran)
        line = f"{done} of {size} points count already, {new} {'is' if new == 1 else 'are'} new"
        if left := size - done - new:
            line += f", {left} {'goes' if left == 1 else 'go'} on"
        return [*self.grown, line]
