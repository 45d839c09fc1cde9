"""Memory that a step of training frees, kept for the next step (Linux with glibc).

By default malloc returns large freed blocks to the system, and the next step takes them back page
by page, each cleared first: a good part of the time in which small networks' replicas or
convolutions train on a CPU.
"""

from __future__ import annotations

import ctypes
import os
import platform

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
_NEVER = -1
_LARGEST = 32 * 1024**2  # bytes; glibc takes no larger threshold, larger blocks still come and go
_SETTINGS = ("MALLOC_", "GLIBC_TUNABLES")


def keep_freed() -> bool:
    """Lets malloc keep what is freed, in one place for all threads, for the whole process.

    The process then holds on to the most it ever used. Whoever sets malloc by its environment
    (``MALLOC_…``, ``GLIBC_TUNABLES``; mallopt(3)) is left alone.

    Returns:
        Whether malloc does so now.
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith(_SETTINGS) for name in os.environ):
        return False
    set_option = ctypes.CDLL(None).mallopt
    options = (
        (_M_TRIM_THRESHOLD, _NEVER),
        (_M_MMAP_THRESHOLD, _LARGEST),
        # Threads' own arenas would each hold on to what only they can use.
        (_M_ARENA_MAX, 1),
    )
    taken = [set_option(option, value) for option, value in options]
    return all(taken)
