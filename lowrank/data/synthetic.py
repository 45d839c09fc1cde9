"""Made-up images of ten classes: a pattern per class under noise, equal on every machine.

A class's pattern is a 4 × 4 grid of random colours; an image is a quarter pattern and three
quarters noise, pixel by pixel. Only whole numbers and the raw PCG64 stream are used, so that every
bit is defined.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from lowrank.data.sets import Dataset, Request, Split

TRAIN_SIZE = 1000  # where train_size is not given
TEST_SIZE = 1000
_GRID = 4
_BLOCK = 1024  # images made at a time
_PATTERN_SEED, _TRAIN_SEED, _TEST_SEED = 0, 1, 2


def load(request: Request) -> Dataset:
    """Makes `train_size` (1,000) images to train and 1,000 to test.

    Labels go 0, 1, …, 9, 0, 1, …; a larger set begins with the images of a smaller one.

    Args:
        request: Its `train_size` and `image_size` are used.

    Returns:
        The data set, three channels.
    """
    source, size = request.source, request.image_size
    assert size is not None  # it has one of its own
    grid = _bytes(np.random.PCG64(_PATTERN_SEED), (len(source.classes), 3, _GRID, _GRID))
    cell = np.arange(size) * _GRID // size
    patterns = grid[:, :, cell[:, None], cell]
    return Dataset(
        name=request.name,
        train=_split(patterns, request.train_size or TRAIN_SIZE, _TRAIN_SEED),
        test=_split(patterns, TEST_SIZE, _TEST_SEED),
        classes=source.classes,
        mean=source.mean,
        std=source.std,
        where="made by a fixed seed",
    )


def _bytes(stream: np.random.PCG64, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    count = int(np.prod(shape))
    words = stream.random_raw(-(-count // 8)).astype("<u8")  # the same bytes on big-endian machines
    return words.view(np.uint8)[:count].reshape(shape)


def _split(patterns: npt.NDArray[np.uint8], n: int, seed: int) -> Split:
    stream = np.random.PCG64(seed)
    labels = np.arange(n) % len(patterns)
    images = np.empty((n, *patterns.shape[1:]), dtype=np.uint8)
    for start in range(0, n, _BLOCK):
        block = images[start : start + _BLOCK]
        noise = _bytes(stream, block.shape).astype(np.uint16)
        block[:] = (patterns[labels[start : start + _BLOCK]] + 3 * noise) // 4
    return Split(torch.from_numpy(images), torch.from_numpy(labels))
