"""MLP-L-H and MLP-BN-L-H: L × (Linear H, [BatchNorm], activation), then a linear classifier."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING

from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from lowrank.models.activations import activation

if TYPE_CHECKING:
    from lowrank.config import Config


def build(config: Config, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Builds a multi-layer perceptron on flattened images.

    With ``weight_norm`` each hidden matrix is g · V / ‖V‖_F with a scalar gain g (Salimans and
    Kingma 2016, with one gain for a matrix in place of one for each row). The classifier is an
    ordinary matrix, as in the paper's code.

    Args:
        config: Reads ``depth`` (L), ``width`` (H), ``batch_norm``, ``weight_norm`` and
            ``activation``.
        image_shape: (channels, height, width).
        num_classes: Number of logits.

    Returns:
        A network with L + 1 weight matrices, ``linear1`` … ``linearL`` and ``classifier``.
    """
    modules: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    features = math.prod(image_shape)
    for layer in range(1, config.depth + 1):
        linear: nn.Module = nn.Linear(features, config.width)
        if config.weight_norm:
            linear = weight_norm(linear, dim=None)  # type: ignore[arg-type]  # documented as allowed
        modules[f"linear{layer}"] = linear
        if config.batch_norm:
            modules[f"norm{layer}"] = nn.BatchNorm1d(config.width)
        modules[f"activation{layer}"] = activation(config.activation)
        features = config.width
    modules["classifier"] = nn.Linear(features, num_classes)
    return nn.Sequential(modules)
