"""A network compressed: layers of low rank as products of two, and what that saves."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.utils.flop_counter import FlopCounterMode

from lowrank.common.errors import InputError
from lowrank.data.sets import Shape, blank
from lowrank.measure.matrices import weight_matrices
from lowrank.measure.truncation import Factors
from lowrank.models.factored import factor, factored_size, plain, unfactorable
from lowrank.training.pack import Pack, attention_by_products

if TYPE_CHECKING:
    from torch import nn

    from lowrank.measure.truncation import Kept
    from lowrank.training.learner import Learner


@dataclass(frozen=True)
class LayerKept:
    """What becomes of one counted matrix.

    Attributes:
        name: Of the layer.
        shape: (rows, columns).
        rank: That holds as much as is to be kept.
        reason: Why the layer stays as it is; empty where it becomes two.
    """

    name: str
    shape: tuple[int, int]
    rank: int
    reason: str

    @property
    def sizes(self) -> tuple[int, int]:
        """Entries of the matrix, and of what takes its place."""
        rows, columns = self.shape
        return rows * columns, rows * columns if self.reason else factored_size(
            self.shape, self.rank
        )


@dataclass(frozen=True)
class Cost:
    """What a network takes and gives.

    Attributes:
        parameters: Numbers that it has.
        flops: Floating-point operations for one example: those of matrix products, two for each
            multiplication and addition.
        accuracy: On the test set, 0..1.
    """

    parameters: int
    flops: int
    accuracy: float


@dataclass(frozen=True)
class Compression:
    """A compressed network beside the one that it was.

    Attributes:
        network: With factored layers.
        ranks: By path of the module: the layers that are two.
        layers: Each counted matrix, in network order.
        before: The cost of the network as it was.
        after: That of the compressed one.
    """

    network: nn.Module
    ranks: Mapping[str, int]
    layers: Sequence[LayerKept]
    before: Cost
    after: Cost


def compress(learner: Learner, kept: Kept) -> Compression:
    """Writes each counted layer as a product of two where that has fewer entries.

    Args:
        learner: A pack of one network, which stays as it is, and its test set.
        kept: How much of each matrix is kept.

    Returns:
        The compressed network.

    Raises:
        InputError: If a matrix is not finite.
    """
    (original,) = learner.pack.networks
    network = plain(copy.deepcopy(original))
    layers, ranks = [], {}
    for matrix in weight_matrices(network, example_input=learner.dataset.example):
        if not matrix.counted:
            continue
        weight = matrix.view()
        if not torch.isfinite(weight).all():
            raise InputError(f"{matrix.name}: is not finite, so it has no rank to be kept")
        rank = kept.rank(Factors(weight).spectrum)
        reason = unfactorable(network, matrix.module)
        if not reason and factored_size(matrix.shape, rank) >= weight.numel():
            reason = "two factors would be no smaller"
        if not reason:
            ranks[matrix.module] = rank
        layers.append(LayerKept(matrix.name, matrix.shape, rank, reason))
    before = cost(learner, network)
    factor(network, ranks)
    return Compression(network, ranks, layers, before, cost(learner, network))


def cost(learner: Learner, network: nn.Module) -> Cost:
    """Counts and evaluates a network.

    Args:
        learner: Of the test set.
        network: On its device.

    Returns:
        What it takes and gives.
    """
    _, (accuracy,) = learner.evaluate(learner.dataset.test, lambda: True, Pack([network]))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Cost(parameters, flops(network, learner.dataset.image_shape), accuracy)


def flops(network: nn.Module, image_shape: Shape) -> int:
    """Counts the floating-point operations of the matrix products for one example.

    Args:
        network: Put into evaluation mode.
        image_shape: (channels, height, width); of text (T,).

    Returns:
        Two for each multiplication and addition.

    Example:
        >>> from torch import nn
        >>> flops(nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), (3, 2, 2))
        120
    """
    parameter = next(network.parameters())
    example = blank(image_shape, 1, device=parameter.device)
    if example.is_floating_point():
        example = example.to(parameter.dtype)
    with FlopCounterMode(display=False) as counter, attention_by_products(), torch.no_grad():
        network.eval()(example)
    return int(counter.get_total_flops())
