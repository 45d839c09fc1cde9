"""The data sets of torchvision whose images are files of many sizes, reduced to one.

Every image is resized to ``image_size`` squared (32 × 32 unless another is asked for): bilinearly
and antialiased (`lowrank.data.sizes.resize`), without cropping, so that the aspect ratio is not
kept. That happens once; the result is kept in ``data_dir`` (`lowrank.data.decode.cached`). Which
training images `train_size` takes is decided before any is decoded
(`lowrank.data.subsets.balanced_subset`): 100,000 of places365 cost no more than they must.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lowrank.common.errors import Failure, InputError
from lowrank.data.decode import Form, ImageFile
from lowrank.data.folder import channel_statistics, decoded
from lowrank.data.sets import Dataset, Request
from lowrank.data.subsets import balanced_subset
from lowrank.data.vision import alone_in, timeout, unreachable


class _Kind(NamedTuple):
    """How torchvision's class of a data set is called, and where it keeps what.

    Attributes:
        train: The argument `split` of its training images.
        test: Likewise of those that stand for a test set.
        options: Its other arguments.
        files: The attribute with its files, or with pairs of file and label.
        archives: What it downloads to `data_dir`, or is unpacked there by hand.
    """

    train: str
    test: str
    options: dict[str, Any]
    files: str
    archives: tuple[str, ...]


_PLACES = "http://data.csail.mit.edu/places/places365/"

_KINDS = {
    "Food101": _Kind(
        "train", "test", {}, "_image_files",
        ("http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz as food-101/",),
    ),
    "Imagenette": _Kind(
        "train", "val", {"size": "160px"}, "_samples",
        ("https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-160.tgz as imagenette2-160/",),
    ),
    "Places365": _Kind(
        "train-standard", "val", {"small": True}, "imgs",
        (
            f"{_PLACES}filelist_places365-standard.tar as its .txt files",
            f"{_PLACES}train_256_places365standard.tar as data_256_standard/",
            f"{_PLACES}val_256.tar as val_256/",
        ),
    ),
}  # fmt: skip
"""The smallest images of each that are well above 32 × 32; imagenette and places365 have no labels
for their test images, so that those to validate are used."""


def load(request: Request) -> Dataset:
    """Loads one of these data sets, fetching and decoding it first where that is needed.

    Mean and standard deviation are those of the training images in use.

    Args:
        request: All of it is used.

    Returns:
        The data set.

    Raises:
        InputError: Files are missing or damaged and were not fetched; says what to put where.
    """
    from torchvision import datasets  # takes two seconds

    root, source = request.data_dir, request.source
    cls, kind = getattr(datasets, source.torchvision), _KINDS[source.torchvision]
    with alone_in(request):
        parts = {split: _open(cls, kind, request, split) for split in (kind.train, kind.test)}
    files = {split: _files(loaded, kind) for split, loaded in parts.items()}
    labels = np.array([label for _, label in files[kind.train]], dtype=np.int64)
    kept = balanced_subset(labels, request.train_size, request.name)
    files[kind.train] = [files[kind.train][k] for k in kept]

    assert request.image_size is not None, "the table has one"
    size = request.image_size
    train, test = decoded(
        request,
        root,
        Form("RGB", size, size, True, ""),
        {
            Path(request.name, split): [ImageFile.at(root, path, label) for path, label in those]
            for split, those in files.items()
        },
        f"{request.name}-",
    )
    mean, std = channel_statistics(train.images)
    names = [
        name[0] if isinstance(name, tuple) else str(name) for name in parts[kind.train].classes
    ]
    return Dataset(request.name, train, test, tuple(names), mean, std, str(root.resolve()))


def _open(cls: Any, kind: _Kind, request: Request, split: str) -> Any:
    """Finds one part by torchvision's class, which decodes nothing yet.

    Returns:
        An instance of `cls`.

    Raises:
        InputError: Files are missing or damaged; says what to do.
        Failure: They cannot be downloaded; says what to put where instead.
    """
    try:
        with timeout():
            found = cls(request.data_dir, split=split, download=request.download, **kind.options)
        _files(found, kind)[0][0].stat()  # of places365 torchvision has read the lists only
        return found
    except Exception as error:  # whatever a damaged list of files raises in a parser
        reason = " ".join(str(error).split()) or type(error).__name__
        root = request.data_dir.absolute()
        lines = [f"dataset={request.name} cannot be read from {root}: {reason}"]
        lines += [f"unpack {archive} in {root}" for archive in kind.archives]
        if not request.download:
            lines.append("or let it be downloaded: --download=True")
        raise (Failure if unreachable(error) else InputError)(lines) from error


def _files(loaded: Any, kind: _Kind) -> list[tuple[Path, int]]:
    found = getattr(loaded, kind.files)
    if found and isinstance(found[0], tuple):
        return [(Path(path), label) for path, label in found]
    return [(Path(path), label) for path, label in zip(found, loaded._labels, strict=True)]
