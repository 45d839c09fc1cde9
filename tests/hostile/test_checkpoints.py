"""Checkpoints by strangers: ours in a run directory, and any file given to ``lowrank spectra``.

Files that run code when they are unpickled are also in tests/runs/test_checkpoints.py and
tests/views/spectra/test_weights.py, as is damage. Here are files that grow, or hold what no network
has.
"""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.resident import forget_peak, resident
from lowrank import cli
from lowrank.common.errors import InputError
from lowrank.config import Config
from lowrank.runs import checkpoints
from tests.hostile.calls import EVIL, answer, check, same

ROOT = Path(__file__).resolve().parent.parent.parent
LIMIT = 400  # MiB that a file of some kB may make a command larger


class Call:
    """Unpickled, it is what the call of an allowed function gives."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def rewritten(
    path: Path, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED
) -> None:
    """Saves a small state dict and writes its archive anew, with changed parts."""
    torch.save({"a.weight": torch.ones(2, 2)}, path)
    content = io.BytesIO(path.read_bytes())
    with zipfile.ZipFile(content) as old, zipfile.ZipFile(path, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))


def with_pickle(content: Any) -> Callable[[Path], None]:
    code = pickle.dumps(content, protocol=2)
    return lambda path: rewritten(path, lambda n, data: code if n.endswith("data.pkl") else data)


def laughs(path: Path) -> None:
    """A dictionary of 300 times the same dictionary of 300 times the same …, five deep."""
    inner: dict[str, Any] = {"a": torch.zeros(1)}
    for _ in range(5):
        inner = {f"k{i}": inner for i in range(300)}
    torch.save(inner, path)


def tensors(make: Callable[[], Any]) -> Callable[[Path], None]:
    return lambda path: torch.save({"a.weight": make()}, path)


def compressed(path: Path) -> None:
    """Half a gigabyte of zeros in half a megabyte, as the archive's pickle."""
    zeros = bytes(2**29)
    rewritten(path, lambda n, data: zeros if n.endswith("pkl") else data, zipfile.ZIP_DEFLATED)


BOMBS: dict[str, tuple[Callable[[Path], None], str]] = {
    "one number a trillion times": (
        tensors(lambda: torch.zeros(1, 1).expand(10**6, 10**6)),
        "the same values again and again",
    ),
    "overlapping rows": (
        tensors(lambda: torch.zeros(60_000).as_strided((30_000, 30_000), (1, 1))),
        "the same values again and again",
    ),
    "a shape without values": (
        tensors(lambda: torch.empty(10**6, 10**6, device="meta")),
        "has a shape but no values",
    ),
    "a sparse trillion": (
        tensors(
            lambda: torch.sparse_coo_tensor(
                torch.zeros(2, 1).long(), torch.ones(1), (10**6, 10**6), check_invariants=False
            )
        ),
        "sparse",
    ),
    "a billion laughs": (laughs, "holds no tensor of two or more dimensions"),
    "compressed zeros": (compressed, "it is compressed or holds a bytearray"),
    "a tensor from nowhere": (
        with_pickle({"a.weight": Call(torch.Tensor, 30_000, 30_000)}),
        "describes tensors of 3,600,000,000 bytes",
    ),
    "a tensor too large": (with_pickle({"a.weight": Call(torch.Tensor, 10**7, 10**7)}), "damaged"),
    "many zeros": (with_pickle({"x": Call(bytearray, 10**9)}), "holds a bytearray"),
    "many zeros as before torch 1.6": (
        lambda path: torch.save(
            {"x": Call(bytearray, 10**9)}, path, _use_new_zipfile_serialization=False
        ),
        "holds a bytearray",
    ),
    "code": (with_pickle({"x": Call(os.system, "touch hacked")}), "could run code"),
    "no dictionary": (with_pickle(None), "holds a NoneType"),
}

IN_ONE_PROCESS = """\
import resource, sys
from benchmarks.resident import forget_peak, resident
from lowrank.cli import main
resource.setrlimit(resource.RLIMIT_AS, (24 * 2**30, 24 * 2**30))
import lowrank.views.spectra.quantities, lowrank.views.spectra.weights
for file in sys.argv[1:]:
    before = forget_peak()
    print(file, file=sys.stderr)
    code = main(["spectra", file])
    more = round(resident() - before)
    print("answer", code, more, file=sys.stderr)
"""


