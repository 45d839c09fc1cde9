"""Models in several files: which files hold one, by their index or their names."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from lowrank.common.errors import InputError
from lowrank.common.files import open_file
from lowrank.common.texts import printable

INDEX = ".index.json"
"""How the name of a file ends that says which tensor is in which file."""

_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.\w+)")
_LARGEST_INDEX = 64 * 2**20  # bytes; a thousand names take 100 kB


def together(paths: Sequence[str]) -> list[tuple[str, ...]]:
    """Puts those files together that are shards of one model.

    Args:
        paths: As given.

    Returns:
        Models, each of one path or several shards, in the order of their first paths.

    Example:
        >>> together(["m-00001-of-00002.bin", "other.pt", "m-00002-of-00002.bin"])
        [('m-00001-of-00002.bin', 'm-00002-of-00002.bin'), ('other.pt',)]
    """
    found: dict[object, list[str]] = {}
    for place, path in enumerate(paths):
        shard = _SHARD.fullmatch(path)
        found.setdefault(shard.group(1, 3, 4) if shard else place, []).append(path)
    return [tuple(group) for group in found.values()]


def files_of(path: Path) -> list[Path]:
    """Returns the files of one model.

    Args:
        path: A file, an index, or a directory with one model: an index, shards or a single file.

    Returns:
        The files, all of them there.

    Raises:
        InputError: The index is damaged, a shard is missing, or the directory holds no model or
            several.
    """
    where = printable(str(path), 200)
    if path.name.endswith(INDEX):
        return _indexed(path, where)
    if not path.is_dir():
        return [path]
    names = sorted(each.name for each in path.iterdir() if each.is_file())
    if indices := [name for name in names if name.endswith(INDEX)]:
        models = {name: _indexed(path / name, where) for name in indices}
    else:
        singles = [name for name in names if name.endswith(".safetensors")]
        groups = together([n for n in names if _SHARD.fullmatch(n) or n in singles])
        models = {group[0]: _complete(path, group) for group in groups}
    if len(models) > 1:
        some = ", ".join(printable(name) for name in list(models)[:5])
        raise InputError(f"{where}: holds {len(models)} models: name one, such as {some}")
    return next(iter(models.values()), [])


def missing_shards(path: Path) -> int:
    """Returns how many other files a shard's model has; 0 for any other file.

    Example:
        >>> missing_shards(Path("model-00001-of-00003.safetensors"))
        2
    """
    shard = _SHARD.fullmatch(path.name)
    return max(0, int(shard[3]) - 1) if shard else 0


def _indexed(path: Path, where: str) -> list[Path]:
    """Returns the files that an index names: they lie beside it.

    Raises:
        InputError: It cannot be read, or a file is not there.
    """
    try:
        with open_file(path) as opened:
            content = json.loads(opened.read(_LARGEST_INDEX))
        names = sorted(set(content["weight_map"].values()))
    except FileNotFoundError:
        raise InputError(f"{where}: there is no such file") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{where}: is no index of a model ({printable(str(error))})") from error
    if not names or any(not isinstance(name, str) or Path(name).name != name for name in names):
        raise InputError(f"{where}: is no index of a model: it must name files beside it")
    return _there(path.parent, names, where)


def _complete(directory: Path, names: Sequence[str]) -> list[Path]:
    """Returns the files of a model of which some shards are there.

    Raises:
        InputError: Others are not.
    """
    if shard := _SHARD.fullmatch(names[0]):
        start, total, suffix = shard.group(1, 3, 4)
        wanted = min(int(total), 10_000)
        names = [f"{start}-{number:05}-of-{total}{suffix}" for number in range(1, wanted + 1)]
    return _there(directory, names, printable(str(directory), 200))


def _there(directory: Path, names: Sequence[str], where: str) -> list[Path]:
    lost = [name for name in names if not (directory / name).is_file()]
    if lost:
        some = ", ".join(printable(name) for name in lost[:3]) + (", ..." if lost[3:] else "")
        raise InputError(f"{where}: {len(lost)} of {len(names)} shards are missing: {some}")
    return [directory / name for name in names]
