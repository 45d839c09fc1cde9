"""VGGs with BatchNorm in the form used for small images: one linear layer after the pools."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from torch import nn
from torchvision.models.vgg import cfgs, make_layers

from lowrank.models.activations import activation

if TYPE_CHECKING:
    from lowrank.config import Config

CONFIGURATIONS = {"vgg11": "A", "vgg13": "B", "vgg16": "D", "vgg19": "E"}
"""Name of a model → its column in Table 1 of Simonyan and Zisserman 2015."""


def build(config: Config, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Builds torchvision's convolutions with BatchNorm, averaged over the map, and a classifier.

    Args:
        config: Reads ``model``, ``activation`` and ``dropout``, which acts before the classifier.
        image_shape: (channels, height, width), height and width of at least 32.
        num_classes: Number of logits.

    Returns:
        The network; VGG-16 has 14,728,266 parameters for three channels and ten classes.
    """
    features = make_layers(cfgs[CONFIGURATIONS[config.model]], batch_norm=True)
    features[0] = nn.Conv2d(image_shape[0], 64, kernel_size=3, padding=1)
    for name, module in features.named_children():
        if isinstance(module, nn.ReLU):
            features.set_submodule(name, activation(config.activation))
    return nn.Sequential(
        OrderedDict(
            features=features,
            average=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            dropout=nn.Dropout(config.dropout),
            classifier=nn.Linear(512, num_classes),
        )
    )
