"""Tiny archives in each data set's own file format, read by torchvision's real classes.

The checksums that torchvision knows are replaced by those of the tiny archives; downloads come from
a server on this machine. Run: python -m pytest tests/data/test_vision.py
"""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import shutil
import struct
import tarfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import savemat
from torchvision import datasets

from lowrank.common.errors import Failure, InputError
from lowrank.data import describe, load_dataset
from tests.data.processes import at_once

TRAIN, TEST = 20, 10
Arrays = dict[str, np.ndarray]


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, dtype=np.uint8)


def pack(folder: Path, files: dict[str, bytes], archive: Path) -> None:
    with tarfile.open(archive, "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def digest_list(names: list[str], files: dict[str, bytes]) -> list[list[str]]:
    return [[name, hashlib.md5(files[name]).hexdigest()] for name in names]


def make_mnist(root: Path, patch: pytest.MonkeyPatch, cls: Any = datasets.MNIST) -> Arrays:
    raw = root / cls.__name__ / "raw"
    raw.mkdir(parents=True)
    arrays: Arrays = {}
    resources = []
    for part, prefix, n in (("train", "train", TRAIN), ("test", "t10k", TEST)):
        images, labels = random(n, 28, 28), (np.arange(n) % 10).astype(np.uint8)
        arrays[part], arrays[f"{part}_labels"] = images[:, None], labels
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            path = raw / f"{prefix}-{kind}-ubyte.gz"
            path.write_bytes(gzip.compress(head + array.tobytes()))
            resources.append((path.name, md5(path)))
    patch.setattr(cls, "resources", resources)
    return arrays


def make_fashion(root: Path, patch: pytest.MonkeyPatch) -> Arrays:
    return make_mnist(root, patch, datasets.FashionMNIST)


def make_cifar(
    root: Path, patch: pytest.MonkeyPatch, cls: Any = datasets.CIFAR10, key: str = "labels"
) -> Arrays:
    names = [name for name, _ in [*cls.train_list, *cls.test_list]]
    parts = {"test": random(TEST, 3, 32, 32), "train": random(TRAIN, 3, 32, 32)}
    labels = {part: np.arange(len(images)) % 10 for part, images in parts.items()}
    files = {}
    chunks = len(cls.train_list)
    for k, name in enumerate(names):
        part = "train" if k < chunks else "test"
        here = (
            slice(k * TRAIN // chunks, (k + 1) * TRAIN // chunks)
            if part == "train"
            else slice(None)
        )
        entry = {"data": parts[part][here].reshape(-1, 3072), key: labels[part][here].tolist()}
        files[name] = pickle.dumps(entry)
    classes = [f"kind {k}" for k in range(10)]
    files[cls.meta["filename"]] = pickle.dumps({cls.meta["key"]: classes})
    archive = root / cls.filename
    pack(Path(cls.base_folder), files, archive)
    patch.setattr(cls, "tgz_md5", md5(archive))
    patch.setattr(cls, "train_list", digest_list(names[:chunks], files))
    patch.setattr(cls, "test_list", digest_list(names[chunks:], files))
    ((_, meta),) = digest_list([cls.meta["filename"]], files)
    patch.setattr(cls, "meta", {**cls.meta, "md5": meta})
    return {**parts, **{f"{part}_labels": array for part, array in labels.items()}}


def make_cifar100(root: Path, patch: pytest.MonkeyPatch) -> Arrays:
    return make_cifar(root, patch, datasets.CIFAR100, "fine_labels")


def make_svhn(root: Path, patch: pytest.MonkeyPatch) -> Arrays:
    arrays, split_list = {}, {}
    for part, n in (("train", TRAIN), ("test", TEST)):
        images, labels = random(n, 3, 32, 32), np.arange(n) % 10
        url, name, _ = datasets.SVHN.split_list[part]
        stored = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]  # 10 stands for 0
        savemat(root / name, {"X": images.transpose(2, 3, 1, 0), "y": stored})
        split_list[part] = [url, name, md5(root / name)]
        arrays[part], arrays[f"{part}_labels"] = images, labels
    patch.setattr(datasets.SVHN, "split_list", {**datasets.SVHN.split_list, **split_list})
    return arrays


def make_stl10(root: Path, patch: pytest.MonkeyPatch) -> Arrays:
    cls = datasets.STL10
    arrays: Arrays = {}
    files = {"unlabeled_X.bin": b"", "class_names.txt": b"\n".join(b"a%d" % k for k in range(10))}
    for part, n in (("train", TRAIN), ("test", TEST)):
        images, labels = random(n, 3, 96, 96), (np.arange(n) % 10).astype(np.uint8)
        arrays[part], arrays[f"{part}_labels"] = images, labels
        files[f"{part}_X.bin"] = images.transpose(0, 1, 3, 2).tobytes()  # stored column by column
        files[f"{part}_y.bin"] = (labels + 1).tobytes()
    archive = root / cls.filename
    pack(Path(cls.base_folder), files, archive)
    patch.setattr(cls, "tgz_md5", md5(archive))
    for attribute in ("train_list", "test_list"):
        names = [name for name, _ in getattr(cls, attribute)]
        patch.setattr(cls, attribute, digest_list(names, files))
    return arrays


MAKERS: dict[str, Callable[[Path, pytest.MonkeyPatch], Arrays]] = {
    "mnist": make_mnist,
    "fashion_mnist": make_fashion,
    "cifar10": make_cifar,
    "cifar100": make_cifar100,
    "svhn": make_svhn,
    "stl10": make_stl10,
}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every download goes to a port on this machine where nobody listens."""
    nobody = "http://127.0.0.1:9/"
    for cls in (datasets.MNIST, datasets.FashionMNIST):
        monkeypatch.setattr(cls, "mirrors", [nobody])
    for cls in (datasets.CIFAR10, datasets.CIFAR100, datasets.STL10):
        monkeypatch.setattr(cls, "url", nobody + cls.filename)
    moved = {
        part: [nobody + name, name, checksum]
        for part, (_, name, checksum) in datasets.SVHN.split_list.items()
    }
    monkeypatch.setattr(datasets.SVHN, "split_list", moved)


def refusal(
    name: str, root: Path, kind: type[Failure | InputError] = InputError, **arguments
) -> list[str]:
    with pytest.raises(kind) as caught:
        load_dataset(name, data_dir=root, **arguments)
    return caught.value.lines


@pytest.mark.parametrize("name", MAKERS)
def test_archives_put_there_by_hand_are_read(name, tmp_path, monkeypatch):
    arrays = MAKERS[name](tmp_path, monkeypatch)
    native = arrays["train"].shape[-1]
    for _ in range(2):  # from the archives, then from what they were unpacked to
        dataset = load_dataset(name, data_dir=tmp_path, download=False, image_size=native)
        assert dataset.num_classes == 10
        for part, split in (("train", dataset.train), ("test", dataset.test)):
            assert (split.images.dtype, split.labels.dtype) == (torch.uint8, torch.int64)
            assert split.images.is_contiguous()
            np.testing.assert_array_equal(split.images, arrays[part])
            np.testing.assert_array_equal(split.labels, arrays[f"{part}_labels"])


@pytest.mark.parametrize("name", MAKERS)
def test_nothing_is_fetched_that_is_there(name, tmp_path, monkeypatch):
    MAKERS[name](tmp_path, monkeypatch)
    assert "20 images to train, 10 to test" in describe(load_dataset(name, data_dir=tmp_path))


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("mnist", (0.1307,), (0.3081,)),
        ("fashion_mnist", (0.1307,), (0.3081,)),
        ("cifar10", (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
        ("svhn", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ],
)
def test_constants_and_default_sizes_are_the_papers(name, mean, std, tmp_path, monkeypatch):
    MAKERS[name](tmp_path, monkeypatch)
    dataset = load_dataset(name, data_dir=tmp_path)
    assert (dataset.mean, dataset.std) == (mean, std)
    assert dataset.image_shape == (len(mean), 32, 32)


def test_mnist_is_padded_and_cifar_resized(tmp_path, monkeypatch):
    digits = make_mnist(tmp_path, monkeypatch)["train"]
    make_cifar(tmp_path, monkeypatch)
    padded = load_dataset("mnist", data_dir=tmp_path).train.images
    np.testing.assert_array_equal(padded, np.pad(digits, ((0, 0), (0, 0), (2, 2), (2, 2))))
    resized = load_dataset("cifar10", data_dir=tmp_path, image_size=16)
    assert resized.image_shape == (3, 16, 16)
    assert refusal("mnist", tmp_path, image_size=20) == [
        "image_size=20 is not possible: mnist has 28×28 images, which are zero-padded, "
        "so 28 or more"
    ]


def test_train_size_is_balanced(tmp_path, monkeypatch):
    make_cifar(tmp_path, monkeypatch)
    part = load_dataset("cifar10", data_dir=tmp_path, train_size=10)
    assert sorted(part.train.labels.tolist()) == list(range(10))
    assert len(part.test) == TEST
    assert refusal("cifar10", tmp_path, train_size=21) == [
        "train_size=21 is not possible: cifar10 has 20 training examples, so 1 to 20"
    ]


PLACES = {
    "mnist": [
        f"MNIST/raw/{part}-{kind}-ubyte.gz"
        for part in ("train", "t10k")
        for kind in ("images-idx3", "labels-idx1")
    ],
    "fashion_mnist": [
        f"FashionMNIST/raw/{part}-{kind}-ubyte.gz"
        for part in ("train", "t10k")
        for kind in ("images-idx3", "labels-idx1")
    ],
    "cifar10": ["cifar-10-python.tar.gz"],
    "cifar100": ["cifar-100-python.tar.gz"],
    "svhn": ["train_32x32.mat", "test_32x32.mat"],
    "stl10": ["stl10_binary.tar.gz"],
}


@pytest.mark.parametrize("download", [False, True], ids=lambda on: f"download={on}")
@pytest.mark.parametrize("name", MAKERS)
def test_offline_it_says_which_files_to_put_where(name, download, tmp_path):
    kind = Failure if download else InputError  # the network's, or a setting
    lines = refusal(name, tmp_path, kind, download=download)
    assert lines[0].startswith(f"dataset={name} cannot be read from {tmp_path}: ")
    assert ("Connection refused" in lines[0]) == download
    puts = [f"put http://127.0.0.1:9/{Path(at).name} at {tmp_path / at}" for at in PLACES[name]]
    assert lines[1:] == puts + ["or let it be downloaded: --download=True"] * (not download)


def test_without_download_a_missing_folder_is_not_made(tmp_path):
    assert refusal("cifar10", tmp_path / "none", download=False)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("name", MAKERS)
def test_half_an_archive_is_named(name, tmp_path, monkeypatch):
    MAKERS[name](tmp_path, monkeypatch)
    path = tmp_path / PLACES[name][0]
    path.write_bytes(path.read_bytes()[:50])
    lines = refusal(name, tmp_path, download=False)
    assert lines[1] == (
        f"{path} is incomplete or damaged (50 bytes, wrong checksum): delete or replace it"
    )
    assert lines[2:] == [
        f"put http://127.0.0.1:9/{path.name} at {path}",
        "or let it be downloaded: --download=True",
    ]


def test_a_damaged_unpacked_file_is_named_or_mended_from_the_archive(tmp_path, monkeypatch):
    make_cifar(tmp_path, monkeypatch)
    load_dataset("cifar10", data_dir=tmp_path)
    path = tmp_path / "cifar-10-batches-py" / "data_batch_2"
    path.write_bytes(path.read_bytes()[:50])
    load_dataset("cifar10", data_dir=tmp_path, download=False)
    path.write_bytes(path.read_bytes()[:50])
    (tmp_path / "cifar-10-python.tar.gz").unlink()
    assert (
        f"{path} is incomplete or damaged (50 bytes, wrong checksum)"
        in refusal("cifar10", tmp_path, download=False)[1]
    )


def test_mnist_cut_off_while_unpacking_says_what_to_delete(tmp_path, monkeypatch):
    make_mnist(tmp_path, monkeypatch)
    load_dataset("mnist", data_dir=tmp_path)
    raw = tmp_path / "MNIST" / "raw"
    path = raw / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:5000])
    assert refusal("mnist", tmp_path)[1:] == [f"delete the unpacked files in {raw} and try again"]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path, list[str]]]:
    """A web server: its address, its folder and the paths asked for."""
    folder = tmp_path / "served"
    folder.mkdir()
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            asked.append(self.path)

    running = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}/", folder, asked
    running.shutdown()
    running.server_close()


def _load_and_tell(root: Path, attributes: dict[str, Any]) -> int:
    for name, value in attributes.items():
        setattr(datasets.CIFAR10, name, value)
    return int(load_dataset("cifar10", data_dir=root).train.images.long().sum())


def test_processes_at_once_download_once(tmp_path, server, monkeypatch):
    address, folder, asked = server
    arrays = make_cifar(folder, monkeypatch)
    monkeypatch.setattr(datasets.CIFAR10, "url", address + datasets.CIFAR10.filename)
    load_dataset("cifar10", data_dir=tmp_path / "alone")
    alone = len(asked)
    patched = ("url", "tgz_md5", "train_list", "test_list", "meta")
    attributes = {name: getattr(datasets.CIFAR10, name) for name in patched}
    told = at_once(_load_and_tell, tmp_path / "data", attributes)
    assert told == [int(arrays["train"].astype(int).sum())] * 2
    assert len(asked) == 2 * alone > 0


def test_a_download_that_ends_too_early_is_named_and_the_next_one_mends_it(
    tmp_path, server, monkeypatch
):
    address, folder, _ = server
    make_cifar(folder, monkeypatch)
    monkeypatch.setattr(datasets.CIFAR10, "url", address + datasets.CIFAR10.filename)
    archive = folder / datasets.CIFAR10.filename
    whole = folder / "whole"
    shutil.copy(archive, whole)
    archive.write_bytes(whole.read_bytes()[:100])
    data = tmp_path / "data"
    lines = refusal("cifar10", data)
    assert lines[1:] == [
        f"{data / archive.name} is incomplete or damaged (100 bytes, wrong checksum): "
        "delete or replace it",
        f"put {address}{archive.name} at {data / archive.name}",
    ]
    shutil.copy(whole, archive)
    assert "20 images to train" in describe(load_dataset("cifar10", data_dir=data))


def test_a_data_dir_that_is_a_file_is_refused(tmp_path):
    path = tmp_path / "file"
    path.write_text("x")
    (line,) = refusal("cifar10", path)
    assert line.startswith(f"data_dir={path} cannot be made: ")
