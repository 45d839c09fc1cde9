"""Runs train.py and ends the process after its first optimiser step; `benchmarks.startup` uses it.

Nothing is imported here that train.py would not import, and nothing earlier than it does: modules
are wrapped when train.py has loaded them.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys
import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

spared = 0.0
"""Seconds that evaluation and measurement took."""


def end_at_first_step(learner: Any) -> None:
    """Wraps `Learner.train_epoch`, which says after each step that it was taken.

    Args:
        learner: The class.
    """
    train_epoch = learner.train_epoch

    def end() -> bool:
        print(f'{{"spared": {spared}}}', flush=True)
        os._exit(0)

    learner.train_epoch = lambda self, *_: train_epoch(self, end)


def spare(owner: Any, name: str) -> None:
    """Wraps a method whose time is not to count.

    Args:
        owner: The class.
        name: Of the method.
    """
    method = getattr(owner, name)

    def timed(*arguments: Any, **named: Any) -> Any:
        global spared
        started = time.perf_counter()
        result = method(*arguments, **named)
        spared += time.perf_counter() - started
        return result

    setattr(owner, name, timed)


def wrap_learner(module: ModuleType) -> None:
    """Wraps what `lowrank.training.learner` holds.

    Args:
        module: It.
    """
    end_at_first_step(module.Learner)
    spare(module.Learner, "evaluate")


def wrap_measuring(module: ModuleType) -> None:
    """Wraps what `lowrank.measure.watcher` holds.

    Args:
        module: It.
    """
    spare(module, "measure_all")


WRAPPERS: dict[str, Callable[[ModuleType], None]] = {
    "lowrank.training.learner": wrap_learner,
    "lowrank.measure.watcher": wrap_measuring,
}


class Finder(importlib.abc.MetaPathFinder):
    """Finds modules as usual, and wraps some of them once they are loaded."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Finds the modules to wrap, no others.

        Args:
            fullname: Of the module.
            path: Where its package lies.
            target: A module to reload.

        Returns:
            Its specification; None leaves the module to the finders after this one.
        """
        if fullname not in WRAPPERS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def execute_and_wrap(module: ModuleType) -> None:
            execute(module)
            WRAPPERS[fullname](module)

        spec.loader.exec_module = execute_and_wrap  # type: ignore[method-assign]
        return spec


if __name__ == "__main__":
    sys.meta_path.insert(0, Finder())
    import train

    sys.exit(train.main(sys.argv[1:]))
