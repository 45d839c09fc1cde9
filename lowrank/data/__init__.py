"""Data sets as uint8 tensors on the device, and batches drawn there.

``load_dataset`` looks a name up in the table of `lowrank.config.datasets` and returns train and
test images as tensors; ``Batches`` draws normalised mini-batches from them, without worker
processes.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import torch

from lowrank.common.errors import InputError, out_of_memory
from lowrank.common.files import expanded
from lowrank.common.texts import nearest
from lowrank.config.datasets import DATASETS
from lowrank.data.batches import Batches, normalise
from lowrank.data.files import Progress
from lowrank.data.kept import KEPT
from lowrank.data.sets import Dataset, Request, Split

__all__ = [
    "DATASETS",
    "Batches",
    "Dataset",
    "Progress",
    "Split",
    "describe",
    "load_dataset",
    "normalise",
]


def load_dataset(
    name: str,
    *,
    data_dir: str | Path = "data",
    download: bool = True,
    train_size: int | None = None,
    image_size: int | None = None,
    context: int = 64,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
) -> Dataset:
    """Loads a data set.

    Args:
        name: One of ``DATASETS``.
        data_dir: Where downloaded data sets lie, or itself the image folder, the text file or the
            folder of texts. Not used by ``digits``, ``synthetic`` and ``pydoc``.
        download: Whether torchvision may fetch what is missing.
        train_size: Use so many training images: a class-balanced subset that does not depend on
            any seed of the run, so that runs with different seeds see the same images, and a
            smaller subset lies within a larger one. ``synthetic`` makes so many. None means all.
        image_size: Height and width in pixels. mnist, fashion_mnist and digits are zero-padded to
            it, others resized. None means native, and 32 for mnist, fashion_mnist, food101,
            imagenette and places365.
        context: Bytes of an example of text, T.
        device: Where the tensors shall live.
        progress: Called as ``progress(done, total)`` while an image folder is decoded, for train
            and test in turn. By default a line on standard error.

    Returns:
        The data set, its images uint8 of shape (n, C, H, W), or its text (n, T), on ``device``.

    Raises:
        InputError: An unknown name, a size that is not possible, or files that are missing or
            damaged.

    Example:
        >>> digits = load_dataset("digits", train_size=100)
        >>> digits.train.images.shape, len(digits.test), digits.num_classes
        (torch.Size([100, 1, 8, 8]), 357, 10)
    """
    if name not in DATASETS:
        raise InputError(
            f"dataset={name!r} is not known{nearest(name, DATASETS)} (known: {', '.join(DATASETS)})"
        )
    sizes = (("train_size", train_size), ("image_size", image_size), ("context", context))
    for field, value in sizes:
        if value is not None and value < 1:
            raise InputError(f"{field}={value} is not possible: 1 or more")
    source = DATASETS[name]
    request = Request(
        name,
        source,
        expanded(data_dir),
        download,
        train_size,
        image_size or source.image_size,
        context,
        progress,
    )
    where = (request.data_dir.absolute(), torch.device(device))
    loader = importlib.import_module(f"lowrank.data.{source.file}")
    with out_of_memory(
        f"dataset={name} does not fit; a smaller train_size or image_size, or a machine with more "
        "memory, is needed"
    ):
        return KEPT.get(
            (name, download, train_size, image_size, context, *where),
            lambda: loader.load(request).to(device),
        )


def describe(dataset: Dataset) -> str:
    """Says in a few lines what a data set holds and where it lies.

    Args:
        dataset: A loaded data set.

    Returns:
        Lines for the terminal.

    Example:
        >>> print(describe(load_dataset("digits")))
        digits: 1,440 images to train, 357 to test
        each 1 × 8 × 8 (channels × height × width), 10 classes: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9
        normalised by mean (0.2876), std (0.3541)
        from: the package
    """
    if DATASETS[dataset.name].text:
        return (
            f"{dataset.name}: {len(dataset.train):,} windows to train, {len(dataset.test):,} to "
            f"test\neach {dataset.image_shape[0]} bytes, each with the one that follows it\n"
            f"from: {dataset.where}\nSHA-256: {dataset.digest}"
        )
    channels, height, width = dataset.image_shape
    shown = ", ".join(dataset.classes[:10])
    more = f", … and {dataset.num_classes - 10} more" if dataset.num_classes > 10 else ""
    mean = ", ".join(f"{value:.4f}" for value in dataset.mean)
    std = ", ".join(f"{value:.4f}" for value in dataset.std)
    return (
        f"{dataset.name}: {len(dataset.train):,} images to train, {len(dataset.test):,} to test\n"
        f"each {channels} × {height} × {width} (channels × height × width), "
        f"{dataset.num_classes} classes: {shown}{more}\n"
        f"normalised by mean ({mean}), std ({std})\n"
        f"from: {dataset.where}"
    )
