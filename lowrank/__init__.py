"""Experiment tracking for the rank of neural networks.

Names are loaded on first use, so that ``import lowrank`` costs nothing and a
command line with a mistake in it is answered before torch is imported.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lowrank.measure import bounds, positions, ranks, spectra, theory
    from lowrank.measure.matrices import WeightMatrix, describe, weight_matrices
    from lowrank.measure.watcher import Watcher
    from lowrank.runs.compressed import load_compressed
    from lowrank.runs.find import load_run, load_sweep
    from lowrank.runs.reader import Run
    from lowrank.watch import watch

__all__ = [
    "Run",
    "Watcher",
    "WeightMatrix",
    "bounds",
    "describe",
    "load_compressed",
    "load_run",
    "load_sweep",
    "positions",
    "ranks",
    "spectra",
    "theory",
    "watch",
    "weight_matrices",
]

_HOME = {
    "Run": "runs.reader",
    "Watcher": "measure.watcher",
    "WeightMatrix": "measure.matrices",
    "describe": "measure.matrices",
    "load_compressed": "runs.compressed",
    "load_run": "runs.find",
    "load_sweep": "runs.find",
    "watch": "watch",
    "weight_matrices": "measure.matrices",
}
_MODULES = {
    "bounds": "measure.bounds",
    "positions": "measure.positions",
    "ranks": "measure.ranks",
    "spectra": "measure.spectra",
    "sweepfile": "config.sweepfile",
    "theory": "measure.theory",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"lowrank.{_MODULES[name]}")
    if name not in _HOME:
        raise AttributeError(f"module 'lowrank' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"lowrank.{_HOME[name]}"), name)
    globals()[name] = value  # also where a module of this name was set by its import
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


class _Shortcuts(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Lets ``from lowrank.bounds import …`` find what lies in a room, as documents show it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        package, _, name = fullname.partition(".")
        if package != "lowrank" or name not in _MODULES:
            return None
        return importlib.util.spec_from_loader(fullname, self)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(f"lowrank.{_MODULES[spec.name.partition('.')[2]]}")
        self._own = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._own  # it is the room's module, under another name


sys.meta_path.append(_Shortcuts())
