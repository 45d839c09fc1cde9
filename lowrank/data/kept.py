"""Data sets that stay loaded: for a process that trains one run after another."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable

from lowrank.data.sets import Dataset


class Kept:
    """The data sets used last.

    Runs only read a data set's tensors, so that they can share them.

    Attributes:
        limit: How many are kept; 0, as it is at first, keeps none.
    """

    def __init__(self) -> None:
        self.limit = 0
        self._datasets: OrderedDict[Hashable, Dataset] = OrderedDict()

    def get(self, key: Hashable, load: Callable[[], Dataset]) -> Dataset:
        """Returns a data set, loaded if it is not kept.

        Args:
            key: All that decides what it holds and where.
            load: Loads it.

        Returns:
            The data set.
        """
        if not self.limit:
            return load()
        if key not in self._datasets:
            while len(self._datasets) >= self.limit:  # room before there is one more
                self._datasets.popitem(last=False)
            self._datasets[key] = load()
        self._datasets.move_to_end(key)
        return self._datasets[key]

    def forget(self) -> None:
        """Frees all data sets."""
        self._datasets.clear()


KEPT = Kept()
