"""A folder of images: train/ and test/ (or val/), each with one folder per class."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lowrank.common.errors import InputError, refuse
from lowrank.common.files import open_file
from lowrank.common.terminal import counting
from lowrank.data.decode import GREY, Form, ImageFile, cached, decode
from lowrank.data.sets import Dataset, Request, Split
from lowrank.data.subsets import balanced_subset

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_SHOWN = 10  # lines about single files


def load(request: Request) -> Dataset:
    """Decodes the images of a folder, or reads what an earlier run decoded.

    Classes are the sorted names of the folders; files are taken in sorted order, from folders
    within them too, each of these once wherever links lead, and names that begin with a dot are
    left out. The first training image decides: where it is greyscale all must be, else all become
    RGB (transparency is dropped); and unless `image_size` is given, all must have its size. Mean
    and standard deviation are those of the training images in use; a channel that never varies has
    1 for the latter.

    Args:
        request: All of it but `download` is used.

    Returns:
        The data set.

    Raises:
        InputError: Folders are missing, empty or differ, or files are damaged or differ in size.
    """
    root = request.data_dir
    train_folder, test_folder = _find_splits(root)
    classes, train_files, test_files = _list_both(root, train_folder, test_folder)
    form = _find_form(root, train_files, request.image_size)

    labels = np.array([file.label for file in train_files])
    kept = balanced_subset(labels, request.train_size, str(train_folder))
    train, test = decoded(
        request,
        root,
        form,
        {train_folder: [train_files[k] for k in kept], test_folder: test_files},
    )
    mean, std = channel_statistics(train.images)
    return Dataset(request.name, train, test, classes, mean, std, str(root.resolve()))


def decoded(
    request: Request,
    root: Path,
    form: Form,
    files: Mapping[Path, Sequence[ImageFile]],
    prefix: str = "",
) -> tuple[Split, Split]:
    """Decodes training and test images, or reads what an earlier run decoded.

    Args:
        request: What was asked for.
        root: What the files' paths are relative to.
        form: Of the results.
        files: Those to train and those to test, by the folders that they lie in.
        prefix: Of the files in which they are kept.

    Returns:
        Both splits.

    Raises:
        InputError: Files are damaged or have another size.
    """
    problems: list[str] = []
    size = f"-{request.image_size}px" if request.image_size else ""
    subset = f"-{request.train_size}" if request.train_size else ""

    def split(folder: Path, files: Sequence[ImageFile], name: str) -> Split:
        def make() -> Tensor:
            what = f"decoding {folder}"
            with counting(what, lambda *far: f"{what}: {_far(*far)}") as show:
                given = show if request.progress is None else request.progress
                images, found = decode(root, files, form, given)
            if found:
                problems.extend(found)
                raise _DamagedError
            return images

        targets = torch.tensor([file.label for file in files])
        try:
            return Split(cached(root, f"{prefix}{name}", files, form, make), targets)
        except _DamagedError:  # reported together with the other split's
            return Split(torch.empty(0, *form.shape, dtype=torch.uint8), targets)

    names = (f"train{subset}{size}", f"test{size}")
    train, test = (split(*item, name) for item, name in zip(files.items(), names, strict=True))
    if problems:
        more = len(problems) - _SHOWN
        raise InputError(
            [*problems[:_SHOWN], *([f"… and {more} more image files like these"] * (more > 0))]
        )
    return train, test


def _far(done: int, total: int, seconds: float) -> str:
    return f"{done:,} of {total:,} in {seconds:.1f} s"


class _DamagedError(Exception):
    """Some files cannot be used, so nothing is to be cached."""


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over all images and pixels.

    Sums are whole numbers, so the results are exact to float64 rounding.

    Args:
        images: uint8 of shape (n, C, H, W).

    Returns:
        (mean, std) of pixel values scaled to 0 … 1, C values each; std is the population's, and 1
        for a channel that never varies.

    Example:
        >>> channel_statistics(torch.tensor([[[[0, 255]], [[51, 51]]]], dtype=torch.uint8))
        ((0.5, 0.2), (0.5, 1.0))
    """
    channels = images.shape[1]
    count = images.numel() // channels
    total, squares = [0] * channels, [0] * channels
    for block in torch.split(images, 1024):
        for channel in range(channels):
            values = block[:, channel].reshape(-1).to(torch.int32)
            total[channel] += int(values.sum())
            squares[channel] += int((values * values).sum())
    variance = [count * q - s * s for s, q in zip(total, squares, strict=True)]
    mean = tuple(s / (255 * count) for s in total)
    return mean, tuple(v**0.5 / (255 * count) if v else 1.0 for v in variance)


