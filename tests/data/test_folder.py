"""Image folders: pixels against what was saved without loss, the cache, and every refusal.

Run: python -m pytest tests/data/test_folder.py
"""

from __future__ import annotations

import os
import pwd
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lowrank.common.errors import InputError
from lowrank.data import Dataset, load_dataset
from lowrank.data.folder import channel_statistics
from lowrank.data.subsets import balanced_subset
from tests.data.processes import at_once

CLASSES = ("ant", "bee", "cat")


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def fill(root: Path, *, per_class: int = 4) -> dict[str, np.ndarray]:
    """Saves random images; ``per_class`` to train and one to test for each of three classes."""
    rng = np.random.default_rng(0)
    saved = {}
    for part, count in (("train", per_class), ("test", 1)):
        saved[part] = rng.integers(0, 256, (3 * count, 6, 5, 3), dtype=np.uint8)
        for n, pixels in enumerate(saved[part]):
            save(root / part / CLASSES[n // count] / f"{n % count:02}.png", pixels)
    return saved


@pytest.fixture
def root(tmp_path: Path) -> Path:
    fill(tmp_path)
    return tmp_path


def load(root: Path, **arguments) -> Dataset:
    return load_dataset("imagefolder", data_dir=root, **arguments)


def refusal(root: Path, **arguments) -> list[str]:
    with pytest.raises(InputError) as caught:
        load(root, **arguments)
    return caught.value.lines


class Calls(list[tuple[int, int]]):
    """A progress function that remembers its calls."""

    def __call__(self, done: int, total: int) -> None:
        self.append((done, total))


def test_pixels_labels_and_classes(tmp_path):
    saved = fill(tmp_path)
    dataset = load(tmp_path)
    assert dataset.classes == CLASSES
    assert dataset.image_shape == (3, 6, 5)
    np.testing.assert_array_equal(dataset.train.images.permute(0, 2, 3, 1), saved["train"])
    np.testing.assert_array_equal(dataset.test.images.permute(0, 2, 3, 1), saved["test"])
    assert dataset.train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert dataset.test.labels.tolist() == [0, 1, 2]


def test_statistics_are_numpys(root):
    dataset = load(root)
    pixels = dataset.train.images.numpy() / np.float64(255)
    np.testing.assert_allclose(dataset.mean, pixels.mean((0, 2, 3)), rtol=1e-13)
    np.testing.assert_allclose(dataset.std, pixels.std((0, 2, 3)), rtol=1e-13)


def test_a_constant_channel_has_deviation_one():
    images = torch.randint(256, (5, 2, 4, 4), dtype=torch.uint8)
    images[:, 1] = 200
    mean, std = channel_statistics(images)
    assert mean[1] == pytest.approx(200 / 255)
    assert std[1] == 1
    assert std[0] == pytest.approx(images[:, 0].double().std(correction=0).item() / 255)


def test_val_may_take_the_place_of_test_which_comes_first(root):
    expected = load(root).test.images
    shutil.copytree(root / "test", root / "val")
    (root / "val" / "ant" / "00.png").write_bytes(b"not looked at")
    assert torch.equal(load(root).test.images, expected)
    shutil.rmtree(root / "val")
    (root / "test").rename(root / "val")
    assert torch.equal(load(root).test.images, expected)


def test_other_files_are_left_out_and_folders_within_are_not(root):
    (root / "train" / "ant" / "notes.txt").write_text("x")
    (root / "train" / "ant" / "._0.png").write_text("x")
    (root / "train" / ".hidden").mkdir()
    save(root / "train" / "ant" / "more" / "z.PNG", np.zeros((6, 5, 3), np.uint8))
    assert torch.bincount(load(root).train.labels).tolist() == [5, 4, 4]


def test_train_size_decodes_only_the_subset_that_is_taken_from_the_whole(root):
    whole = load(root).train
    chosen = balanced_subset(whole.labels.numpy(), 5, "x")
    for cache in root.glob(".lowrank-cache*"):
        cache.unlink()
    calls = Calls()
    part = load(root, train_size=5, progress=calls).train
    assert calls == [(5, 5), (3, 3)]
    assert torch.equal(part.images, whole.images[chosen])
    assert torch.equal(part.labels, whole.labels[chosen])
    assert refusal(root, train_size=13) == [
        f"train_size=13 is not possible: {root / 'train'} has 12 training examples, so 1 to 12"
    ]


@pytest.mark.parametrize(
    ("first", "later", "channels"),
    [("L", "LA", 1), ("RGB", "L", 3), ("RGB", "RGBA", 3), ("P", "L", 3), ("1", "LA", 1)],
    ids=lambda value: str(value),
)
def test_the_first_image_decides_the_mode(root, first, later, channels):
    pixels = Image.open(root / "train" / "ant" / "00.png")
    for path in root.rglob("*.png"):
        Image.open(path).convert(first).save(path)
    pixels.convert(later).save(root / "train" / "ant" / "01.png")
    images = load(root).train.images
    assert images.shape[1] == channels
    expected = np.asarray(pixels.convert(later).convert("RGB" if channels == 3 else "L"))
    np.testing.assert_array_equal(images[1].permute(1, 2, 0), expected.reshape(6, 5, channels))


def test_colour_after_a_greyscale_first_image_is_refused_not_dropped(root):
    first = root / "train" / "ant" / "00.png"
    Image.open(first).convert("L").save(first)
    lines = refusal(root)
    assert lines[0] == (
        f"{root / 'train/ant/01.png'}: is in colour, but train/ant/00.png is greyscale; "
        "convert one of them"
    )
    assert len(lines) > 1


def test_mixed_sizes_are_refused_unless_resized(root):
    save(root / "test" / "bee" / "00.png", np.zeros((9, 7, 3), np.uint8))
    assert refusal(root) == [
        f"{root / 'test/bee/00.png'}: 7×9 pixels (width × height), but train/ant/00.png has 5×6; "
        "--image_size=N resizes all to N×N"
    ]
    resized = load(root, image_size=4)
    assert resized.train.images.shape == (12, 3, 4, 4)
    theirs = Image.open(root / "train/ant/00.png").resize((4, 4), Image.Resampling.BILINEAR)
    ours = resized.train.images[0].permute(1, 2, 0).int().numpy()
    assert np.abs(ours - np.asarray(theirs).astype(int)).max() <= 1


def test_damaged_files_of_both_folders_are_named_up_to_ten(tmp_path):
    fill(tmp_path, per_class=5)
    damaged = [tmp_path / "train" / name / f"{k:02}.png" for name in CLASSES for k in range(5)][4:]
    for path in damaged:
        path.write_bytes(path.read_bytes()[:60])
    (tmp_path / "test" / "bee" / "00.png").write_bytes(b"")
    lines = refusal(tmp_path)
    assert [line.split(": ")[0] for line in lines[:10]] == [str(path) for path in damaged[:10]]
    assert all(": cannot be decoded (" in line for line in lines[:10])
    assert lines[10:] == ["… and 2 more image files like these"]
    assert not list(tmp_path.glob(".lowrank-cache-train*.pt"))


@pytest.mark.parametrize(
    "kind", ["truncated JPEG", "text", "dangling link", "16 bits", "pipe", "device"]
)
def test_one_damaged_file_is_named(root, kind):
    path = root / "train" / "cat" / "02.png"
    path.unlink()
    if kind == "truncated JPEG":
        path = path.with_suffix(".jpg")
        save(path, np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8))
        path.write_bytes(path.read_bytes()[:-30])
    elif kind == "text":
        path.write_text("hello")
    elif kind == "dangling link":
        path.symlink_to("nowhere.png")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        save(path, np.full((6, 5), 1000, np.uint16))
    (line,) = refusal(root)
    assert line.startswith(f"{path}: ")
    assert ("more than 8 bits" if kind == "16 bits" else "cannot be decoded") in line


def test_a_pipe_as_the_first_image_is_named_and_not_waited_for(root):
    path = root / "train" / "ant" / "00.png"
    path.unlink()
    os.mkfifo(path)
    (line,) = refusal(root)
    assert line.startswith(f"{path}: cannot be decoded")


@pytest.mark.parametrize("target", [".", "..", "../..", "../bee", "within/deeper"])
def test_each_folder_counts_once_in_a_class_wherever_links_lead(root, target):
    save(root / "train/ant/within/deeper/x.png", np.zeros((6, 5, 3), np.uint8))
    usual = load(root).train.labels.tolist()
    (root / "train/ant/link").symlink_to(target)
    found = load(root).train.labels.tolist()
    if target == "../bee":  # of another class: that it is one of this too was asked for
        assert found.count(0) == usual.count(0) + usual.count(1)
    else:
        assert found == usual


def test_a_class_that_is_a_link_to_the_folder_of_all_is_refused(root):
    (root / "train/dog").symlink_to(".")
    (root / "test/dog").symlink_to(".")
    lines = refusal(root)
    assert [line.partition(" has ")[0] for line in lines] == [
        str(root / "train/dog"),
        str(root / "test/dog"),
    ]


def remove(*parts: str) -> Callable[[Path], None]:
    return lambda root: shutil.rmtree(root.joinpath(*parts))


def empty(*parts: str) -> Callable[[Path], None]:
    def act(root: Path) -> None:
        shutil.rmtree(root.joinpath(*parts))
        root.joinpath(*parts).mkdir()

    return act


def spoil_all(root: Path) -> None:
    for path in root.glob("train/*/*"):
        path.write_bytes(b"")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (remove(), ["dataset=imagefolder: data_dir={root} is not a folder"]),
        (
            remove("train"),
            ["dataset=imagefolder: data_dir={root} has no folder train/; each must hold one "
             "folder of images per class"],
        ),
        (
            remove("test"),
            ["dataset=imagefolder: data_dir={root} has no folder test/ or val/; each must hold "
             "one folder of images per class"],
        ),
        (
            empty(),
            ["dataset=imagefolder: data_dir={root} has no folder train/ and no folder test/ or "
             "val/; each must hold one folder of images per class"],
        ),
        (
            empty("train"),
            ["{root}/train has no folder per class; image files lie in {root}/train/<class>/"],
        ),
        (
            empty("train", "bee"),
            ["{root}/train/bee has no image file (.bmp, .jpeg, .jpg, .pgm, .png, .ppm, .tif, "
             ".tiff, .webp)"],
        ),
        (remove("train", "bee"), ["{root}/train lacks classes that {root}/test has: bee"]),
        (remove("test", "cat"), ["{root}/test lacks classes that {root}/train has: cat"]),
        (spoil_all, ["none of the 12 image files in {root}/train can be decoded"]),
    ],
    ids=["no folder", "no train", "no test", "neither", "no classes", "empty class",
         "one more in test", "one less in test", "all damaged"],
)  # fmt: skip
def test_folders_that_do_not_fit_are_refused(root, change, expected):
    change(root)
    assert refusal(root) == [line.format(root=root) for line in expected]


