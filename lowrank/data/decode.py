"""Image files decoded once into a tensor, and the file that keeps it for the next run."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lowrank.common.files import open_file, replacing
from lowrank.data.files import Progress, exclusive
from lowrank.data.sizes import resize

GREY = ("1", "L", "LA")  # Pillow's modes without colour
_CHUNK = 64  # files per task, and per call of progress


@dataclass(frozen=True)
class ImageFile:
    """One image file of a class, with what shows that it has changed."""

    path: str
    label: int
    size: int
    mtime_ns: int

    @classmethod
    def at(cls, root: Path, path: Path, label: int) -> ImageFile:
        """Describes a file.

        Args:
            root: What its path is kept relative to.
            path: Where it is.
            label: Its class.

        Returns:
            The file; of what is not there, decoding will say so.
        """
        try:
            status = path.stat()
            size, mtime = status.st_size, status.st_mtime_ns
        except OSError:  # a dangling link
            size, mtime = -1, -1
        return cls(path.relative_to(root).as_posix(), label, size, mtime)


@dataclass(frozen=True)
class Form:
    """The form that every image of a folder is brought to.

    Attributes:
        mode: Pillow's "L" or "RGB".
        height: In pixels, after resizing.
        width: Likewise.
        resized: Whether images of other sizes are resized, else they are refused.
        example: The file that fixed the mode, and without resizing the size.
    """

    mode: str
    height: int
    width: int
    resized: bool
    example: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return len(self.mode), self.height, self.width


def decode(
    root: Path, files: Sequence[ImageFile], form: Form, progress: Progress
) -> tuple[Tensor, list[str]]:
    """Decodes files into one tensor.

    Args:
        root: What the files' paths are relative to.
        files: What to decode.
        form: Mode and size of the result.
        progress: Called with the files done and their number.

    Returns:
        uint8 of shape (n, C, H, W) in the order of `files`, and a line for every file that is
        damaged or has another size, in that order; its image is undefined.
    """
    images = torch.empty(len(files), *form.shape, dtype=torch.uint8)
    problems: list[str | None] = [None] * len(files)

    def work(start: int) -> int:
        stop = min(start + _CHUNK, len(files))
        for k in range(start, stop):
            problems[k] = _decode_one(root / files[k].path, form, images[k])
        return stop - start

    # Threads: Pillow reads and decodes without the interpreter's lock, and unlike processes they
    # ask nothing of the caller's main module. Python's default of cores + 4 hides slow disks.
    pool = ThreadPoolExecutor()
    done = 0
    try:
        tasks = [pool.submit(work, start) for start in range(0, len(files), _CHUNK)]
        for task in as_completed(tasks):
            done += task.result()
            progress(done, len(files))
    finally:
        pool.shutdown(cancel_futures=True)  # so that Ctrl-C need not wait for every file
    return images, [line for line in problems if line is not None]


def _decode_one(path: Path, form: Form, out: Tensor) -> str | None:
    """Decodes one file into `out` of shape (C, H, W).

    Returns:
        What is wrong with the file, if anything.
    """
    try:
        open_file(path).close()  # a pipe or a device would be waited for
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                return f"{path}: its pixels have more than 8 bits (mode {image.mode}); convert it"
            if form.mode == "L" and image.mode not in GREY:
                return f"{path}: is in colour, but {form.example} is greyscale; convert one of them"
            if not form.resized and image.size != (form.width, form.height):
                width, height = image.size
                return (
                    f"{path}: {width}×{height} pixels (width × height), but {form.example} has "
                    f"{form.width}×{form.height}; --image_size=N resizes all to N×N"
                )
            pixels = np.array(image if image.mode == form.mode else image.convert(form.mode))
    except Exception as error:  # Pillow raises many kinds on damaged files
        return f"{path}: cannot be decoded ({error})"
    tensor = torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1)
    out.copy_(resize(tensor[None], form.height)[0] if form.resized else tensor)
    return None


def cached(
    root: Path,
    name: str,
    files: Sequence[ImageFile],
    form: Form,
    make: Callable[[], Tensor],
) -> Tensor:
    """Returns the images from the cache file, or makes and keeps them.

    The cache file is `<root>/.lowrank-cache-<name>.pt`, or where `root` is read-only it lies in the
    user's cache folder, if that can be written to. It counts only for the same names, sizes and
    times of the same files and the same form. It is written beside its place and moved there, under
    a lock, so that processes that start together decode once.

    Args:
        root: The image folder.
        name: Tells apart what one folder may have several of, such as train and test.
        files: The files whose images are wanted.
        form: Their form.
        make: Decodes them.

    Returns:
        uint8 of shape (n, C, H, W).
    """
    described = [[file.path, file.size, file.mtime_ns] for file in files], form.mode, form.resized
    key = hashlib.sha256(json.dumps(described).encode()).hexdigest()
    own = root / f".lowrank-cache-{name}.pt"
    digest = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]
    users = _at_home(f"{digest}-{name}.pt") or own
    shape = (len(files), *form.shape)
    for path in (own, users):
        if (images := _read(path, key, shape)) is not None:
            return images
    path = own
    if not _writable(root):
        path = users
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
        if not _writable(path.parent):
            print(
                f"neither {root} nor a home can be written to: decoded images are not kept; "
                "XDG_CACHE_HOME names a folder for them",
                file=sys.stderr,
            )
            return make()
        print(f"{root} cannot be written to: decoded images are kept in {users}", file=sys.stderr)
    with exclusive(path.with_suffix(".lock")):
        if (images := _read(path, key, shape)) is not None:  # another process has made it meanwhile
            return images
        images = make()
        try:
            with replacing(path) as new:
                torch.save({"key": key, "images": images}, new)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            print(f"decoded images are not kept: {path}: {error}", file=sys.stderr)
    return images


def _read(path: Path, key: str, shape: tuple[int, ...]) -> Tensor | None:
    try:
        with zipfile.ZipFile(path) as archive:  # which torch itself does not verify
            if archive.testzip() is not None:
                return None
        stored = torch.load(path, weights_only=True)
        images: Tensor = stored["images"]
        if stored["key"] != key or images.shape != shape or images.dtype != torch.uint8:
            return None
    except (
        Exception
    ):  # absent, cut short, damaged or of another kind: all mean that there is no cache
        return None
    return images


def _at_home(name: str) -> Path | None:
    """Returns a file of the user's cache folder; None for a user without a home."""
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return None
    return home / "lowrank" / name


def _writable(folder: Path) -> bool:
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True
