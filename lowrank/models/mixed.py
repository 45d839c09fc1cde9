"""Mixed: residual blocks of convolutions, then residual blocks of linear layers."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from torch import nn
from torchvision.models.resnet import BasicBlock

from lowrank.models.activations import activation
from lowrank.models.resmlp import Block

if TYPE_CHECKING:
    from lowrank.config import Config


def build(config: Config, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Builds the paper's mixed residual network (Fig. 16; its depth is 5 and its width 256).

    Maps keep the images' height and width up to the linear layer that flattens them. A block of
    convolutions ends with an activation, one of linear layers does not.

    Args:
        config: Reads ``depth`` (blocks of each kind), ``width`` (channels, then units) and
            ``activation``.
        image_shape: (channels, height, width).
        num_classes: Number of logits.

    Returns:
        A network with 4 · depth + 3 weight matrices, all but the classifier counted; those of the
        blocks lie in the submodules ``convolutions`` and ``linears``.
    """
    channels, height, width = image_shape
    blocks = [BasicBlock(config.width, config.width) for _ in range(config.depth)]
    for block in blocks:
        block.relu = activation(config.activation)
    linears = [Block(config.width, config.activation, nn.LayerNorm) for _ in range(config.depth)]
    return nn.Sequential(
        OrderedDict(
            stem=nn.Conv2d(channels, config.width, kernel_size=3, padding=1),
            stem_norm=nn.BatchNorm2d(config.width),
            stem_activation=activation(config.activation),
            convolutions=nn.Sequential(*blocks),
            flatten=nn.Flatten(),
            linear=nn.Linear(config.width * height * width, config.width),
            norm=nn.LayerNorm(config.width),
            linears=nn.Sequential(*linears),
            classifier=nn.Linear(config.width, num_classes),
        )
    )
