"""Fixed choices of examples that are the same on every machine and in every version.

The order comes from the raw stream of NumPy's PCG64 bit generator, which NumPy guarantees never to
change (NEP 19), unlike its `permutation` or torch's `randperm`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lowrank.common.errors import InputError

Labels = npt.NDArray[np.int64]

_SEED = 2206_05794  # part of the definition of every subset: never change it


def _ranks(labels: Labels) -> tuple[Labels, Labels]:
    """Returns each example's place in one fixed random order, among all and within its class."""
    n = len(labels)
    order = np.argsort(np.random.PCG64(_SEED).random_raw(n), kind="stable")
    place = np.empty(n, dtype=np.int64)
    place[order] = np.arange(n)
    by_class = order[np.argsort(labels[order], kind="stable")]
    counts = np.bincount(labels)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    within = np.empty(n, dtype=np.int64)
    within[by_class] = np.arange(n) - first
    return place, within


def balanced_subset(labels: Labels, size: int | None, name: str) -> Labels:
    """Chooses `size` examples with class counts as equal as possible.

    Counts differ by at most one, except that a class too small for its share is taken whole. The
    subset of a smaller size lies within that of a larger one.

    Args:
        labels: Class of every example, shape (n,).
        size: 1 … n, or None for all.
        name: Of the data set, for the message.

    Returns:
        Indices, ascending, shape (size,).

    Raises:
        InputError: `size` is not within 1 … n.

    Example:
        >>> labels = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 2])
        >>> np.bincount(labels[balanced_subset(labels, 7, "example")])
        array([3, 3, 1])
    """
    if size is None:
        return np.arange(len(labels))
    if not 1 <= size <= len(labels):
        raise InputError(
            f"train_size={size} is not possible: {name} has {len(labels)} training examples, "
            f"so 1 to {len(labels)}"
        )
    place, within = _ranks(labels)
    return np.sort(np.lexsort((place, within))[:size])


def stratified(labels: Labels, size: int) -> npt.NDArray[np.bool_]:
    """Chooses `size` examples with class counts in proportion to the classes.

    Args:
        labels: Class of every example, shape (n,).
        size: How many to choose.

    Returns:
        True for the chosen ones, shape (n,).
    """
    place, within = _ranks(labels)
    fraction = (within + 0.5) / np.bincount(labels)[labels]
    chosen = np.zeros(len(labels), dtype=np.bool_)
    chosen[np.lexsort((place, fraction))[:size]] = True
    return chosen
