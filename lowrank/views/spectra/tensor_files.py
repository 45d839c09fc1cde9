"""Tensors of files that others wrote, mapped into memory; nothing in a file is executed.

A tensor's bytes are read when it is used, and the system drops them again where memory is short.
Only the format of torch before 1.6 is read as a whole.
"""

from __future__ import annotations

import io
import re
import warnings
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from numpy.lib.format import read_array_header_1_0, read_array_header_2_0, read_magic
from torch import Tensor

from lowrank.common.errors import InputError
from lowrank.common.files import may_grow, open_file
from lowrank.common.texts import nearest, one_of, printable
from lowrank.views.spectra.inert import STAND_INS

FORMATS = (
    "what torch.save writes (.pt, .pth, .bin), .safetensors, .npz, an index of shards "
    "(.index.json) or their directory, and run directories"
)
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
    if head.startswith(b"PK") and (arrays := _arrays(file)):
        return _read_npz(file, where, arrays)
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


def _arrays(file: Path) -> list[str]:
    """Returns the members of an archive of numpy's, by which it is known; else nothing."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, RuntimeError, EOFError):
        return []
    return names if all(name.endswith(".npy") for name in names) else []


def _read_npz(file: Path, where: str, arrays: Iterable[str]) -> dict[str, Any]:
    """Returns the arrays of numbers as tensors, any other as None: that may hold a pickle.

    Raises:
        InputError: It is damaged.
    """
    found: dict[str, Any] = {}
    try:
        with zipfile.ZipFile(file) as archive:
            for name in arrays:
                content = archive.read(
                    name
                )  # not compressed, so that it is no larger than the file
                start = io.BytesIO(content)
                read = {(1, 0): read_array_header_1_0, (2, 0): read_array_header_2_0}
                shape, by_columns, kind = read[read_magic(start)](start)
                if kind.kind not in "biufc" or kind.itemsize > 16:
                    found[name.removesuffix(".npy")] = None
                    continue
                # A bytearray, as torch warns of values that cannot be written to.
                values = np.frombuffer(bytearray(content), kind, offset=start.tell())
                values = values.reshape(shape, order="F" if by_columns else "C")
                native = np.ascontiguousarray(values, kind.newbyteorder("="))
                found[name.removesuffix(".npy")] = torch.from_numpy(native)
    except (zipfile.BadZipFile, ValueError, KeyError, EOFError, TypeError, OSError) as error:
        raise InputError(
            f"{where}: is truncated or damaged ({printable(str(error), 160)})"
        ) from error
    return found


def _read_torch(file: Path, where: str, *, mapped: bool) -> Any:
    remedy = (
        "if you trust its source, save the weights alone where it was made: "
        "torch.save(model.state_dict(), 'weights.pt')"
    )
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(STAND_INS):
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
        if isinstance(error, UnpicklingError) and "DTensor" in text:
            raise InputError(
                f"{where}: holds DTensors, of which each process has a part: save whole ones where "
                "it was made, with get_model_state_dict(model, options=StateDictOptions("
                "full_state_dict=True)) of torch.distributed.checkpoint.state_dict"
            ) from error
        if "TorchScript" in text:
            raise InputError(
                f"{where}: was not loaded, because it is a TorchScript program; {remedy}"
            ) from error
        raise InputError(
            f"{where}: is truncated, damaged or no checkpoint "
            f"({type(error).__name__}: {printable(text.partition('. ')[0], 160)})"
        ) from error


@dataclass(frozen=True)
class StateDict:
    """The dictionary of a file that holds the weights.

    Attributes:
        tensors: By name, without the prefixes of wrappers (``module.``, ``_orig_mod.``).
        key: Where it is in the file, such as ``ema.state_dict``; empty where it is the file's all.
        left: Where there are others.
    """

    tensors: dict[str, Tensor]
    key: str
    left: tuple[str, ...]


def state_dict(file: Path, content: Any, key: str | None = None) -> StateDict:
    """Finds the dictionary that holds the weights.

    Of several, that is the one with the fewest dictionaries around it; where these are as many, the
    only one with a name such as ``model``.

    Args:
        file: The file, for errors.
        content: What `read_file` found in it.
        key: The path of the one that is meant, with dots; None to find it.

    Returns:
        The dictionary, and where it and others were found.

    Raises:
        InputError: There is none, or none that is surely it.
    """
    where = printable(str(file), 200)
    if not isinstance(content, Mapping):
        raise InputError(f"{where}: holds a {type(content).__name__}, not a state dict")
    found = {".".join(map(str, path)): state for path, state in _dictionaries(content, set())}
    if (held := _bytes_held(found.values())) > file.stat().st_size:
        raise InputError(
            f"{where}: describes tensors of {held:,} bytes, but has only {file.stat().st_size:,}"
        )
    if not found:
        raise InputError(f"{where}: holds no tensor of two or more dimensions")
    likely = {path: state for path, state in found.items() if any(map(_says_weight, state))}
    likely = likely or found
    keys = ", ".join(printable(path or ".", 60) for path in likely)
    if key is not None:
        chosen = "" if key == "." else key
        if chosen not in found:
            near = nearest(key[:60], found)
            raise InputError(
                f"key: got '{printable(key)}'; {where} holds tensors under {keys}{near}"
            )
    else:
        chosen = _shallowest(likely, where, keys)
    tensors = {str(k): value for k, value in found[chosen].items() if isinstance(value, Tensor)}
    left = tuple(path or "." for path in likely if path != chosen)
    return StateDict(_unwrapped(tensors), chosen, left)


def _says_weight(name: object) -> bool:
    return isinstance(name, str) and ("weight" in name or "." in name)


def _shallowest(found: Collection[str], where: str, keys: str) -> str:
    """Returns the path of the dictionary that is meant.

    Raises:
        InputError: Several may be.
    """
    depths = {path: len(path.split(".")) if path else 0 for path in found}
    shallow = [path for path, depth in depths.items() if depth == min(depths.values())]
    named = [path for path in shallow if path.rpartition(".")[2] in _NESTS]
    if len(named) != 1 and len(shallow) > 1:
        known = f"several of them are called {one_of(_NESTS)}"
        if not named:
            known = f"none of them is called {one_of(_NESTS)}"
        raise InputError(
            f"{where}: holds tensors under {keys}, and {known}: "
            f"choose one with --key, such as --key={printable((named or shallow)[0], 60)}"
        )
    return (named or shallow)[0]


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
