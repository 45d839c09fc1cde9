"""Experiment tracking for the rank of neural networks.

Names are loaded on first use, so that ``import lowrank`` costs nothing and a
command line with a mistake in it is answered before torch is imported.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lowrank.matrices import WeightMatrix, describe, weight_matrices
    from lowrank.measuring import Watcher
    from lowrank.runs import Run, load_run, load_sweep
    from lowrank.watcher import watch

__all__ = [
    "Run",
    "Watcher",
    "WeightMatrix",
    "describe",
    "load_run",
    "load_sweep",
    "watch",
    "weight_matrices",
]

_HOME = {
    "Run": "runs",
    "Watcher": "measuring",
    "WeightMatrix": "matrices",
    "describe": "matrices",
    "load_run": "runs",
    "load_sweep": "runs",
    "watch": "watcher",
    "weight_matrices": "matrices",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'lowrank' has no attribute {name!r}")
    return getattr(importlib.import_module(f"lowrank.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