def test_the_second_time_nothing_is_decoded(root):
    first, calls = load(root), Calls()
    second = load(root, progress=calls)
    assert calls == []
    assert torch.equal(first.train.images, second.train.images)
    assert torch.equal(first.test.images, second.test.images)


def touch(root: Path) -> None:
    os.utime(root / "train" / "bee" / "01.png", ns=(1, 1))


def overwrite(root: Path) -> None:
    save(root / "train" / "bee" / "01.png", np.zeros((6, 5, 3), np.uint8))


def rename(root: Path) -> None:
    (root / "train" / "bee" / "01.png").rename(root / "train" / "bee" / "07.png")


def add(root: Path) -> None:
    shutil.copy(root / "train" / "bee" / "01.png", root / "train" / "bee" / "07.png")


def cut_cache(root: Path) -> None:
    cache = root / ".lowrank-cache-train.pt"
    cache.write_bytes(cache.read_bytes()[:-200])


def flip_a_pixels_bit(root: Path) -> None:
    cache = root / ".lowrank-cache-train.pt"
    pixels = np.asarray(Image.open(root / "train/ant/00.png")).transpose(2, 0, 1).tobytes()
    content = cache.read_bytes()
    assert pixels in content
    cache.write_bytes(content.replace(pixels, bytes([pixels[0] ^ 8]) + pixels[1:]))


