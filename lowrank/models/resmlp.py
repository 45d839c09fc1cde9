"""Residual MLP: a linear layer, residual blocks of two linear layers, a linear classifier."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor, nn

from lowrank.models.activations import activation

if TYPE_CHECKING:
    from lowrank.config import Config


class Block(nn.Module):
    """x + norm(Linear(activation(norm(Linear(x))))), as in the paper's code.

    Args:
        width: Features of input and output, and between the two linear layers.
        activation_name: As `activation` takes it.
        norm: Makes a normalisation of so many features.
    """

    def __init__(
        self,
        width: int,
        activation_name: str,
        norm: Callable[[int], nn.Module] = nn.BatchNorm1d,
    ) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, width)
        self.norm1 = norm(width)
        self.activation = activation(activation_name)
        self.linear2 = nn.Linear(width, width)
        self.norm2 = norm(width)

    def forward(self, features: Tensor) -> Tensor:
        """Adds the block's function of its input to it.

        Args:
            features: (B, width).

        Returns:
            (B, width).
        """
        inner = self.activation(self.norm1(self.linear1(features)))
        residual: Tensor = self.norm2(self.linear2(inner))
        return features + residual


def build(config: Config, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Builds a residual MLP on flattened images.

    No activation lies between the first layer, the blocks and the classifier. The paper's code
    repeats one block; here, as its text has it, every block has weights of its own.

    Args:
        config: Reads ``depth`` (number of blocks), ``width`` and ``activation``.
        image_shape: (channels, height, width).
        num_classes: Number of logits.

    Returns:
        A network with 2 · depth + 2 weight matrices, all but the classifier counted.
    """
    modules: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    modules["linear"] = nn.Linear(math.prod(image_shape), config.width)
    modules["norm"] = nn.BatchNorm1d(config.width)
    for block in range(1, config.depth + 1):
        modules[f"block{block}"] = Block(config.width, config.activation)
    modules["classifier"] = nn.Linear(config.width, num_classes)
    return nn.Sequential(modules)
