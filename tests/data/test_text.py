"""Text against slices of it in plain Python, and the words for what cannot be one.

python -m pytest tests/data/test_text.py
"""

from __future__ import annotations

import hashlib
import pydoc_data.topics
import random
import sys

import pytest
import torch

from lowrank.common.errors import InputError
from lowrank.data import Batches, describe, load_dataset

BYTES = "Zürich, 東京\r\n".encode() + b"\xff\x00" + random.Random(0).randbytes(700)


def windows(part: bytes, context: int) -> list[tuple[list[int], list[int]]]:
    """Returns inputs and labels by plain slices."""
    found = []
    for start in range(0, len(part), context):
        both = part[start : start + context + 1]
        if len(both) == context + 1:
            found.append((list(both[:-1]), list(both[1:])))
    return found


def examples(split):
    return list(zip(split.images.tolist(), split.labels.tolist(), strict=True))


@pytest.mark.parametrize("context", [1, 7, 64])
def test_examples_are_slices_of_the_bytes(tmp_path, context):
    file = tmp_path / "own"
    file.write_bytes(BYTES)
    found = load_dataset("text", data_dir=file, context=context)
    tenth = len(BYTES) // 10
    assert examples(found.train) == windows(BYTES[:-tenth], context)
    assert examples(found.test) == windows(BYTES[-tenth:], context)
    assert (found.image_shape, found.num_classes) == ((context,), 256)
    assert found.digest == hashlib.sha256(BYTES).hexdigest()
    assert (found.example.dtype, tuple(found.example.shape)) == (torch.int64, (1, context))


def test_files_of_a_folder_are_read_in_the_order_of_their_names(tmp_path):
    parts = {"b.txt": b"second" * 20, "a.txt": b"first" * 20, "c.md": b"no", ".d.txt": b"hidden"}
    for name, part in parts.items():
        (tmp_path / name).write_bytes(part)
    found = load_dataset("text", data_dir=tmp_path, context=9)
    whole = parts["a.txt"] + parts["b.txt"]
    assert examples(found.train) == windows(whole[: -(len(whole) // 10)], 9)


def test_the_text_of_python_is_its_help():
    topics = pydoc_data.topics.topics
    whole = "\n".join(topics[name] for name in sorted(topics)).encode()
    found = load_dataset("pydoc", context=50)
    assert found.digest == hashlib.sha256(whole).hexdigest()
    assert examples(found.test) == windows(whole[-(len(whole) // 10) :], 50)
    assert len(whole) > 300_000
    shown = describe(found)
    assert f"{len(found.train):,} windows to train" in shown
    assert found.digest in shown


def test_a_smaller_subset_lies_within_a_larger_one(tmp_path):
    (tmp_path / "own.txt").write_bytes(BYTES)
    whole, more, less = (
        examples(load_dataset("text", data_dir=tmp_path, context=5, train_size=size).train)
        for size in (None, 40, 12)
    )
    assert (len(more), len(less)) == (40, 12)
    assert all(example in more for example in less)
    assert [example for example in whole if example in more] == more


def test_batches_are_whole_numbers(tmp_path):
    (tmp_path / "own.txt").write_bytes(BYTES)
    split = load_dataset("text", data_dir=tmp_path, context=5).train
    batches = Batches(split, mean=(), std=(), batch_size=8)
    order = torch.randperm(len(split))
    inputs, labels = next(batches.epoch(order[None]))
    assert inputs.dtype == labels.dtype == torch.int64
    assert inputs.tolist() == [split.images[k].tolist() for k in order[:8]]
    assert labels.tolist() == [split.labels[k].tolist() for k in order[:8]]
    assert torch.equal(inputs[:, 1:], labels[:, :-1]), "each is told from those before"
    orders = torch.stack([order, order.flip(0)])[None]
    inputs, labels = next(batches.epoch(orders))
    assert inputs.shape == labels.shape == (2, 8, 5)


def refusal(**request):
    with pytest.raises(InputError) as refused:
        load_dataset(**request)
    (line,) = refused.value.lines
    return line


def test_what_cannot_be_a_text_is_told_in_plain_words(tmp_path, monkeypatch):
    assert refusal(name="text", data_dir=tmp_path / "none") == (
        f"dataset=text: data_dir={tmp_path}/none is not there; allowed: a file, or a folder of "
        "*.txt (dataset=pydoc comes with Python)"
    )
    assert refusal(name="text", data_dir=tmp_path) == (
        f"dataset=text: data_dir={tmp_path} has no *.txt; allowed: a file, or a folder of them"
    )
    (tmp_path / "own.txt").write_bytes(b"")
    assert refusal(name="text", data_dir=tmp_path) == (
        f"dataset=text: {tmp_path} has 0 bytes, and context=64 needs 650 or more, a tenth of them "
        "to test"
    )
    (tmp_path / "own.txt").write_bytes(b"x" * 649)
    assert refusal(name="text", data_dir=tmp_path).endswith("; context=63 or less works")
    assert len(load_dataset("text", data_dir=tmp_path, context=63).test) == 1
    assert "text has 97 training examples, so 1 to 97" in refusal(
        name="text", data_dir=tmp_path, context=6, train_size=98
    )
    (tmp_path / "folder.txt").mkdir()
    assert "folder.txt cannot be read" in refusal(name="text", data_dir=tmp_path)
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    assert "this Python was installed without its help" in refusal(name="pydoc")
