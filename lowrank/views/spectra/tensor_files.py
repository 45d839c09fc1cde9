"""Tensors of files that others wrote, mapped into memory; nothing in a file is executed.

A tensor's bytes are read when it is used, and the system drops them again where memory is short.
Only the format of torch before 1.6 is read as a whole.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from lowrank.common.errors import InputError
from lowrank.common.files import may_grow, open_file
from lowrank.common.texts import one_of, printable

FORMATS = "what torch.save writes (.pt, .pth), .safetensors, and run directories"
"""What can be read, in words."""

_NESTS = ("state_dict", "model_state_dict", "model", "module", "network", "net", "weights")
_DEEPEST = 4  # dictionaries in dictionaries; a file may hold one inside itself


def read_file(file: Path) -> Any:
    """Reads a file, mapping its tensors into memory.

    Args:
        file: The file; its content decides on its format.

    Returns:
        Dictionaries, tensors and plain values.

    Raises:
        InputError: It is none that can be read.
    """
    where = printable(str(file), 200)
    try:
        with open_file(file) as opened:
            head = opened.read(9)
            grows = head.startswith((b"PK", b"\x80")) and may_grow(opened)
    except FileNotFoundError:
        raise InputError(f"{where}: there is no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{where}: cannot be read ({reason})") from None
    if grows:
        raise InputError(
            f"{where}: was not loaded, because it is compressed or holds a bytearray and "
            "could take any amount of memory; tensors and numbers need neither"
        )
    if not head:
        raise InputError(f"{where}: is empty")
    if head[8:] == b"{" or file.suffix == ".safetensors":
        return _read_safetensors(file, where)
    if head.startswith((b"PK", b"\x80")):  # an archive, or the pickle of torch before 1.6
        return _read_torch(file, where, mapped=head.startswith(b"PK"))
    raise InputError(f"{where}: is no checkpoint; read are {FORMATS}")


def _read_safetensors(file: Path, where: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(file), framework="pt") as opened:
            names = sorted(opened.keys(), key=_natural)  # the format keeps no order of its own
            return {name: opened.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise InputError(
            f"{where}: is truncated or no safetensors file ({printable(str(error), 200)})"
        ) from error


def _natural(name: str) -> list[str | int]:
    """Returns a key that sorts numbers in names as numbers: layer 2 before layer 10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def _read_torch(file: Path, where: str, *, mapped: bool) -> Any:
    remedy = (
        "if you trust its source, save the weights alone where it was made: "
        "torch.save(model.state_dict(), 'weights.pt')"
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of deprecated kinds of tensors in it
            return torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except MemoryError:
        raise
    except Exception as error:  # a file made by someone else can fail in any way
        text = str(error)
        if isinstance(error, UnpicklingError) and (found := re.search(r"GLOBAL (\S+)", text)):
            raise InputError(
                f"{where}: was not loaded, because that could run code: beside tensors and plain "
                f"values it holds {printable(found[1])}; {remedy}"
            ) from error
        if "TorchScript" in text:
            raise InputError(
                f"{where}: was not loaded, because it is a TorchScript program; {remedy}"
            ) from error
        raise InputError(
            f"{where}: is truncated, damaged or no checkpoint "
            f"({type(error).__name__}: {printable(text.partition('. ')[0], 160)})"
        ) from error


def state_dict(file: Path, content: Any) -> dict[str, Tensor]:
    """Finds the dictionary that holds the weights.

    Args:
        file: The file, for errors.
        content: What `read_file` found in it.

    Returns:
        Tensors by name, without the prefixes of wrappers (``module.``, ``_orig_mod.``).

    Raises:
        InputError: There is none, or none that is surely it.
    """
    where = printable(str(file), 200)
    if not isinstance(content, Mapping):
        raise InputError(f"{where}: holds a {type(content).__name__}, not a state dict")
    found = list(_dictionaries(content, set()))
    if (held := _bytes_held(state for _, state in found)) > file.stat().st_size:
        raise InputError(
            f"{where}: describes tensors of {held:,} bytes, but has only {file.stat().st_size:,}"
        )
    if not found:
        raise InputError(f"{where}: holds no tensor of two or more dimensions")
    named = [(path, state) for path, state in found if path and path[-1] in _NESTS]
    if named:
        _, state = min(named, key=lambda item: (_NESTS.index(item[0][-1]), len(item[0])))
    else:
        depth = min(len(path) for path, _ in found)
        shallow = [(path, state) for path, state in found if len(path) == depth]
        if len(shallow) > 1:
            keys = ", ".join(printable(".".join(map(str, path)), 30) for path, _ in shallow)
            raise InputError(
                f"{where}: holds tensors under {keys}, and none of them is called "
                f"{one_of(_NESTS)}: save the state dict alone"
            )
        state = shallow[0][1]
    return _unwrapped({str(k): value for k, value in state.items() if isinstance(value, Tensor)})


def _dictionaries(
    content: Mapping[Any, Any], seen: set[int], path: tuple[Any, ...] = ()
) -> Iterator[tuple[tuple[Any, ...], Mapping[Any, Any]]]:
    """Yields the dictionaries that hold a tensor of two or more dimensions, and their paths.

    Each once: a small file can hold one in a million places.
    """
    if id(content) in seen:
        return
    seen.add(id(content))
    if any(isinstance(value, Tensor) and value.ndim > 1 for value in content.values()):
        yield path, content
    if len(path) < _DEEPEST:
        for key, value in content.items():
            if isinstance(value, Mapping):
                yield from _dictionaries(value, seen, (*path, key))


def _bytes_held(states: Iterable[Mapping[Any, Any]]) -> int:
    """Returns the memory of all tensors; what shares memory counts once."""
    storages = {
        storage.data_ptr(): storage.nbytes()
        for state in states
        for tensor in state.values()
        if isinstance(tensor, Tensor) and tensor.layout == torch.strided and not tensor.is_meta
        for storage in [tensor.untyped_storage()]
    }
    return sum(storages.values())


def _unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors without the prefixes of torch.compile and data parallelism."""
    tensors = {name.replace("_orig_mod.", ""): tensor for name, tensor in tensors.items()}
    # Vectors are not asked: an averaged model has a counter beside its `module`.
    while all(name.startswith("module.") for name, t in tensors.items() if t.ndim > 1):
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors
