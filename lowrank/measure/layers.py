"""What is kept of one weight matrix beside its numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Layer:
    """One measured weight matrix.

    Attributes:
        name: The ``<layer>`` in metric names, such as ``layer1_0_conv1``.
        path: Where it is in the model, such as ``layer1.0.conv1``.
        shape: (rows, columns) of the matrix.
        positions: How many output positions a convolution has; None where it does not apply.
        counted: Whether it belongs to the layer set of ``rank_mean``.
    """

    name: str
    path: str
    shape: tuple[int, int]
    positions: int | None
    counted: bool