@pytest.mark.parametrize("change", [touch, overwrite, rename, add, cut_cache, flip_a_pixels_bit])
def test_the_cache_counts_only_for_the_same_files(root, change):
    load(root)
    change(root)
    calls = Calls()
    fresh = load(root, progress=calls)
    count = 13 if change is add else 12
    assert calls == [(count, count)]
    for path, image in zip(sorted(root.glob("train/*/*")), fresh.train.images, strict=True):
        np.testing.assert_array_equal(image.permute(1, 2, 0), np.asarray(Image.open(path)))


def test_a_moved_folder_keeps_its_cache(root, tmp_path_factory):
    load(root)
    moved = tmp_path_factory.mktemp("elsewhere") / "images"
    root.rename(moved)
    calls = Calls()
    load(moved, progress=calls)
    assert calls == []


def test_sizes_and_subsets_do_not_drive_each_other_out_of_the_cache(root):
    variants: list[dict[str, int]] = [{}, {"train_size": 5}, {"image_size": 4}]
    for arguments in variants:
        load(root, **arguments)
    calls = Calls()
    for arguments in variants:
        load(root, progress=calls, **arguments)
    assert calls == []


def _load_and_tell(root: Path) -> tuple[int, int]:
    calls = Calls()
    images = load(root, progress=calls).train.images
    return len(calls), int(images.long().sum())


