"""Mini-batches drawn, normalised and augmented on the device that holds the images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from lowrank.data.sets import Split

CROP_PADDING = 4  # pixels on each side, as is usual for CIFAR


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Returns (images / 255 − mean) / std, per channel.

    Computed as images · a + b in float32 with a = 1 / (255 · std) and b = −mean / std rounded from
    float64, so that one value gives one result in every batch on every call.

    Args:
        images: uint8 of shape (n, C, H, W).
        mean: One value per channel, of pixels scaled to 0 … 1.
        std: One positive value per channel, likewise.

    Returns:
        float32 of shape (n, C, H, W) on the device of `images`.

    Example:
        >>> normalise(torch.tensor([[[[0, 255]]]], dtype=torch.uint8), [0.5], [0.25])
        tensor([[[[-2.,  2.]]]])
    """
    return _apply(images, *_constants(mean, std, images.device))


def _constants(
    mean: Sequence[float], std: Sequence[float], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Returns a and b of `normalise`, each of shape (C, 1, 1)."""
    centre, spread = (torch.tensor(x, dtype=torch.float64).view(-1, 1, 1) for x in (mean, std))
    scale, shift = 1 / (255 * spread), -centre / spread
    return scale.to(device, torch.float32), shift.to(device, torch.float32)


def _apply(images: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return images.float().mul_(scale).add_(shift)


class Batches:
    """Shuffled mini-batches of one split, an epoch at a time.

    All that is random about an epoch is drawn at once, by `draw_order`, from torch's global
    generator of the images' device; going through the epoch draws nothing. So an epoch is resumed
    in the middle from its order and the number of batches done, whatever else uses the generator.

    Args:
        split: Images and labels; the batches live on the same device.
        mean: For `normalise`; empty for text, whose bytes are given as whole numbers.
        std: Likewise.
        batch_size: Images per batch; the last batch is shorter where it does not divide.
        augment: Whether each image is padded by 4 black pixels on every side, cropped to its own
            size at a random place, and flipped left to right with probability one half.
        layout: How a batch's images lie in memory; what they show is the same.

    Raises:
        ValueError: `batch_size` is below 1.

    Example:
        >>> split = Split(torch.zeros(10, 1, 2, 2, dtype=torch.uint8), torch.arange(10))
        >>> batches = Batches(split, mean=[0.5], std=[0.5], batch_size=4)
        >>> order = batches.draw_order()
        >>> [len(labels) for _, labels in batches.epoch(order)]
        [4, 4, 2]
    """

    def __init__(
        self,
        split: Split,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        batch_size: int,
        augment: bool = False,
        layout: torch.memory_format = torch.contiguous_format,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be 1 or more, got {batch_size}")
        self.split = split
        self.batch_size = batch_size
        self.augment = augment
        self.layout = layout
        self._scale, self._shift = _constants(mean, std, split.images.device)

    def __len__(self) -> int:
        """Returns the number of batches per epoch."""
        return -(-len(self.split) // self.batch_size)

    def draw_order(self) -> Tensor:
        """Draws everything random about one epoch.

        Returns:
            int64 of shape (1, n), or (4, n) with `augment`: the order of the images; then, for
            each image of that order, top and left edge of the crop (0 … 8) and flip (0 or 1).
        """
        n, device = len(self.split), self.split.images.device
        order = torch.randperm(n, device=device)[None]
        if not self.augment:
            return order
        crop = torch.randint(2 * CROP_PADDING + 1, (2, n), device=device)
        flip = torch.randint(2, (1, n), device=device)
        return torch.cat([order, crop, flip])

    def epoch(self, order: Tensor, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Goes through one epoch.

        Args:
            order: From `draw_order`, on the images' device; or, without `augment`, of shape
                (1, N, n): the orders of N networks that are trained at once.
            start: Batches to leave out at the beginning, 0 … len(self).

        Yields:
            Normalised images, float32 of shape (B, C, H, W), and labels, int64 of shape (B,); with
            N orders (N, B, C, H, W) and (N, B). Both are the caller's to change. Of text both are
            int64 of shape (B, T), or (N, B, T).
        """
        for k in range(start, len(self)):
            yield self.take(order[..., k * self.batch_size : (k + 1) * self.batch_size])

    def take(self, part: Tensor) -> tuple[Tensor, Tensor]:
        """Returns one batch.

        Args:
            part: The part of an order, as of `epoch`, that is of its B images.

        Returns:
            As `epoch` yields.
        """
        images, labels = self.split.images, self.split.labels
        index, *shifts = part
        chosen = index.flatten()
        batch = images.index_select(0, chosen)
        if self.augment:
            batch = crop_and_flip(batch, *shifts)
        if len(self._scale):
            batch = batch.contiguous(memory_format=self.layout)
            given = _apply(batch, self._scale, self._shift)
        else:
            given = batch.long()
        return (
            given.view(*index.shape, *images.shape[1:]),
            labels.index_select(0, chosen).long().view(*index.shape, *labels.shape[1:]),
        )


def crop_and_flip(images: Tensor, top: Tensor, left: Tensor, flip: Tensor) -> Tensor:
    """Shifts each image by up to 4 pixels, black moving in, and flips some left to right.

    Args:
        images: uint8 of shape (n, C, H, W).
        top: First row of the crop in the padded image, int64 of shape (n,), 0 … 8; 4 is unmoved.
        left: First column, likewise.
        flip: 1 for images to flip after the crop, else 0, int64 of shape (n,).

    Returns:
        uint8 of shape (n, C, H, W).
    """
    n, _, height, width = images.shape
    padded = functional.pad(images, (CROP_PADDING,) * 4)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (n, C, 9, 9, H, W), a view
    crops = windows[torch.arange(n, device=images.device), :, top, left]
    return torch.where(flip.bool()[:, None, None, None], crops.flip(3), crops)
