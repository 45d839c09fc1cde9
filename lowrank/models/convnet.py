"""Convnet L-C: two 2×2 convolutions with stride 2, L 3×3 convolutions, a linear classifier."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from torch import nn

from lowrank.models.activations import activation

if TYPE_CHECKING:
    from lowrank.config import Config


def build(config: Config, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Builds a convolutional network without BatchNorm whose classifier sees whole maps.

    The two convolutions with stride 2 follow each other without an activation between them, as in
    the paper's code; 32 × 32 images become maps of 8 × 8.

    Args:
        config: Reads ``depth`` (L), ``width`` (C channels) and ``activation``.
        image_shape: (channels, height, width), height and width of at least 4.
        num_classes: Number of logits.

    Returns:
        A network with L + 3 weight matrices, all but the classifier counted.
    """
    channels, height, width = image_shape
    modules: OrderedDict[str, nn.Module] = OrderedDict(
        reduce1=nn.Conv2d(channels, config.width, kernel_size=2, stride=2),
        reduce2=nn.Conv2d(config.width, config.width, kernel_size=2, stride=2),
        activation=activation(config.activation),
    )
    for layer in range(1, config.depth + 1):
        modules[f"conv{layer}"] = nn.Conv2d(config.width, config.width, kernel_size=3, padding=1)
        modules[f"activation{layer}"] = activation(config.activation)
    modules["flatten"] = nn.Flatten()
    modules["classifier"] = nn.Linear(config.width * (height // 4) * (width // 4), num_classes)
    return nn.Sequential(modules)
