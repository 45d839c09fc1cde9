"""The UCI handwritten digits, stored in the package; digits.txt says whose they are.

The file holds scikit-learn's `load_digits` in its order: a row per image, 64 pixels of 0 … 16, then
the digit. Pixels become bytes by the largest whole factor that fits, 15, so that every value is
exact: byte / 15 is UCI's number, and byte / 255 is that number / 17.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from lowrank.data.sets import Dataset, Request, Split
from lowrank.data.subsets import balanced_subset, stratified

_FACTOR = 15


def read() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Reads the stored file.

    Returns:
        UCI's pixels, 0 … 16, of shape (1797, 8, 8), and digits of shape (1797,).
    """
    table = np.loadtxt(Path(__file__).with_name("digits.csv.gz"), delimiter=",", dtype=np.uint8)
    return table[:, :64].reshape(-1, 8, 8), table[:, 64].astype(np.int64)


def load(request: Request) -> Dataset:
    """Loads the digits, 1,440 to train and 357 to test, stratified by a fixed seed.

    Args:
        request: Its `train_size` and `image_size` are used.

    Returns:
        The data set.
    """
    source = request.source
    assert source.train_size is not None
    pixels, labels = read()
    in_train = stratified(labels, source.train_size)
    kept = balanced_subset(labels[in_train], request.train_size, request.name)

    def split(images: npt.NDArray[np.uint8], digits: npt.NDArray[np.int64]) -> Split:
        tensor = torch.from_numpy(images * np.uint8(_FACTOR))[:, None]
        return Split(request.fit(tensor), torch.from_numpy(digits))

    return Dataset(
        name=request.name,
        train=split(pixels[in_train][kept], labels[in_train][kept]),
        test=split(pixels[~in_train], labels[~in_train]),
        classes=source.classes,
        mean=source.mean,
        std=source.std,
        where="the package",
    )
