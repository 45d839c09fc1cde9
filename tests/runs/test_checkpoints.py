"""Checkpoints against the states that were saved, and against faults caused for real.

Killed savers are real processes, full disks a small tmpfs or a limit of the file size.
"""

from __future__ import annotations

import os
import pickle
import random
import re
import resource
import signal
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lowrank.common.errors import Failure, InputError
from lowrank.runs import checkpoints
from lowrank.runs.checkpoints import CheckpointError, CheckpointWriteError
from tests.faults import mounted


def state_of(epoch: int, size: int = 1000) -> dict[str, Any]:
    """What a run keeps, in kind; every part tells the epoch."""
    generator = torch.Generator().manual_seed(epoch)
    weight = torch.randn(size, generator=generator)
    return {
        "epoch": epoch,
        "lr": 0.1 + epoch,
        "name": f"run-{epoch}é",
        "model": {"weight": weight, "half": weight[:7].bfloat16(), "count": torch.tensor(epoch)},
        "optimizer": {"state": {0: {"momentum": weight * 2}}, "groups": [{"params": [0, 1]}]},
        "rng": generator.get_state(),
        "last_rank": float("nan") if epoch == 3 else None,
        "flags": [True, (1, 2.5), float("inf")],
    }


def same(left: Any, right: Any) -> bool:
    """Equal in type, structure and every bit."""
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        pairs = zip(left, right, strict=True)
        return type(left) is type(right) and all(same(*pair) for pair in pairs)
    return repr(left) == repr(right)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "checkpoint.pt"


@pytest.mark.parametrize("epoch", [0, 3])
def test_a_state_comes_back_bit_for_bit(path, epoch):
    checkpoints.save(path, state_of(9))
    checkpoints.save(path, state_of(epoch))
    assert same(checkpoints.load(path), state_of(epoch))
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_the_file_is_an_ordinary_one_for_torch_and_zip(path):
    checkpoints.save(path, state_of(1))
    assert same(torch.load(path, weights_only=True), state_of(1))
    with zipfile.ZipFile(path) as archive:
        assert archive.comment.startswith(b"lowrank checkpoint 001 sha256 ")
        assert archive.testzip() is None


class Exploit:
    """Unpickled, it would make a directory."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.proof),)


def sealed(path: Path, content: object) -> None:
    """A file with a valid digest, as only someone who knows the format can make it."""
    with path.open("w+b") as file:
        torch.save(content, file)
        checkpoints._seal(file)


def test_code_in_a_checkpoint_is_not_executed(path):
    proof = path.parent / "executed"
    sealed(path, {"model": Exploit(proof)})
    with pytest.raises(CheckpointError, match="is not a checkpoint of plain tensors and numbers"):
        checkpoints.load(path)
    path.write_bytes(pickle.dumps(Exploit(proof)))
    with pytest.raises(CheckpointError, match=r"truncated, or is none that `train\.py` wrote"):
        checkpoints.load(path)
    assert not proof.exists()


def into_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, "there is no checkpoint here"),
    "directory": (into_directory, r"cannot be read \(Is a directory\)"),
    "foreign": (
        lambda path: torch.save({"w": torch.ones(3)}, path),
        "is truncated, or is none that `train.py` wrote: restore it from a copy",
    ),
    "longer": (lambda path: path.write_bytes(path.read_bytes() + b"x"), "is truncated, or is none"),
    "no dictionary": (lambda path: sealed(path, [1, 2]), "holds a list, not a checkpoint"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_refused_in_one_line(path, case):
    change, message = WRONG[case]
    checkpoints.save(path, state_of(1))
    change(path)
    with pytest.raises(InputError, match=message) as caught:
        checkpoints.load(path)
    assert isinstance(caught.value, CheckpointError)
    assert len(caught.value.lines) == 1
    assert str(path) in str(caught.value)


def test_killing_the_saver_20_times_leaves_a_whole_state(path):
    """Each time one of the states saved so far, never an older one than was there before."""
    checkpoints.save(path, state_of(0, size=200_000))
    choose = random.Random(1)
    epoch = interrupted = 0
    for _ in range(20):
        before, until = path.stat().st_mtime_ns, time.monotonic() + 20
        # Made here, as computing in a forked process can hang: torch's threads are not there.
        later = [state_of(epoch + n, size=200_000) for n in range(1, 31)]
        pid = os.fork()
        if not pid:
            try:
                for state in later:
                    checkpoints.save(path, state)
            finally:
                os._exit(1)
        try:
            while path.stat().st_mtime_ns == before:  # until the first save: it is in the loop
                assert time.monotonic() < until
                time.sleep(0.001)
            time.sleep(choose.uniform(0, 0.02))
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        interrupted += path.with_name("checkpoint.pt.new").exists()
        state = checkpoints.load(path)
        assert state["epoch"] > epoch
        epoch = state["epoch"]
        assert same(state, state_of(epoch, size=200_000))
    assert interrupted  # at least one kill fell into the writing of a file
    checkpoints.save(path, state_of(0))
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.fixture(params=["tmpfs", "file size limit"])
def small_disk(request, tmp_path) -> Iterator[Path]:
    """A directory with room for a checkpoint of 300 kB but not for one of 4 MB."""
    place = tmp_path / "disk"
    if request.param == "tmpfs":
        with mounted(place, "1m"):
            yield place
        return
    place.mkdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        yield place
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_checkpoint_before(small_disk):
    path = small_disk / "checkpoint.pt"
    checkpoints.save(path, state_of(1, size=30_000))
    pattern = re.escape(str(path)) + (
        r": the checkpoint cannot be written \((No space left on device|File too large)\); "
        r"[\d,]+ MiB are free there; make room or give write access and start the same command "
        "again: the checkpoint before is kept"
    )
    for _ in range(2):
        with pytest.raises(Failure, match=pattern) as caught:
            checkpoints.save(path, state_of(2, size=500_000))
        assert isinstance(caught.value, CheckpointWriteError)
        assert same(checkpoints.load(path), state_of(1, size=30_000))
        assert [entry.name for entry in small_disk.iterdir()] == [path.name]
    checkpoints.save(path, state_of(3))
    assert checkpoints.load(path)["epoch"] == 3


def test_a_missing_directory_is_named(tmp_path):
    with pytest.raises(CheckpointWriteError, match="its directory does not exist"):
        checkpoints.save(tmp_path / "none" / "checkpoint.pt", state_of(0))


def test_what_cannot_be_saved_is_the_callers_error_and_harms_nothing(path):
    checkpoints.save(path, state_of(1))
    with pytest.raises((AttributeError, pickle.PicklingError)):
        checkpoints.save(path, {"function": lambda: None})
    assert same(checkpoints.load(path), state_of(1))
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_part_of_a_larger_tensor_is_saved_without_the_rest(tmp_path):
    whole = torch.arange(100_000.0).view(100, 1000)
    checkpoints.save(tmp_path / "a.pt", {"states": [{"part": whole[3]}], "epoch": 1})
    assert (tmp_path / "a.pt").stat().st_size < 10_000
    loaded = checkpoints.load(tmp_path / "a.pt")
    assert torch.equal(loaded["states"][0]["part"], whole[3])
    assert loaded["epoch"] == 1