def _find_splits(root: Path) -> tuple[Path, Path]:
    """Finds the folders of training and test images.

    Returns:
        Both; where there are test/ and val/, the former.

    Raises:
        InputError: One of them is missing.
    """
    if not root.is_dir():
        raise InputError(f"dataset=imagefolder: data_dir={root} is not a folder")
    train = root / "train"
    test = next((root / name for name in ("test", "val") if (root / name).is_dir()), None)
    missing = [] if train.is_dir() else ["train/"]
    if test is None or missing:
        missing += ["test/ or val/"] if test is None else []
        raise InputError(
            f"dataset=imagefolder: data_dir={root} has no folder {' and no folder '.join(missing)}"
            "; each must hold one folder of images per class"
        )
    return train, test


def _list_both(
    root: Path, train: Path, test: Path
) -> tuple[tuple[str, ...], list[ImageFile], list[ImageFile]]:
    """Lists the files of both folders.

    Returns:
        The classes, the training and the test files.

    Raises:
        InputError: A class has no images, or only one folder has it.
    """
    names = {
        folder: sorted(
            entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."
        )
        for folder in (train, test)
    }
    lines = [
        f"{folder} has no folder per class; image files lie in {folder}/<class>/"
        for folder in (train, test)
        if not names[folder]
    ]
    if not lines:
        for one, other in ((train, test), (test, train)):
            if missing := sorted(set(names[other]) - set(names[one])):
                lines.append(f"{one} lacks classes that {other} has: {', '.join(missing)}")
    classes = names[train]
    files: dict[Path, list[ImageFile]] = {train: [], test: []}
    for folder, found in files.items():
        for name in names[folder]:
            of_class = _list(root, folder / name, classes.index(name) if name in classes else -1)
            if not of_class:
                lines.append(f"{folder / name} has no image file ({', '.join(SUFFIXES)})")
            found += of_class
    refuse(lines)
    return tuple(classes), files[train], files[test]


def _list(root: Path, folder: Path, label: int) -> list[ImageFile]:
    files = []
    seen = {_identity(place) for path in (folder, folder.resolve()) for place in path.parents}
    for parent, folders, names in os.walk(folder, followlinks=True):
        if (identity := _identity(Path(parent))) in seen:  # through a link
            folders.clear()
            continue
        seen.add(identity)
        folders[:] = sorted(name for name in folders if name[0] != ".")
        for name in sorted(names):
            if name[0] == "." or not name.lower().endswith(SUFFIXES):
                continue
            path = Path(parent, name)
            files.append(ImageFile.at(root, path, label))
    return files


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _find_form(root: Path, files: Sequence[ImageFile], image_size: int | None) -> Form:
    """Finds the form that all images shall have.

    Returns:
        That of the first training image that can be opened.

    Raises:
        InputError: None of them can.
    """
    for file in files:
        try:
            open_file(root / file.path).close()  # a pipe or a device would be waited for
            with Image.open(root / file.path) as image:
                mode = "L" if image.mode in GREY else "RGB"
                width, height = image.size
        except Exception:  # Pillow raises many kinds on damaged files; decoding will name it
            continue
        if image_size is not None:
            return Form(mode, image_size, image_size, True, file.path)
        return Form(mode, height, width, False, file.path)
    raise InputError(f"none of the {len(files)} image files in {root / 'train'} can be decoded")
