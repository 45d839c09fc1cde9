"""Vision transformer (Dosovitskiy et al. 2021) in sizes for small images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn
from torchvision.models import VisionTransformer

if TYPE_CHECKING:
    from lowrank.config import Config


def build(config: Config, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """Builds torchvision's vision transformer.

    Linear layers, attention and the patches' convolution have PyTorch's default initialisation, as
    all models here. So has the classifier, which torchvision begins at zero, where it would have
    no rank. Position embeddings and the class token, for which PyTorch has no default, are drawn
    as torchvision does.

    Args:
        config: Reads ``vit_patch``, ``vit_depth``, ``vit_heads``, ``vit_width``,
            ``vit_mlp_width`` and ``dropout``, which acts on the embedded patches and after
            attention and both layers of the feed-forward part of every block.
        image_shape: (channels, height, width); height and width equal, divisible by the patch.
        num_classes: Number of logits.

    Returns:
        A network with 6 · depth + 2 weight matrices, all but the head counted: the projection of
        the patches and, of each block, query, key, value, output and two feed-forward matrices.
    """
    network: nn.Module = VisionTransformer(
        image_size=image_shape[1],
        patch_size=config.vit_patch,
        num_layers=config.vit_depth,
        num_heads=config.vit_heads,
        hidden_dim=config.vit_width,
        mlp_dim=config.vit_mlp_width,
        dropout=config.dropout,
        num_classes=num_classes,
    )
    network.conv_proj = nn.Conv2d(
        image_shape[0], config.vit_width, kernel_size=config.vit_patch, stride=config.vit_patch
    )
    for module in network.modules():
        if type(module) is nn.Linear:  # attention's output projection is of a type of its own
            module.reset_parameters()
    return network
