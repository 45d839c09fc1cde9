"""Checkpoints: written as a whole or not at all, and read with due mistrust.

A checkpoint is what `torch.save` writes, a zip archive, with a line of ours as the archive's
comment: the format version and the SHA-256 of everything before it. torch itself does not verify
its archives (of 400 random bit flips in a small one it noticed 28 and returned wrong numbers for
152). `torch.load` reads the file as any other.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from lowrank.common.errors import Failure, InputError, is_out_of_memory
from lowrank.common.files import may_grow, open_file, replacing

FORMAT_VERSION = 1

_COMMENT = re.compile(rb"lowrank checkpoint (\d{3}) sha256 ([0-9a-f]{64})")
_COMMENT_LENGTH = 94


class CheckpointError(InputError):
    """A checkpoint cannot be used: missing, damaged, unsafe or of a newer version."""


class CheckpointWriteError(Failure):
    """A checkpoint cannot be written; the one before is as it was."""


def save(path: str | Path, state: Mapping[str, Any]) -> None:
    """Writes a checkpoint, replacing the one before in one step.

    Args:
        path: The file. What an earlier, killed process left beside it is overwritten.
        state: Nested dictionaries and lists of tensors, numbers and strings.

    Raises:
        CheckpointWriteError: If it cannot be written, for example on a full disk.
    """
    path = Path(path)
    try:
        with replacing(path, alone=True) as new, new.open("w+b") as file:
            torch.save(_alone(dict(state)), file)
            _seal(file)
    except Exception as error:
        cause = error if isinstance(error, OSError) else error.__context__
        # torch reports a failed write as a RuntimeError of its archive writer.
        if isinstance(cause, OSError):
            raise CheckpointWriteError(_explain(path, cause)) from error
        raise


def load(path: str | Path, *, map_location: str | torch.device = "cpu") -> dict[str, Any]:
    """Reads a checkpoint that `save` wrote. Nothing in the file is executed.

    Args:
        path: The file.
        map_location: The device of its tensors.

    Returns:
        The state.

    Raises:
        CheckpointError: If it is missing, truncated, changed by as little as a bit, holds
            anything but plain data, or was written by a newer version.
        MemoryError: Or torch's own, if there is no room for it.
    """
    path = Path(path)
    try:
        with open_file(path) as file:
            verify(path, file)
            if may_grow(file):
                raise CheckpointError(
                    f"{path}: could take any amount of memory, so it was not loaded"
                )
            file.seek(0)
            state = torch.load(file, map_location=map_location, weights_only=True)
    except CheckpointError:
        raise
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: there is no checkpoint here") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    except Exception as error:  # a file made by someone else can fail in any way
        if is_out_of_memory(error):
            raise
        raise CheckpointError(
            f"{path}: is not a checkpoint of plain tensors and numbers, so it was not loaded "
            f"({type(error).__name__}): use a file that `train.py` wrote"
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: holds a {type(state).__name__}, not a checkpoint")
    return state


def _alone(state: Any) -> Any:
    """Returns a state whose tensors are no part of larger memory, which torch would save too."""
    if isinstance(state, torch.Tensor):
        return state.clone() if state.untyped_storage().nbytes() > state.nbytes else state
    if isinstance(state, dict):
        return {name: _alone(value) for name, value in state.items()}
    return [_alone(value) for value in state] if isinstance(state, list) else state


def _seal(file: BinaryIO) -> None:
    """Appends version and digest as the archive's comment."""
    file.seek(-2, os.SEEK_END)  # the last field of an archive without comment is its length
    file.write(struct.pack("<H", _COMMENT_LENGTH))
    file.write(_comment(_digest(file, file.tell())))


def _comment(digest: str) -> bytes:
    return f"lowrank checkpoint {FORMAT_VERSION:03d} sha256 {digest}".encode()


def verify(path: Path, file: BinaryIO) -> None:
    """Makes sure that the file is what `save` wrote.

    Args:
        path: Its name in errors.
        file: The file, open for reading.

    Raises:
        CheckpointError: If it is not.
    """
    size = file.seek(0, os.SEEK_END) - _COMMENT_LENGTH
    file.seek(max(size, 0))
    match = _COMMENT.fullmatch(file.read())
    if match is None:
        raise CheckpointError(
            f"{path}: the checkpoint is truncated, or is none that `train.py` wrote: restore it "
            "from a copy, or remove it: the run then trains again from epoch 0, to the same numbers"
        )
    if int(match[1]) > FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: was written by a newer lowrank (checkpoint version {int(match[1])}, this one "
            f"reads {FORMAT_VERSION}): upgrade lowrank to use it"
        )
    if match[0] != _comment(_digest(file, size)):
        raise CheckpointError(
            f"{path}: the checkpoint is damaged (its content is not what was written): restore it "
            "from a copy, or remove it: the run then trains again from epoch 0, to the same numbers"
        )


def _digest(file: BinaryIO, size: int) -> str:
    """Returns the SHA-256 of the first bytes; leaves the file at their end."""
    digest = hashlib.sha256()
    file.seek(0)
    while size and (block := file.read(min(size, 1 << 20))):
        digest.update(block)
        size -= len(block)
    return digest.hexdigest()


def _explain(path: Path, error: OSError) -> str:
    if not path.parent.is_dir():
        return f"{path}: the checkpoint cannot be written (its directory does not exist)"
    free = shutil.disk_usage(path.parent).free / 2**20
    return (
        f"{path}: the checkpoint cannot be written ({error.strerror or error}); {free:,.0f} MiB "
        "are free there; make room or give write access and start the same command again: the "
        "checkpoint before is kept"
    )
