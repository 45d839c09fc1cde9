"""ResNets in the form used for small images: 3×3 stem with stride 1, no max pool."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from lowrank.models.activations import activation

if TYPE_CHECKING:
    from lowrank.config import Config

BLOCKS = {
    "resnet18": (BasicBlock, [2, 2, 2, 2]),
    "resnet34": (BasicBlock, [3, 4, 6, 3]),
    "resnet50": (Bottleneck, [3, 4, 6, 3]),
}
"""Residual block and number of blocks per stage (He et al. 2016, Table 1)."""


def build(config: Config, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Builds torchvision's ResNet with the CIFAR stem.

    Args:
        config: Reads ``model`` and ``activation``.
        image_shape: (channels, height, width); any height and width of at least 1.
        num_classes: Number of logits.

    Returns:
        The network; ResNet-18 has 11,173,962 parameters for three channels and ten classes.
    """
    network: nn.Module = ResNet(*BLOCKS[config.model], num_classes=num_classes)
    network.conv1 = nn.Conv2d(image_shape[0], 64, kernel_size=3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    for module in network.modules():
        if hasattr(module, "relu"):
            module.relu = activation(config.activation)
    # torchvision draws from He's distribution; the paper uses PyTorch's default.
    for module in network.modules():
        reset = getattr(module, "reset_parameters", None)
        if reset is not None:
            reset()
    return network
