"""Means over several networks, at the places that all of them have."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np

from lowrank.views.table.rows import Floats


def averaged(
    places: Sequence[Floats], columns: Sequence[Sequence[Floats]]
) -> tuple[Floats, list[Floats], list[Floats]]:
    """Averages what several networks have at places that not all of them need have.

    Args:
        places: Epochs or others, of each network.
        columns: Of each quantity its values at these places, of each network.

    Returns:
        The places that all have, and there the mean and the sample standard deviation of each
        quantity; the latter NaN for a single network.
    """
    shared = reduce(np.intersect1d, places)
    kept = [np.isin(own, shared) for own in places]
    tables = [np.array([v[k] for v, k in zip(of, kept, strict=True)]) for of in columns]
    means = [table.mean(axis=0) for table in tables]
    if len(places) == 1:
        return shared, means, [np.full_like(mean, np.nan) for mean in means]
    return shared, means, [table.std(axis=0, ddof=1) for table in tables]
