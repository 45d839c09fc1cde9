"""How much memory this process takes, by Linux's own table.

``getrusage`` would not do: its peak includes what the starting process had, and never falls.
"""

from __future__ import annotations

from pathlib import Path


def resident(field: str = "VmHWM") -> float:
    """Returns a size of this process in MiB.

    Args:
        field: Of ``/proc/self/status``: ``VmRSS`` is the present size, ``VmHWM`` its peak.
    """
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    (line,) = (line for line in lines if line.startswith(f"{field}:"))
    return int(line.split()[1]) / 1024


def forget_peak() -> float:
    """Lets the peak begin again at the present size.

    Returns:
        That size in MiB.
    """
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return resident()
