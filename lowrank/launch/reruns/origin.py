"""What a run ran on, and where that differs from here: one line for each part of it."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from lowrank.common.texts import printable

PACKAGES = ("python", "torch", "torchvision", "numpy", "wandb", "lowrank")
UNKNOWN = "unknown"
_COMMIT = re.compile(r"[0-9a-f]{7,64}")


def facts(environment: Mapping[str, Any]) -> dict[str, str]:
    """Returns in words what decides the numbers of a run, by its name.

    Args:
        environment: As `lowrank.runs.environment.describe_environment` gives it, or an older or
            odd one: what is not in it is unknown.

    Returns:
        Texts that fit a line each.

    Example:
        >>> facts({"device": "cpu", "threads": 2, "image": None, "diff": ""})["threads"]
        '2'
    """
    versions = environment.get("versions")
    versions = versions if isinstance(versions, Mapping) else {}
    diff, image = environment.get("diff"), environment.get("image", UNKNOWN)
    changes = "none" if diff == "" else UNKNOWN
    if isinstance(diff, str) and diff:
        crc = zlib.crc32(diff.encode(errors="replace"))
        changes = f"{len(diff.splitlines())} lines of diff, CRC-32 {crc:08x}"
    elif diff is None and image not in (None, UNKNOWN):
        changes = "those of the image"
    return {
        "commit": _text(environment.get("commit")),
        "uncommitted changes": changes,
        **{package: _text(versions.get(package)) for package in PACKAGES},
        "device": _text(environment.get("device")),
        "processor": _text(environment.get("device_name")),
        "threads": _text(environment.get("threads")),
        "image": "none" if image is None else _text(image),
    }


def summary(environments: Sequence[Mapping[str, Any]]) -> list[str]:
    """Says where a run comes from.

    Args:
        environments: Of every process that worked on it, in order.

    Returns:
        Lines.
    """
    found = _over_sessions(environments)
    versions = ", ".join(f"{package} {found[package]}" for package in PACKAGES)
    return [
        f"  commit {found['commit']}, uncommitted changes: {found['uncommitted changes']}",
        f"  {versions}",
        f"  device {found['device']} ({found['processor']}), threads {found['threads']}, "
        f"image {found['image']}",
    ]


def warnings(environments: Sequence[Mapping[str, Any]], here: Mapping[str, Any]) -> list[str]:
    """Says where this process differs from those that made a run.

    Args:
        environments: Of every process that worked on the run, in order.
        here: That of this process.

    Returns:
        A line for each difference; also where it is not known whether there is one.

    Example:
        >>> old, new = {"versions": {"torch": "2.11.0"}}, {"versions": {"torch": "2.14.1"}}
        >>> [line for line in warnings([old], new) if "torch:" in line]
        ['warning: torch: 2.11.0 in the original, 2.14.1 here']
    """
    now = facts(here)
    lines = []
    for name, before in _over_sessions(environments).items():
        if before == now[name] != UNKNOWN:
            continue
        hint = ""
        if name == "commit" and _COMMIT.fullmatch(before):
            hint = f"; git checkout {before} brings the original's code back"
        elif name == "uncommitted changes" and "lines of diff" in before:
            hint = "; the original's are its record's environment['diff']"
        lines.append(f"warning: {name}: {before} in the original, {now[name]} here{hint}")
    return lines


def _over_sessions(environments: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Returns the facts of a run; where its processes differ, one after the other."""
    found = [facts(environment) for environment in environments] or [facts({})]
    return {name: ", then ".join(dict.fromkeys(each[name] for each in found)) for name in found[0]}


def _text(value: Any) -> str:
    return UNKNOWN if value is None else printable(str(value), 100)
