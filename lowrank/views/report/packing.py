"""Arrays on their way into the page: thinned to what a screen shows, then packed as text.

An array is embedded as the base64 of little-endian float32: seven digits, NaN and infinities
included (JSON has none of these), in two thirds of the characters of decimal numbers, and decoded
by the browser in one step. A thousand runs fit into a few megabytes this way.
"""

from __future__ import annotations

import base64

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Places = NDArray[np.int64]


def pack(values: ArrayLike) -> str:
    """Returns an array as text, for ``unpack`` of the page's program.

    Args:
        values: Of any shape; packed row by row. What is beyond float32 becomes infinite.

    Returns:
        Base64.

    Example:
        >>> pack([1.0, 2.0])
        'AACAPwAAAEA='
    """
    with np.errstate(over="ignore"):
        numbers = np.asarray(values, dtype=np.float64).astype("<f4")
    return base64.b64encode(numbers.tobytes()).decode("ascii")


def every(length: int, stride: int) -> Places:
    """Returns each stride-th place of an array and its last.

    Runs of one length share their places, also with runs that ended early, but for the last.

    Args:
        length: Of the array.
        stride: At least 1.

    Returns:
        Ascending places.

    Example:
        >>> every(8, 3)
        array([0, 3, 6, 7])
    """
    return np.union1d(np.arange(0, length, stride), np.arange(length)[-1:])


def spread(length: int, count: int) -> Places:
    """Returns at most so many places of an array, evenly from the first to the last.

    Args:
        length: Of the array.
        count: At least 1.

    Returns:
        Ascending places.

    Example:
        >>> spread(10, 4), spread(2, 4)
        (array([0, 3, 6, 9]), array([0, 1]))
    """
    if length <= count:
        return np.arange(length)
    return np.unique(np.linspace(0, length - 1, count).round().astype(np.int64))