def test_small_files_take_neither_memory_nor_time(tmp_path):
    """All in one process, whose peak begins anew with each."""
    files = {name: tmp_path / f"{number}.pt" for number, name in enumerate(BOMBS)}
    for name, file in files.items():
        BOMBS[name][0](file)
    words = [sys.executable, "-c", IN_ONE_PROCESS, *(str(file) for file in files.values())]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        words,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "hacked").exists()
    for name, file in files.items():
        said, _, rest = done.stderr.partition(f"{file}\n")[2].partition("answer ")
        code, more = map(int, rest.splitlines()[0].split())
        assert BOMBS[name][1] in said, (name, said)
        assert code in (1, 2), name
        assert more < LIMIT, f"{name}: {more} MiB"


def test_a_sealed_checkpoint_that_is_a_bomb_is_refused(tmp_path):
    """Anyone can compute the checksum of a checkpoint."""
    path = tmp_path / "checkpoint.pt"
    checkpoints.save(path, {"epoch": 0})
    zeros = bytes(10**8)
    rewritten(path, lambda n, data: zeros if n.endswith("pkl") else data, zipfile.ZIP_DEFLATED)
    with path.open("r+b") as file:
        checkpoints._seal(file)
    before = forget_peak()
    with pytest.raises(InputError, match="could take any amount of memory"):
        checkpoints.load(path)
    assert resident() - before < 50


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_checkpoint_that_is_no_file_is_refused_at_once(tmp_path, kind):
    path = tmp_path / "checkpoint.pt"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    (tmp_path / "config.yaml").write_text(Config().to_yaml())
    for place in (path, tmp_path):
        code, out, err = answer(cli.main, ["spectra", str(place)])
        check(code, out, err)
        assert code == 2
    with pytest.raises(InputError, match="a pipe or a device, not a file"):
        checkpoints.load(path)


names = st.sampled_from(["a.weight", "weight", "epoch", "model", EVIL, f"{EVIL}.weight", ""])
leaves = st.sampled_from(
    [
        torch.ones(3, 2),
        torch.full((2, 2), float("nan")),
        torch.zeros(0, 2),
        torch.ones(2, 2, dtype=torch.int64),
        torch.ones(1, 2, 3, 4, 5),
        torch.tensor(1.0),
        torch.ones(2, 2, dtype=torch.complex64),
        torch.ones(2, 2, dtype=torch.float64).t(),
        torch.eye(2).to_sparse(),
    ]
)
contents = st.recursive(
    leaves | st.none() | st.integers() | st.text(max_size=3),
    lambda inner: st.dictionaries(names, inner, max_size=3) | st.lists(inner, max_size=2),
    max_leaves=6,
)


@same(60)
@given(content=contents)
def test_any_content_is_measured_or_lines(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("file") / "x.pt"
    torch.save(content, path)
    for form in ([], ["--csv"], ["--json"]):
        check(*answer(cli.main, ["spectra", str(path), *form]))


@same(60)
@given(data=st.data())
def test_any_changed_bytes_are_measured_or_lines(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("file") / "x.pt"
    torch.save({"a.weight": torch.ones(3, 2), "b": {"c": 1}}, path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        start = data.draw(st.integers(0, len(content) - 1))
        piece = data.draw(st.binary(min_size=1, max_size=8))
        content[start : start + len(piece)] = piece
    path.write_bytes(content[: data.draw(st.just(len(content)) | st.integers(0, len(content)))])
    check(*answer(cli.main, ["spectra", str(path)]))


@same(40)
@given(head=st.binary(max_size=60), header=st.text(max_size=30), length=st.integers(0, 2**64 - 1))
def test_any_safetensors_file_is_measured_or_lines(tmp_path_factory, head, header, length):
    place = tmp_path_factory.mktemp("file")
    for number, content in enumerate(
        (head, length.to_bytes(8, "little") + b"{" + header.encode(), b"PK" + head, b"\x80" + head)
    ):
        path = place / f"{number}.safetensors"
        path.write_bytes(content)
        check(*answer(cli.main, ["spectra", str(path)]))


def test_names_in_a_figure_are_text(tmp_path):
    path = tmp_path / "x.pt"
    torch.save({f"{EVIL}.weight": torch.ones(3, 2), f"{'n' * 10_000}.weight": torch.eye(3)}, path)
    code, out, _ = answer(cli.main, ["spectra", str(path), f"--plot={tmp_path / 'x.png'}"])
    check(code, out, "")
    assert code == 0
    assert (tmp_path / "x.png").stat().st_size < 10**6
