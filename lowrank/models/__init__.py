"""The table of models: one file per family, one line per model."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from lowrank.config import Config

FAMILIES = {
    "mlp": "mlp",
    "resnet18": "resnet",
}
"""Name of a model → the module of this package whose ``build`` makes it."""


def build_model(config: Config, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Builds the configured network, drawing its weights from torch's global generator.

    Weights have PyTorch's default initialisation, as in the paper's code.

    Args:
        config: The run configuration; its model fields are read.
        image_shape: (channels, height, width) of the images.
        num_classes: Width of the classifier.

    Returns:
        A module from images (B, C, H, W), float, to logits (B, num_classes).
    """
    family = importlib.import_module(f"lowrank.models.{FAMILIES[config.model]}")
    model: nn.Module = family.build(config, image_shape, num_classes)
    return model
