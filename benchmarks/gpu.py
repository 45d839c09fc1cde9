"""Whether training on a GPU works, in at most eight minutes, the most doubtful first.

    python -m benchmarks.gpu                       # on the card; also `make gpu-check`
    python -m benchmarks.gpu --device=cpu --quick  # only whether the checks run

A check that fails is told, and the next one goes on; what no time is left for is skipped, and told.
The last minutes are for the speed: the rows of `python -m benchmarks --device=cuda`, briefly.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import shlex
import signal
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

from benchmarks.gpu_checks import Check, all_checks
from benchmarks.gpu_programs import NotHereError
from benchmarks.program import ROOT, check_device, describe_place
from lowrank.common.errors import InputError
from lowrank.common.program import exit_code_of
from lowrank.common.terminal import aligned, say

SECONDS = 480.0
"""For everything."""

SPEED = 150.0
"""Of these, the seconds that are left for the speed."""

SPEED_PROGRAMS = ("packs", "spectra", "images")
"""Of `benchmarks.__main__.PROGRAMS`, the quickest first."""

STARTING = 120.0
"""Seconds in which a process may load torch and wake the card, beside those of its checks."""

NO_TIME = "no time is left"

Verdict = Literal["ok", "FAILED", "skipped"]


@dataclass(frozen=True)
class Result:
    """How a check went.

    Attributes:
        name: Of the check.
        verdict: ``skipped`` if there was no time, or not what it needs.
        text: What was found.
        seconds: That it took.
    """

    name: str
    verdict: Verdict
    text: str
    seconds: float


class _Child:
    """A process that makes one check after the other, in a session of its own.

    Args:
        device: Which it wakes.
    """

    def __init__(self, device: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, device))
        self._process.start()
        there.close()
        self._is_ready = False

    def make(self, check: Check, until: float) -> tuple[Verdict, str]:
        """Makes a check.

        Args:
            check: What is asked.
            until: When all must be done, by the monotonic clock.

        Returns:
            How it went.
        """
        try:
            left = until - time.monotonic()
            if not self._is_ready and not self._here.poll(min(STARTING, left)):
                if left < STARTING:
                    return "skipped", NO_TIME
                return "FAILED", f"its process has not started within {STARTING:.0f} s"
            self._is_ready = self._is_ready or bool(self._here.recv())
            self._here.send(check.work)
            seconds = max(0.0, min(check.seconds, until - time.monotonic()))
            if not self._here.poll(seconds):
                return "FAILED", f"not done within {seconds:.0f} s"
            verdict, text = self._here.recv()
        except (EOFError, OSError):
            self._process.join()
            return "FAILED", f"its process died with exit code {self._process.exitcode}"
        return verdict, text

    def end(self) -> None:
        """Ends the process and what it has started."""
        if self._process.pid is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()  # if it has no session yet
        self._process.join()
        self._here.close()


def _serve(connection: Connection, device: str) -> None:
    """Makes checks until nobody asks any more."""
    os.setsid()
    if device != "cpu":
        import torch

        torch.zeros(1, device=device)
    connection.send(True)
    with suppress(EOFError):
        while True:
            work = connection.recv()
            try:
                connection.send(("ok", work()))
            except NotHereError as missing:
                connection.send(("skipped", str(missing)))
            except Exception as error:  # whatever it is, the others are to be seen
                told = str(error).strip().splitlines()
                text = f"{type(error).__name__}: {told[0] if told else ''}"
                connection.send(("FAILED", text))


def go_through(checks: Mapping[str, Check], seconds: float, device: str) -> list[Result]:
    """Makes one check after the other, whatever becomes of those before.

    They share a process, as to load torch and to wake a card takes long. After a failure there is a
    new one: an error of the device may break its context for all that follows.

    Args:
        checks: By name.
        seconds: For all.
        device: ``cuda`` or ``cpu``.

    Returns:
        How each went.
    """
    until, results = time.monotonic() + seconds, []
    child: _Child | None = None
    try:
        for name, check in checks.items():
            began = time.monotonic()
            verdict: Verdict = "skipped"
            text = NO_TIME
            if began < until:
                child = child or _Child(device)
                verdict, text = child.make(check, until)
                if verdict == "FAILED":
                    child.end()
                    child = None
            results.append(Result(name, verdict, text, time.monotonic() - began))
            say(f"{verdict:7} {name}: {text}")
    finally:
        if child is not None:
            child.end()
    return results


def lacking() -> list[str]:
    """Returns the requirements of this package that are not installed, whatever their versions."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = []
    for requirement in project["dependencies"]:
        try:
            version(re.split(r"[^A-Za-z0-9._-]", requirement)[0])
        except PackageNotFoundError:
            found.append(requirement)
    return found


def table_of(results: Sequence[Result]) -> str:
    """Lays results out for a terminal: a line each, and how many are of which kind.

    Args:
        results: Of all checks.

    Returns:
        The lines.
    """
    rows = [(r.name, r.verdict, f"{r.seconds:.1f} s", r.text) for r in results]
    counts = [f"{sum(r.verdict == v for r in results)} {v}" for v in ("ok", "FAILED", "skipped")]
    return "\n".join([*aligned(rows, left=range(4)), "", ", ".join(counts)])


def measure_speed(device: str, seconds: float) -> int:
    """Measures the rows of the benchmarks, briefly, and writes them into their table.

    Args:
        device: Whose.
        seconds: For all.

    Returns:
        The exit code, as `benchmarks.__main__.fill_in` gives it.
    """
    from benchmarks.__main__ import fill_in

    return fill_in(SPEED_PROGRAMS, device, [f"--device={device}", "--brief"], seconds)


def main(argv: Sequence[str] | None = None) -> int:
    """Checks, and says how it went.

    Args:
        argv: The arguments; by default those of the process.

    Returns:
        The exit code: 0; 1 if a check failed; 2 if the device or a package is not there. A target
        that is missed is told and is no failure.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="only whether the checks run")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for everything")
    parser.add_argument("--json", type=Path, help="file for the results of the checks")
    given = parser.parse_args(argv)

    def work() -> int:
        if wheels := lacking():
            listed = shlex.join(wheels)
            raise InputError(
                f"not installed: {listed}; where there is a network, `pip download --no-deps "
                f"--dest=wheels {listed}`, and here `pip install --no-deps wheels/*`"
            )
        check_device(given.device)
        until = time.monotonic() + given.seconds
        has_speed = given.device == "cuda" and not given.quick
        checks = all_checks(given.device, quick=given.quick)
        results = go_through(checks, given.seconds - (SPEED if has_speed else 0), given.device)
        place = describe_place(given.device)
        if given.json is not None:  # before the speed, which may be cut off
            found = {"place": place, "checks": [asdict(result) for result in results]}
            given.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
        if has_speed:
            measure_speed(given.device, until - time.monotonic())
        print(f"\n{table_of(results)}\n\n{place}", flush=True)
        return int(any(result.verdict == "FAILED" for result in results))

    return exit_code_of("benchmarks.gpu", work)


if __name__ == "__main__":
    sys.exit(main())
