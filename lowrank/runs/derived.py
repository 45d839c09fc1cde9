"""Quantities that a run did not record, from the spectra that it did."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from lowrank.common.quantities import TABLE
from lowrank.measure.layers import Layer
from lowrank.measure.quantities import value

Array = NDArray[np.float64]


def is_derived(name: str, layers: Sequence[Layer]) -> bool:
    """Returns whether a metric is a function of recorded spectra alone.

    Args:
        name: Such as ``nuclear_rank/linear3`` or ``nuclear_rank_mean``.
        layers: Of the run.

    Example:
        >>> [is_derived(name, []) for name in ("nuclear_rank_mean", "rank_mean", "train_loss")]
        [True, False, False]
    """
    quantity, _, layer = name.partition("/")
    entry = TABLE.get(quantity if layer else quantity.removesuffix("_mean"))
    if entry is None or not entry.function:
        return False
    return any(each.name == layer for each in layers) if layer else entry.mean == name


def derive(
    name: str,
    layers: Sequence[Layer],
    spectra: Callable[[str], Array],
    ranks: Callable[[str], Array | None],
) -> Array:
    """Computes such a metric as training would have.

    Args:
        name: For which `is_derived` holds.
        layers: Of the run.
        spectra: Gives the singular values (E, k) of a layer by its name.
        ranks: Gives the recorded ``rank/<layer>`` (E,), NaN where the matrix has none; None where
            it was not recorded.

    Returns:
        Values (E,), NaN where there is none.
    """
    quantity, _, layer = name.partition("/")
    entry = TABLE[quantity if layer else quantity.removesuffix("_mean")]
    chosen = [each for each in layers if (each.name == layer if layer else each.counted)]
    columns = []
    for each in chosen:
        values = np.asarray(value(entry, spectra(each.name), each.shape))
        rank = ranks(each.name) if entry.mean else None
        columns.append(values if rank is None else np.where(np.isnan(rank), np.nan, values))
    return np.mean(columns, axis=0) if columns else np.array([])
