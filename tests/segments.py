"""What W&B's offline segments hold, by the client's own reader."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from wandb.util import get_core_path


def segments(run_dir: Path) -> list[Path]:
    """Returns the offline segments of a run, the oldest first."""
    return sorted(path.parent for path in run_dir.glob("wandb/offline-run-*/run-*.wandb"))


def inspect(segment: Path, *flags: str) -> Any:
    """Returns a segment's records, or with ``--summary`` its summary."""
    (log,) = segment.glob("*.wandb")
    command = [get_core_path(), "leet", "inspect", "--no-observability", "--json", *flags]
    text = subprocess.check_output([*command, "--run-file", log, segment.parent], text=True)
    return json.loads(text if "--summary" in flags else f"[{','.join(text.splitlines())}]")


def records(segment: Path, kind: str) -> list[dict[str, Any]]:
    """Returns a segment's records of one kind, such as ``history`` or ``metric``."""
    return [line[kind] for line in inspect(segment) if line["type"] == kind]
