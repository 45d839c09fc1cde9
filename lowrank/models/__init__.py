"""Networks: one file per family, one line per model in the table of `lowrank.config.families`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from lowrank.common.errors import InputError, out_of_memory
from lowrank.config.families import FAMILIES
from lowrank.config.rules import size_problem

if TYPE_CHECKING:
    from torch import nn

    from lowrank.config import Config

__all__ = ["FAMILIES", "build_model"]


def build_model(config: Config, image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """Builds the configured network, drawing its weights from torch's global generator.

    Weights have PyTorch's default initialisation, as in the paper's code.

    Args:
        config: The run configuration; its model fields are read.
        image_shape: (channels, height, width) of the images; of text (T,).
        num_classes: Width of the classifier.

    Returns:
        A module from images (B, C, H, W), float, to logits (B, num_classes); from text (B, T),
        int64, to (B, T, num_classes).

    Raises:
        InputError: If the network cannot take images of that height and width, with a size that
            works.
    """
    if len(image_shape) == 3 and (problem := size_problem(config, *image_shape[1:])):
        raise InputError(problem)
    family = importlib.import_module(f"lowrank.models.{FAMILIES[config.model].file}")
    with out_of_memory(
        f"model={config.model} of this size does not fit; a smaller one, or a machine with more "
        "memory, is needed"
    ):
        model: nn.Module = family.build(config, image_shape, num_classes)
    return model
