"""Trainings in processes of their own that start in a moment, and records compared bit for bit.

A training is forked from a server that has loaded torch and this package already, but run nothing:
it can be killed like any other, hundreds of times in the time of a few starts of Python.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

import lowrank
from lowrank.runs.format import RecordError

ROOT = Path(__file__).resolve().parent.parent
MEASURED = ("--measure_every_steps=2", "--directions=2")
"""Flags of runs whose every kind of measurement must survive what is done to them."""

TINY = ("--train_size=120", "--width=16", "--depth=2", "--batch_size=32", "--threads=1")

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.running", "tests.warm"])


def piped(words: Sequence[str], directory: Path, **options: Any) -> subprocess.Popen[str]:
    """Starts a program as a process group of its own, whose output is read line by line.

    Args:
        words: The command.
        directory: Where it works.
        **options: Of `subprocess.Popen`, in place of these.
    """
    usual = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(words, cwd=directory, start_new_session=True, **(usual | options))


class Training:
    """A run of train.py.

    Args:
        directory: Where it works.
        flags: Of the command line.
        prepare: Called in the process before the training begins; named in a module.
    """

    def __init__(
        self, directory: Path, *flags: str, prepare: Callable[[], object] | None = None
    ) -> None:
        self.log = directory / "output.txt"
        self.log.unlink(missing_ok=True)
        arguments = (directory, flags, dict(os.environ), self.log, prepare)
        self._process = _CONTEXT.Process(target=_train, args=arguments, daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def kill(self) -> None:
        """Ends it by SIGKILL."""
        self._process.kill()
        self._process.join()

    def signal(self, number: int) -> None:
        """Sends it a signal."""
        os.kill(self.pid, number)

    def ended(self) -> bool:
        """Returns whether it has ended."""
        return not self._process.is_alive()

    def wait(self, seconds: float = 300) -> int:
        """Waits for its end.

        Args:
            seconds: How long at most; then it is killed.

        Returns:
            The exit code, negative after a signal.
        """
        self._process.join(seconds)
        if self._process.is_alive():
            self.kill()
            raise TimeoutError(f"still running after {seconds} s: {self.text}")
        assert self._process.exitcode is not None
        return self._process.exitcode

    @property
    def text(self) -> str:
        """What it has printed so far."""
        return self.log.read_text(encoding="utf-8") if self.log.exists() else ""

    def wait_for_epoch(self, epoch: int, run_dir: Path) -> None:
        """Waits until an epoch is recorded, or it has ended.

        Args:
            epoch: The epoch.
            run_dir: Of its run.
        """
        wait_until(lambda: last_epoch(run_dir) >= epoch or self.ended(), pause=0.002)


def _train(
    directory: Path,
    flags: Iterable[str],
    environ: dict[str, str],
    log: Path,
    prepare: Callable[[], object] | None,
) -> None:
    os.environ.clear()
    os.environ.update(environ)
    os.setpgid(0, 0)  # a signal for the tests is none for it
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT, 0o666)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    sys.stdout = os.fdopen(1, "w", buffering=1, encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, encoding="utf-8", closefd=False)
    os.chdir(directory)
    import train
    from lowrank.runs import environment

    # The uncommitted changes of a checkout would be in every record, whose size is limited here.
    environment._git = lambda *_: None
    if prepare is not None:
        prepare()
    sys.exit(train.main(list(flags)))


def wait_until(true: Callable[[], Any], seconds: float = 300, pause: float = 0.05) -> Any:
    """Waits until something holds.

    Args:
        true: Asks for it.
        seconds: How long at most.
        pause: Between two questions.

    Returns:
        What it answered.

    Raises:
        TimeoutError: If it does not.
    """
    end = time.monotonic() + seconds
    while not (answer := true()):
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds} s")
        time.sleep(pause)
    return answer


def last_epoch(run_dir: Path) -> int:
    """Returns the last epoch of a run's record; -1 where there is none yet."""
    try:
        epochs = lowrank.load_run(run_dir).epochs
    except RecordError:
        return -1
    return int(epochs[-1]) if len(epochs) else -1


def differences(run_dir: Path, other: Path, epochs: int | None = None) -> list[str]:
    """Compares two records bit for bit in everything but times.

    Args:
        run_dir: Of one run.
        other: Of another.
        epochs: Compare only so many epochs, those that the first has.

    Returns:
        The names of what differs.
    """
    one, two = lowrank.load_run(run_dir), lowrank.load_run(other)
    metrics = {name for name in {*one.metrics, *two.metrics} if not is_timing(name)}
    for run in (one, two):
        run.preload(metrics)
    found = [] if one.layers == two.layers else ["layers"]

    def same(first: NDArray[Any] | None, second: NDArray[Any] | None) -> bool:
        return (
            first is not None
            and second is not None
            and (first[:epochs].tobytes() == second[:epochs].tobytes())
        )

    if one.epochs[:epochs].tolist() != two.epochs[:epochs].tolist():
        found.append("epochs")
    found += [name for name in metrics if not same(one.metrics.get(name), two.metrics.get(name))]
    found += [name for name in one.spectra if not same(one.spectra[name], two.spectra.get(name))]
    until = one.epochs[:epochs][-1:].max(initial=-1)
    looks = [
        [
            (name, of.within.epochs[kept].tobytes(), values[kept].tobytes())
            for name, values in of.within.metrics.items()
            for kept in [of.within.epochs < until]
        ]
        for of in (one, two)
    ]
    if looks[0] != looks[1]:
        found.append("within")
    if one.has_directions != two.has_directions:
        return [*found, "directions"]
    return found + [
        f"directions of {layer.name}"
        for layer in (one.layers if one.has_directions else ())
        if not all(map(same, one.directions(layer.name), two.directions(layer.name)))
    ]


def is_timing(name: str) -> bool:
    """Returns whether a metric is a time, which no two runs have in common."""
    return name.startswith(("time/", "throughput/"))
