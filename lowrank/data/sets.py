"""What a data set is: uint8 images with labels, to train and to test."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from lowrank.config.datasets import Source
from lowrank.data.files import Progress
from lowrank.data.sizes import pad, resize


@dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels.

    Attributes:
        images: uint8 of shape (n, C, H, W), 0 is black.
        labels: int64 of shape (n,), each in 0 … num_classes − 1.
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
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    where: str

    @property
    def num_classes(self) -> int:
        """Number of classes, also of those that a subset happens to lack."""
        return len(self.classes)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

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
