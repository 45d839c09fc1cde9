"""Arrays by name, each read when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowrank.common.texts import nearest

Array = NDArray[np.float64]


class Columns(Mapping[str, Array]):
    """Arrays by name, each read from the record when it is asked for.

    Args:
        kind: What the names name, for the error message.
        names: The names, in order.
        read: Reads one by its name.
    """

    def __init__(self, kind: str, names: Iterable[str], read: Callable[[str], Array]) -> None:
        self._kind = kind
        self._names = dict.fromkeys(names)
        self._read = read

    def __getitem__(self, name: str) -> Array:
        if name not in self._names:
            raise KeyError(f"no {self._kind} {name!r} in this run{nearest(name, self._names)}")
        return self._read(name)

    def get(self, name: str, default: Any = None) -> Any:
        """Returns an array, or the default where there is none of that name.

        Args:
            name: The name.
            default: What is returned instead.
        """
        # Mapping's own would look for the nearest of a thousand names each time.
        return self._read(name) if name in self._names else default

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._kind}: {', '.join(self._names)})"
