"""The data sets that torchvision knows: fetched on demand, read once into tensors."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import torch

from lowrank.common.errors import Failure, InputError
from lowrank.data.files import exclusive
from lowrank.data.sets import Dataset, Request, Split
from lowrank.data.subsets import balanced_subset

_TIMEOUT = 30.0  # seconds without an answer, so that a silent firewall does not hang a run


def load(request: Request) -> Dataset:
    """Loads a data set of torchvision, fetching and unpacking it first where that is needed.

    Archives put into `data_dir` by hand are unpacked also without `download`. Processes that start
    together prepare the files one after the other.

    Args:
        request: All of it but `progress` is used.

    Returns:
        The data set; stl10 without its unlabelled images.

    Raises:
        InputError: Files are missing or damaged and were not fetched; says what to put where.
    """
    from torchvision import datasets  # takes two seconds

    source = request.source
    cls = getattr(datasets, source.torchvision)
    with alone_in(request):
        train, test = (_open(cls, request, train=train) for train in (True, False))

    kept = torch.from_numpy(balanced_subset(_labels(train), request.train_size, request.name))

    def split(loaded: Any, index: torch.Tensor | slice) -> Split:
        images = request.fit(_images(loaded)[index])
        return Split(images, torch.from_numpy(_labels(loaded))[index])

    return Dataset(
        name=request.name,
        train=split(train, kept),
        test=split(test, slice(None)),
        classes=source.classes or tuple(train.classes),
        mean=source.mean,
        std=source.std,
        where=str(request.data_dir.resolve()),
    )


def _images(loaded: Any) -> torch.Tensor:
    """Returns uint8 of shape (n, C, H, W) from any of torchvision's data sets."""
    data = torch.as_tensor(loaded.data)
    if data.dim() == 3:  # MNIST's (n, H, W)
        return data[:, None]
    if data.shape[1] != 3:  # CIFAR's (n, H, W, C)
        data = data.permute(0, 3, 1, 2)
    return data.contiguous()


def _labels(loaded: Any) -> np.ndarray[Any, np.dtype[np.int64]]:
    labels = loaded.targets if hasattr(loaded, "targets") else loaded.labels
    return np.asarray(labels, dtype=np.int64)


def _open(cls: Any, request: Request, *, train: bool) -> Any:
    """Reads one part by torchvision's class.

    Returns:
        An instance of `cls`.

    Raises:
        InputError: Files are missing or damaged; says what to do.
        Failure: They cannot be downloaded; says what to put where instead.
    """
    by_name = cls.__name__ in ("SVHN", "STL10")
    part = {"split": "train" if train else "test"} if by_name else {"train": train}
    archives = _archives(cls, request.data_dir)
    # With intact archives torchvision's download only unpacks them.
    download = request.download or all(archive.state == "intact" for archive in archives)
    try:
        with timeout():
            return cls(request.data_dir, download=download, **part)
    # Besides URLError and RuntimeError, whatever a damaged file raises in a parser.
    except Exception as error:
        absent = any(archive.state == "absent" for archive in archives)
        kind = Failure if unreachable(error) or (request.download and absent) else InputError
        raise kind(_advice(cls, request, error)) from error


@dataclass(frozen=True)
class _File:
    """A file that torchvision fetches or unpacks, and what has become of it here."""

    url: str
    path: Path
    md5: str | None  # None: not known

    @property
    def state(self) -> str:
        """absent, damaged or intact."""
        from torchvision.datasets.utils import check_integrity

        if not self.path.is_file():
            return "absent"
        return "intact" if check_integrity(self.path, self.md5) else "damaged"


def _archives(cls: Any, root: Path) -> list[_File]:
    if hasattr(cls, "resources"):  # MNIST and its kin
        raw = root / cls.__name__ / "raw"
        return [_File(cls.mirrors[0] + name, raw / name, md5) for name, md5 in cls.resources]
    if hasattr(cls, "split_list"):  # SVHN
        parts = (cls.split_list["train"], cls.split_list["test"])
        return [_File(url, root / name, md5) for url, name, md5 in parts]
    return [_File(cls.url, root / cls.filename, cls.tgz_md5)]


def _unpacked(cls: Any, root: Path) -> list[_File]:
    """Returns the files that come out of the archives."""
    if hasattr(cls, "resources"):
        return [_File("", file.path.with_suffix(""), None) for file in _archives(cls, root)]
    if hasattr(cls, "split_list"):  # SVHN's are not packed
        return []
    files = [*cls.train_list, *cls.test_list]
    if hasattr(cls, "meta"):
        files.append((cls.meta["filename"], cls.meta["md5"]))
    return [_File("", root / cls.base_folder / name, md5) for name, md5 in files]


def _advice(cls: Any, request: Request, error: Exception) -> list[str]:
    """Returns the lines that say what is missing or damaged, and what to put where."""
    root = request.data_dir.absolute()
    archives, unpacked = _archives(cls, root), _unpacked(cls, root)
    reason = " ".join(str(error).split()) or type(error).__name__
    lines = [f"dataset={request.name} cannot be read from {root}: {reason}"]
    lines += [
        f"{file.path} is incomplete or damaged ({file.path.stat().st_size:,} bytes, wrong "
        "checksum): delete or replace it"
        for file in (*archives, *unpacked)
        if file.state == "damaged"
    ]
    if unpacked and all(file.state != "absent" for file in unpacked):
        lines.append(f"delete the unpacked files in {unpacked[0].path.parent} and try again")
    wanted = [archive for archive in archives if archive.state != "intact"]
    lines += [f"put {archive.url} at {archive.path}" for archive in wanted]
    if wanted and not request.download:
        lines.append("or let it be downloaded: --download=True")
    return lines


@contextmanager
def alone_in(request: Request) -> Iterator[None]:
    """Lets one process at a time fetch a data set.

    Args:
        request: Whose ``data_dir`` is made where something may be downloaded.

    Yields:
        While no other process is in it.

    Raises:
        InputError: The directory cannot be made.
    """
    root = request.data_dir
    if request.download:
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"data_dir={root} cannot be made: {error}") from error
    with exclusive(root / f".lowrank-{request.name}.lock"):
        yield


def unreachable(error: Exception) -> bool:
    """Returns whether it is the network that failed."""
    return isinstance(error, (URLError, HTTPException, ConnectionError, TimeoutError))


@contextmanager
def timeout() -> Iterator[None]:
    """Lets no download wait for ever for an answer.

    Yields:
        With the limit in force.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
