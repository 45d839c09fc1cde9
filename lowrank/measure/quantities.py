"""The quantities of `lowrank.common.quantities`: their values, and which are measured."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lowrank.common.errors import refuse
from lowrank.common.quantities import FURTHER, TABLE, LayerQuantity
from lowrank.common.texts import nearest, printable
from lowrank.measure import ranks, tails
from lowrank.measure.ranks import Quantity

_MODULES: dict[str, Any] = {"ranks": ranks, "tails": tails}


def value(entry: LayerQuantity, s: ArrayLike, shape: tuple[int, int]) -> Quantity:
    """Computes a quantity of matrices from their singular values.

    Args:
        entry: Of the table, or one of one's own.
        s: Singular values (..., k).
        shape: Rows and columns of the matrices.

    Returns:
        The values (...).

    Raises:
        TypeError: It needs more than these.

    Example:
        >>> value(TABLE["nuclear_rank"], [2.0, 1.0, 1.0], (3, 5))
        2.6666666666666665
    """
    if not entry.function:
        raise TypeError(f"{entry.name} is no function of singular values")
    function = entry.function
    if isinstance(function, str):
        module, _, name = function.partition(".")
        function = getattr(_MODULES[module], name)
    found = function(s, *([shape] if entry.takes_shape else []), **entry.options)
    of_full: Quantity = found / np.asarray(s).shape[-1] if entry.is_share else found
    return of_full


def recorded(names: Iterable[str] = ()) -> list[LayerQuantity]:
    """Returns the functions of singular values that a training records.

    Args:
        names: Those asked for beside the ones that always are.

    Returns:
        Their entries, in the order of the table.
    """
    wanted = set(names)
    return [e for e in TABLE.values() if e.function and (e.told == "always" or e.name in wanted)]


def chosen(
    asked: Collection[str] | Mapping[str, Callable[[ArrayLike], float] | None],
) -> list[LayerQuantity]:
    """Returns what is measured: what always is, and what is asked for.

    Args:
        asked: Names of `FURTHER`, or a mapping that also has functions of singular values by names
            of one's own, None for those of ours.

    Returns:
        The entries.

    Raises:
        InputError: A name is not known, or is no name for a function.

    Example:
        >>> [entry.name for entry in chosen({"condition": lambda s: s[0] / s[-1]})][-1]
        'condition'
    """
    functions = asked if isinstance(asked, Mapping) else dict.fromkeys(asked)
    ours = [str(name) for name, function in functions.items() if function is None]
    own = {str(name): function for name, function in functions.items() if function is not None}
    taken = {*TABLE, "spectrum", "rank_mean", "rank_mean_all", "collapsed", "epoch", "lr_now"}
    allowed = ", ".join(FURTHER)
    refuse(
        [
            *(
                f"quantities: got '{printable(name)}'; allowed: {allowed}{nearest(name, FURTHER)}"
                for name in ours
                if name not in FURTHER
            ),
            *(
                f"quantities: got the name '{printable(name)}' for a function; allowed: letters, "
                "digits and _, and none that is ours"
                for name in own
                if not name.isidentifier() or name in taken
            ),
        ]
    )
    return recorded(ours) + [
        LayerQuantity(name, name.replace("_", " "), function=function, kind="shape")
        for name, function in own.items()
    ]