def test_processes_at_once_decode_once(tmp_path):
    fill(tmp_path, per_class=20)
    told = at_once(_load_and_tell, tmp_path)
    calls_for_all = 2  # 60 images to train and 3 to test are one call each
    assert sum(calls for calls, _ in told) == calls_for_all
    assert {total for _, total in told} == {int(load(tmp_path).train.images.long().sum())}
    assert not list(tmp_path.rglob("*.new"))


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An image folder that the test's process, not even root's, can write to."""
    base = Path(tempfile.mkdtemp())
    folder, home = base / "images", base / "home"
    fill(folder)
    home.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    base.chmod(0o755)
    folder.chmod(0o555)
    user = os.geteuid()
    if user == 0:
        os.chown(home, 65534, 65534)
        os.seteuid(65534)
    yield folder
    if user == 0:
        os.seteuid(0)
    folder.chmod(0o755)
    shutil.rmtree(base)


def test_a_read_only_folder_is_cached_at_home(read_only, capsys):
    first = load(read_only)
    told = capsys.readouterr().err
    assert f"{read_only} cannot be written to: decoded images are kept in " in told
    kept = list((read_only.parent / "home" / "lowrank").glob("*.pt"))
    assert len(kept) == 2
    assert all(str(path) in told for path in kept)
    calls = Calls()
    assert torch.equal(load(read_only, progress=calls).train.images, first.train.images)
    assert calls == []


@pytest.mark.parametrize("home", ["none", "not to be written to"])
def test_a_read_only_folder_without_a_home_is_decoded_each_time(
    read_only, home, monkeypatch, capsys
):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    if home == "none":

        def unknown(_):
            raise KeyError

        monkeypatch.setattr(pwd, "getpwuid", unknown)
    else:
        monkeypatch.setenv("HOME", str(read_only))
    assert len(load(read_only).train) == 12
    told = capsys.readouterr().err.splitlines()
    assert len([line for line in told if line.startswith(f"neither {read_only} nor a home")]) == 2
    calls = Calls()
    load(read_only, progress=calls)
    assert calls


def test_progress_is_printed_where_none_is_given(root, capsys):
    load(root)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" in ")[0] for line in lines] == [
        f"decoding {root / 'train'}: 12 of 12",
        f"decoding {root / 'test'}: 3 of 3",
    ]
