"""food101, imagenette and places365: small trees as torchvision's classes lay them out.

Images are compared with Pillow's own antialiased bilinear filter, subsets with the labels counted.
The checksums of places365's lists are replaced by those of the small ones.

    python -m pytest tests/data/test_pictures.py
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from lowrank.common.errors import Failure, InputError
from lowrank.data import describe, load_dataset

SIZES = ((48, 40), (64, 90), (33, 32))  # width, height
TRAIN, TEST = 4, 2  # of each class


def draw(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = SIZES[number % 3]
    pixels = np.random.default_rng(number).integers(0, 256, (height // 4, width // 4, 3))
    Image.fromarray(pixels.astype(np.uint8)).resize((width, height)).save(path)


def make_food101(root, _):
    listed = {"train": {}, "test": {}}
    for label, name in enumerate(("waffles", "apple_pie")):  # the list's order is not the labels'
        for split, count in (("train", TRAIN), ("test", TEST)):
            listed[split][name] = [f"{name}/{split}{k}" for k in range(count)]
            for k, relative in enumerate(listed[split][name]):
                draw(root / f"food-101/images/{relative}.jpg", 10 * label + k)
    for split, names in listed.items():
        (root / "food-101/meta").mkdir(exist_ok=True)
        (root / f"food-101/meta/{split}.json").write_text(json.dumps(names))
    order = [*listed["train"]["waffles"], *listed["train"]["apple_pie"]]
    return [root / f"food-101/images/{name}.jpg" for name in order], [1] * TRAIN + [0] * TRAIN


def make_imagenette(root, _):
    paths = []
    for label, wnid in enumerate(("n01440764", "n03888257")):
        for split, count in (("train", TRAIN), ("val", TEST)):
            for k in range(count):
                path = root / f"imagenette2-160/{split}/{wnid}/{wnid}_{k}.JPEG"
                draw(path, 10 * label + k)
                paths += [path] * (split == "train")
    return paths, [0] * TRAIN + [1] * TRAIN


def make_places365(root, patch):
    def write(name, lines):
        (root / name).write_text("".join(f"{line}\n" for line in lines))
        return name, hashlib.md5((root / name).read_bytes()).hexdigest()

    categories = write("categories_places365.txt", ["/a/airfield 0", "/a/alcove 1"])
    train = [(f"/a/{c}/{k}.jpg", label) for label, c in enumerate(("airfield", "alcove"))
             for k in range(TRAIN)]  # fmt: skip
    test = [(f"Places365_val_{k}.jpg", k % 2) for k in range(2 * TEST)]
    lists = {
        "train-standard": write("places365_train_standard.txt", [f"{p} {y}" for p, y in train]),
        "val": write("places365_val.txt", [f"{p} {y}" for p, y in test]),
    }
    patch.setattr(datasets.Places365, "_CATEGORIES_META", categories)
    patch.setattr(datasets.Places365, "_FILE_LIST_META", lists)
    for k, (path, _) in enumerate(test):
        draw(root / "val_256" / path, k)
    paths = [root / f"data_256_standard{path}" for path, _ in train]
    for k, path in enumerate(paths):
        draw(path, k)
    return paths, [label for _, label in train]


MAKERS = {"food101": make_food101, "imagenette": make_imagenette, "places365": make_places365}
NAMES = {"food101": ("apple_pie", "waffles"), "imagenette": ("tench", "parachute"),
         "places365": ("/a/airfield", "/a/alcove")}  # fmt: skip


@pytest.mark.parametrize("name", MAKERS)
def test_images_are_reduced_antialiased_once(name, tmp_path, monkeypatch):
    paths, labels = MAKERS[name](tmp_path, monkeypatch)
    found = load_dataset(name, data_dir=tmp_path, download=False)
    assert found.image_shape == (3, 32, 32)
    assert found.classes == NAMES[name]
    assert found.train.labels.tolist() == labels
    assert torch.bincount(found.test.labels).tolist() == [TEST, TEST]
    for path, ours in zip(paths, found.train.images, strict=True):
        theirs = Image.open(path).resize((32, 32), Image.Resampling.BILINEAR)
        assert (
            np.abs(ours.permute(1, 2, 0).int().numpy() - np.asarray(theirs).astype(int)).max() <= 1
        )
    pixels = found.train.images.double() / 255
    np.testing.assert_allclose(found.mean, pixels.mean(dim=(0, 2, 3)))
    np.testing.assert_allclose(found.std, pixels.std(dim=(0, 2, 3), correction=0))
    assert "8 images to train, 4 to test" in describe(found)

    def no_image(*_, **__):
        raise AssertionError("decoded again")

    monkeypatch.setattr(Image, "open", no_image)
    again = load_dataset(name, data_dir=tmp_path, download=True)  # nor is anything fetched
    assert torch.equal(again.train.images, found.train.images)


def test_a_subset_is_balanced_the_same_everywhere_and_decodes_no_more(tmp_path, monkeypatch):
    paths, _ = make_places365(tmp_path, monkeypatch)
    whole = load_dataset("places365", data_dir=tmp_path, download=False).train
    part = load_dataset("places365", data_dir=tmp_path, download=False, train_size=4).train
    assert part.labels.tolist() == [0, 0, 1, 1]
    places = [
        k for k, image in enumerate(whole.images) if any(torch.equal(image, p) for p in part.images)
    ]
    assert len(places) == 4
    for k in set(range(2 * TRAIN)) - set(places):
        paths[k].write_bytes(b"no image")
    for cache in tmp_path.glob(".lowrank-cache-*"):
        cache.unlink()
    again = load_dataset("places365", data_dir=tmp_path, download=False, train_size=4).train
    assert torch.equal(again.images, part.images)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("download", [False, True], ids=lambda on: f"download={on}")
def test_offline_it_says_what_to_unpack_where(name, download, tmp_path):
    with pytest.raises(Failure if download else InputError) as refused:
        load_dataset(name, data_dir=tmp_path, download=download)
    first, *others = refused.value.lines
    assert first.startswith(f"dataset={name} cannot be read from {tmp_path}: ")
    assert all(line.startswith("unpack http") for line in others[: len(others) - (not download)])
    assert (others[-1] == "or let it be downloaded: --download=True") == (not download)


def test_lists_without_their_images_are_refused_in_lines(tmp_path, monkeypatch):
    paths, _ = make_places365(tmp_path, monkeypatch)
    (tmp_path / "data_256_standard").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="No such file") as refused:
        load_dataset("places365", data_dir=tmp_path, download=False)
    assert str(paths[0]) in refused.value.lines[0]
    (tmp_path / "elsewhere").rename(tmp_path / "data_256_standard")
    paths[1].write_bytes(b"no image")
    with pytest.raises(InputError, match="cannot be decoded") as refused:
        load_dataset("places365", data_dir=tmp_path, download=False)
    assert len(refused.value.lines) == 1
