"""What malloc does with freed memory: page faults, counted by the system, with and without."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from lowrank.training import allocator

BLOCK = 16 * 1024**2
STEPS, COUNT = 10, 4
HUGE_PAGES = STEPS * COUNT * BLOCK // (2 * 1024**2)  # usual pages are smaller, and more
PROGRAM = f"""
import ctypes
import resource
import torch
from lowrank.training import allocator

for option in (-1, -3):  # as malloc begins, before it adapts: what is large comes and goes
    assert ctypes.CDLL(None).mallopt(option, 128 * 1024)

def step():
    blocks = [torch.ones({BLOCK} // 4) for _ in range({COUNT})]

print(keep())
for _ in range({STEPS}):
    step()  # until what is kept is enough
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({STEPS}):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
with_glibc = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc's malloc is told anything"
)


def page_faults(keep):
    """Returns what ``keep`` answered in a new process, and its faults in ten steps."""
    settings = ("MALLOC_", "GLIBC_TUNABLES")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(settings)}
    program = PROGRAM.replace("keep()", keep)
    command = [sys.executable, "-c", program]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    answer, faults = output.stdout.split()
    return answer, int(faults)


@with_glibc
def test_a_step_takes_no_new_pages_once_freed_memory_is_kept():
    _, faults = page_faults("None")
    assert faults >= HUGE_PAGES
    answer, faults = page_faults("allocator.keep_freed()")
    assert answer == "True"
    assert faults < HUGE_PAGES / 2


@with_glibc
@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"])
def test_settings_in_the_environment_are_left_alone(name, monkeypatch):
    monkeypatch.setenv(name, "1000000")
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: pytest.fail("malloc was told"))
    assert not allocator.keep_freed()


def test_without_glibc_nothing_is_done(monkeypatch):
    monkeypatch.setattr(allocator.platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: pytest.fail("malloc was told"))
    assert not allocator.keep_freed()
