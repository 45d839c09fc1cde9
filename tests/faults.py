"""How faults are caused: small and read-only disks, spoiled files, kills at a chosen moment."""

from __future__ import annotations

import importlib
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest


@contextmanager
def mounted(place: Path, size: str) -> Iterator[None]:
    """Mounts a small disk, or skips the test where only root could.

    Args:
        place: The directory; made here.
        size: Of the disk, such as ``1m``.

    Yields:
        While it is mounted.
    """
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a tmpfs needs root and the right to mount")
    try:
        yield
    finally:
        # Lazily: a service of W&B may still have its log open there.
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def fill(place: Path, leave: int) -> Path:
    """Fills a disk.

    Args:
        place: Where it is mounted.
        leave: How many bytes stay free.

    Returns:
        The file to remove for room.
    """
    filler = place / "filler"
    filler.unlink(missing_ok=True)
    filler.write_bytes(bytes(shutil.disk_usage(place).free - leave))
    return filler


def remount(place: Path, how: str) -> None:
    """Makes a mounted disk read-only (``ro``) or writable (``rw``)."""
    subprocess.run(["mount", "-o", f"remount,{how}", str(place)], check=True)


def limit_file_size(size: int) -> None:
    """Lets no file of this process grow beyond a size."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def limit_memory(more: int) -> None:
    """Lets this process take only so many bytes more than it has."""
    import torch

    torch.zeros(1).exp()  # what torch loads at first use, it has
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def flip(path: Path, bit: int) -> None:
    """Turns over one bit of a file."""
    with path.open("r+b") as file:
        file.seek(bit // 8)
        (byte,) = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1 << bit % 8]))


def kill_at(
    function: str, call: int, *, after: bool = False, number: int = signal.SIGKILL
) -> Callable[[], None]:
    """Lets a process kill itself at a certain call of one of its functions.

    Args:
        function: Such as ``lowrank.runs.writer.Record.append``.
        call: Which call, from 1.
        after: Whether the function does its work before.
        number: The signal.

    Returns:
        What arranges it, to be called in that process.
    """
    return partial(_replace, function, partial(_killing, call=call, after=after, number=number))


def fail_at(function: str, call: int, error: BaseException) -> Callable[[], None]:
    """Lets a function of a process fail at a certain call, as `kill_at` counts them."""
    return partial(_replace, function, partial(_before, call=call, do=partial(_raise, error)))


def sleep_at(function: str, call: int, seconds: float) -> Callable[[], None]:
    """Lets a function of a process take longer at a certain call."""
    return partial(_replace, function, partial(_before, call=call, do=partial(_sleep, seconds)))


def both(one: Callable[[], None], other: Callable[[], None]) -> None:
    """Arranges two faults in this process."""
    one()
    other()


def half_written_at(call: int) -> Callable[[], None]:
    """Lets a process kill itself when half of a certain checkpoint is written."""
    return partial(_replace, "torch.save", partial(_halving, call=call))


def _replace(function: str, wrap: Callable[[Callable[..., object]], object]) -> None:
    module, *names = _resolve(function)
    owner: object = importlib.import_module(module)
    for name in names[:-1]:
        owner = getattr(owner, name)
    setattr(owner, names[-1], wrap(getattr(owner, names[-1])))


def _resolve(function: str) -> list[str]:
    """Splits a dotted name into its module and the names within."""
    parts = function.split(".")
    for length in range(len(parts) - 1, 0, -1):
        try:
            importlib.import_module(".".join(parts[:length]))
        except ImportError:
            continue
        return [".".join(parts[:length]), *parts[length:]]
    raise ImportError(function)


def _killing(
    original: Callable[..., object], call: int, after: bool, number: int
) -> Callable[..., object]:
    calls = 0

    def counted(*arguments: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == call and not after:
            os.kill(os.getpid(), number)
        result = original(*arguments, **options)
        if calls == call and after:
            os.kill(os.getpid(), number)
        return result

    return counted


def _before(
    original: Callable[..., object], call: int, do: Callable[[], None]
) -> Callable[..., object]:
    calls = 0

    def counted(*arguments: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == call:
            do()
        return original(*arguments, **options)

    return counted


def _raise(error: BaseException) -> None:
    raise error


def _sleep(seconds: float) -> None:
    Path("asleep").touch()
    time.sleep(seconds)


def _halving(original: Callable[..., object], call: int) -> Callable[..., object]:
    import io
    from typing import Any

    calls = 0

    def save(state: object, file: Any) -> None:
        nonlocal calls
        calls += 1
        if calls < call:
            original(state, file)
            return
        whole = io.BytesIO()
        original(state, whole)
        file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    return save


def give_up_early() -> None:
    """Shortens what a run waits for a server that is gone, from ten minutes to seconds."""
    from lowrank.tracking import tracker

    tracker.GRAPHQL_RETRIES, tracker.FINISH_TIMEOUT = 1, 5.0
