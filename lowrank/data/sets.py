"""What a data set is: uint8 images or windows of text with labels, to train and to test."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from lowrank.config.datasets import Source
from lowrank.data.files import Progress
from lowrank.data.sizes import pad, resize

Shape = tuple[int, ...]
"""Of an example without the batch: (C, H, W) of an image, (T,) of a text."""


def kind_of(shape: Shape) -> torch.dtype:
    """Returns the type in which networks take examples.

    Args:
        shape: Of one example.

    Example:
        >>> kind_of((3, 32, 32)), kind_of((64,))
        (torch.float32, torch.int64)
    """
    return torch.get_default_dtype() if len(shape) == 3 else torch.int64


def blank(shape: Shape, *batch: int, device: str | torch.device) -> Tensor:
    """Returns a batch of examples that show nothing, as networks take it.

    Args:
        shape: Of one example.
        *batch: Dimensions before it.
        device: Where the batch shall live.
    """
    return torch.zeros(*batch, *shape, dtype=kind_of(shape), device=device)


@dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels, or windows of text and the byte that follows each of their bytes.

    Attributes:
        images: uint8 of shape (n, C, H, W), 0 is black; of text its bytes, (n, T).
        labels: int64 of shape (n,), each in 0 … num_classes − 1; of text uint8 of shape (n, T).
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set with its normalisation.

    Attributes:
        name: Its name in the configuration.
        train: The training examples in use.
        test: The whole test set.
        classes: Names of the classes, in order of the labels.
        mean: Per channel, of pixel values scaled to 0 … 1.
        std: Per channel, likewise.
        where: Where the images came from, for people.
        digest: SHA-256 of the bytes of a text; empty for images.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    where: str
    digest: str = ""

    @property
    def text(self) -> dict[str, str] | None:
        """What tells a text from another: where it came from, and its digest; None for images."""
        return {"where": self.where, "sha256": self.digest} if self.digest else None

    @property
    def num_classes(self) -> int:
        """Number of classes, also of those that a subset happens to lack."""
        return len(self.classes)

    @property
    def image_shape(self) -> Shape:
        """(C, H, W) of every image; of text (T,)."""
        return tuple(self.train.images.shape[1:])

    @property
    def example(self) -> Tensor:
        """The first training example as networks take it, but not normalised: a batch of one."""
        first = self.train.images[:1]
        return first.to(kind_of(self.image_shape))

    def to(self, device: str | torch.device) -> Dataset:
        """Returns the same data set with its tensors on `device`."""
        train, test = (
            Split(split.images.to(device), split.labels.to(device))
            for split in (self.train, self.test)
        )
        return replace(self, train=train, test=test)


@dataclass(frozen=True)
class Request:
    """What `load_dataset` was asked for, see there, with its entry's `image_size` for None."""

    name: str
    source: Source
    data_dir: Path
    download: bool
    train_size: int | None
    image_size: int | None
    context: int
    progress: Progress | None

    def fit(self, images: Tensor) -> Tensor:
        """Brings images to the size that is asked for.

        Args:
            images: uint8 of shape (n, C, H, W).

        Returns:
            Padded or resized, as the entry says.

        Raises:
            InputError: The size is below that of images that are padded.
        """
        if self.image_size is None:
            return images
        if self.source.padded:
            return pad(images, self.image_size, self.name)
        return resize(images, self.image_size)
