"""Images brought to another height and width: padded or resized."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from lowrank.common.errors import InputError

_BLOCK = 1024  # images in float32 at a time


def pad(images: Tensor, size: int, name: str) -> Tensor:
    """Puts images into the middle of black ones.

    Args:
        images: uint8 of shape (n, C, H, W).
        size: New height and width, at least H and W. An odd row goes to the bottom, an odd column
            to the right.
        name: Of the data set, for the message.

    Returns:
        uint8 of shape (n, C, size, size).

    Raises:
        InputError: `size` is below H or W.
    """
    height, width = images.shape[2:]
    if size < max(height, width):
        raise InputError(
            f"image_size={size} is not possible: {name} has {height}×{width} images, which are "
            f"zero-padded, so {max(height, width)} or more"
        )
    top, left = (size - height) // 2, (size - width) // 2
    sides = (left, size - width - left, top, size - height - top)
    return functional.pad(images, sides)


def resize(images: Tensor, size: int) -> Tensor:
    """Resizes images bilinearly with antialiasing; the aspect ratio is not kept.

    Args:
        images: uint8 of shape (n, C, H, W).
        size: New height and width.

    Returns:
        uint8 of shape (n, C, size, size), computed in float32 and rounded to nearest.
    """
    if images.shape[2:] == (size, size):
        return images
    blocks = [
        functional.interpolate(block.float(), size=(size, size), mode="bilinear", antialias=True)
        .round_()
        .clamp_(0, 255)
        .to(torch.uint8)
        for block in torch.split(images, _BLOCK)
    ]
    return torch.cat(blocks)
