"""What is kept of one weight matrix beside its numbers."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Layer:
    """One weight matrix.

    Attributes:
        name: The ``<layer>`` in metric names, such as ``layer1_0_conv1``.
        path: Where its parameter is in the model, such as ``layer1.0.conv1.weight``.
        shape: (rows, columns) of the matrix.
        positions: At how many positions it is applied to one sample; None where unknown.
        counted: Whether it belongs to the layer set of ``rank_mean``; None where no model says so.
        groups: Groups of a convolution.
        part: The part of the network in whose mean ``rank_mean/<part>`` it counts as well; empty
            for none.
    """

    name: str
    path: str
    shape: tuple[int, int]
    positions: int | None = None
    counted: bool | None = True
    groups: int = field(default=1, compare=False)  # not in records of earlier versions
    part: str = field(default="", compare=False)  # likewise
