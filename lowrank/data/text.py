"""Text, byte by byte: windows of it, and the byte that follows each of theirs.

``pydoc`` is what every installation of Python ships to be read at its prompt: the language
reference, as ``help("TOPIC")`` shows it. It is the same for one version of Python only. ``text`` is
a file of one's own, or a folder of them.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lowrank.common.errors import InputError
from lowrank.common.files import open_file
from lowrank.common.texts import printable
from lowrank.data.sets import Dataset, Request, Split
from lowrank.data.subsets import balanced_subset

TEST_SHARE = 10
"""One in so many bytes is to test: the last ones."""


def load(request: Request) -> Dataset:
    """Cuts a text into examples.

    The last tenth is to test. Of either part, example k has as inputs the bytes kT … kT + T − 1 and
    as labels those one further, so that each byte but the first is a label once; what is left over
    at the end is left out.

    Args:
        request: Its `context`, `train_size` and `data_dir` are used.

    Returns:
        The data set.

    Raises:
        InputError: There is no text, or less than one example of it to test.
    """
    text, where = _of_python() if not request.source.in_data_dir else _of_files(request.data_dir)
    length, least = len(text), TEST_SHARE * (request.context + 1)
    if length < least:
        fits = length // TEST_SHARE - 1
        works = f"; context={fits} or less works" if fits > 0 else ""
        raise InputError(
            f"dataset={request.name}: {where} has {length} bytes, and context={request.context} "
            f"needs {least} or more, a tenth of them to test{works}"
        )
    cut = length - length // TEST_SHARE
    values = torch.from_numpy(np.frombuffer(text, dtype=np.uint8).copy())
    train, test = (_windows(part, request.context) for part in (values[:cut], values[cut:]))
    of_one_class = np.zeros(len(train), dtype=np.int64)
    kept = torch.from_numpy(balanced_subset(of_one_class, request.train_size, request.name))
    return Dataset(
        name=request.name,
        train=Split(train.images[kept], train.labels[kept]),
        test=test,
        classes=request.source.classes,
        mean=(),
        std=(),
        where=where,
        digest=hashlib.sha256(text).hexdigest(),
    )


def _windows(values: Tensor, context: int) -> Split:
    count = (len(values) - 1) // context
    inputs, labels = values[: count * context], values[1 : 1 + count * context]
    return Split(inputs.view(count, context), labels.view(count, context))


def _of_python() -> tuple[bytes, str]:
    """Returns Python's help, its topics in alphabetical order, and where it came from.

    Raises:
        InputError: This Python was installed without it.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise InputError(
            "dataset=pydoc: this Python was installed without its help (pydoc_data.topics); "
            "dataset=text reads a text of yours from data_dir"
        ) from error
    import platform

    text = "\n".join(topics[name] for name in sorted(topics))
    return text.encode("utf-8"), f"the help of Python {platform.python_version()}"


def _of_files(path: Path) -> tuple[bytes, str]:
    """Returns one's own text, and where it is.

    Raises:
        InputError: It is not there, or cannot be read.
    """
    shown = printable(str(path), 200)
    if path.is_dir():
        files = sorted(file for file in path.glob("*.txt") if file.name[0] != ".")
        if not files:
            raise InputError(
                f"dataset=text: data_dir={shown} has no *.txt; allowed: a file, or a folder of them"
            )
    elif path.exists():
        files = [path]
    else:
        raise InputError(
            f"dataset=text: data_dir={shown} is not there; allowed: a file, or a folder of *.txt "
            "(dataset=pydoc comes with Python)"
        )
    parts, lines = [], []
    for file in files:
        try:
            with open_file(file) as opened:
                parts.append(opened.read())
        except OSError as error:
            lines.append(f"{printable(str(file), 200)} cannot be read: {error.strerror or error}")
    if lines:
        raise InputError(lines)
    return b"".join(parts), str(path.resolve())
