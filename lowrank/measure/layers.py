"""What is kept of one weight matrix, or of one derived from such, beside its numbers."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from lowrank.common.quantities import CHANGES, PRODUCTS

_DERIVED = re.compile(rf"_(?:(?:{'|'.join(PRODUCTS)})_\d+|{'|'.join(CHANGES)})(?:_\d+)?$")


@dataclass(frozen=True)
class Layer:
    """One weight matrix, or one derived from weight matrices.

    Attributes:
        name: The ``<layer>`` in metric names, such as ``layer1_0_conv1``.
        path: Where its parameter is in the model, such as ``layer1.0.conv1.weight``.
        shape: (rows, columns) of the matrix.
        positions: At how many positions it is applied to one sample; None where unknown.
        counted: Whether it belongs to the layer set of ``rank_mean``; None where no model says so.
        groups: Groups of a convolution.
        part: The part of the network in whose mean ``rank_mean/<part>`` it counts as well; empty
            for none.
        kind: ``weight``, or what a derived matrix is: of `PRODUCTS` or `CHANGES`.
    """

    name: str
    path: str
    shape: tuple[int, int]
    positions: int | None = None
    counted: bool | None = True
    groups: int = field(default=1, compare=False)  # not in records of earlier versions
    part: str = field(default="", compare=False)  # likewise
    kind: str = "weight"  # all that earlier versions recorded


def is_derived_name(name: str) -> bool:
    """Returns whether a layer is called as derived matrices are.

    Args:
        name: Of the layer.

    Returns:
        Whether it is.

    Example:
        >>> [is_derived_name(name) for name in ("0_attn_qk_11", "0_attn_q", "head_change")]
        [True, False, True]
    """
    return _DERIVED.search(name) is not None
