"""Runs every benchmark in a process of its own, and writes one table into benchmarks/README.md.

By default all on the CPU (`make bench`). `--quick` tells only whether they run, one for each core
at a time; `--device=cuda` fills the GPU's columns and keeps the CPU's; `--only=images,memory`
measures some programs again and keeps the others.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

from benchmarks import table
from benchmarks.program import add_flags, check_device, describe_place
from benchmarks.table import Results
from benchmarks.timing import Row
from lowrank.common.errors import InputError
from lowrank.common.program import exit_code_of
from lowrank.common.terminal import duration, say
from lowrank.common.texts import nearest, one_of
from lowrank.runs.environment import available_cores

CUT_OFF = 124
"""Exit code of a program that had no more time, as that of timeout(1)."""

HERE = Path(__file__).resolve().parent
PROGRAMS = {
    "cpu": ("spectra", "images", "packs", "earlier", "epoch_cost", "startup", "memory", "sweep"),
    "cuda": ("spectra", "images", "packs"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmarks.

    Args:
        argv: The arguments; by default those of the process.

    Returns:
        The exit code: 0; 1 if a program failed or, unless quick, a target is missed; 2 on bad
        input.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__.splitlines()[0]
    )
    add_flags(parser)
    parser.add_argument("--only", help="names of programs with commas between them")
    options = parser.parse_args(argv)
    return exit_code_of("benchmarks", lambda: _run(options))


def choose(only: str | None, device: str) -> list[str]:
    """Returns the programs to run.

    Args:
        only: Names with commas between them; None chooses all of the device.
        device: ``cpu`` or ``cuda``.

    Returns:
        Their names, in the order of the table.

    Raises:
        InputError: If a name is unknown.
    """
    known = PROGRAMS[device]
    if only is None:
        return list(known)
    asked = only.split(",")
    unknown = [name for name in asked if name not in known]
    if unknown:
        raise InputError(
            f"only={name!r} is not known{nearest(name, known)} (allowed: {one_of(known)})"
            for name in unknown
        )
    return [name for name in known if name in asked]


def run_program(
    name: str,
    flags: Sequence[str],
    output: IO[str] | None = None,
    seconds: float | None = None,
) -> tuple[list[Row], int]:
    """Runs one program.

    Args:
        name: Of the program.
        flags: For it.
        output: Where it prints; None: where this process does.
        seconds: After which it is ended; None: never.

    Returns:
        The rows that it came to, and its exit code, `CUT_OFF` if it was ended.
    """
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "rows.json"
        command = [sys.executable, "-m", f"benchmarks.{name}", *flags, f"--rows={file}"]
        try:
            code = subprocess.run(
                command, cwd=HERE.parent, stdout=output, stderr=output, check=False, timeout=seconds
            ).returncode
        except subprocess.TimeoutExpired:
            code = CUT_OFF
        found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    return [Row.from_json(row) for row in found], code


def _run(options: argparse.Namespace) -> int:
    check_device(options.device)
    names = choose(options.only, options.device)
    flags = [f"--device={options.device}"]
    flags += [f"--data_dir={options.data_dir}"] if options.data_dir else []
    if options.quick:
        return _try_out(names, [*flags, "--quick"])
    flags += ["--brief"] if options.brief else []
    return fill_in(names, options.device, flags)


def fill_in(
    names: Sequence[str], device: str, flags: Sequence[str], seconds: float | None = None
) -> int:
    """Runs programs one after the other and writes what they measure into the table.

    Args:
        names: Of the programs.
        device: Whose columns are filled.
        flags: For the programs.
        seconds: For all of them; None: as long as they take. Of a program that does not come to
            its end the rows are kept that it came to, unless there are more of an earlier time.

    Returns:
        The exit code: 0; 1 if a program failed or was cut off, or a target is missed.
    """
    results = table.load(HERE / "results.json")
    earlier = {name: of.seconds for name, of in results[device].items()}
    failed, measured, started = [], [], time.perf_counter()
    for place, name in enumerate(names):
        say(f"\n[{place + 1}/{len(names)}] {name}{_left(names[place:], earlier)}")
        before = time.perf_counter()
        left = None if seconds is None else max(0.0, seconds - (before - started))
        rows, code = run_program(name, flags, seconds=left)
        taken = time.perf_counter() - before
        least = 1
        if code != int(any(row.met is False for row in rows)):  # with which one ends that is whole
            how = "had no more time" if code == CUT_OFF else f"failed with exit code {code}"
            failed.append(f"{name} {how}, after {len(rows)} rows")
            least = max(least, len(results[device][name].rows) if name in results[device] else 0)
        if len(rows) >= least:
            results[device][name] = Results(describe_place(device), taken, rows)
            measured += rows
    say(f"\n{len(names)} programs in {duration(time.perf_counter() - started)}")
    for line in failed:
        print(f"benchmarks: {line}", file=sys.stderr)
    order = {name: place for place, name in enumerate(PROGRAMS["cpu"])}
    for each, of in results.items():
        results[each] = dict(sorted(of.items(), key=lambda item: order[item[0]]))
    table.save(HERE / "results.json", results)
    table.write_readme(HERE / "README.md", results)
    say(f"{table.markdown(results)}\n\nwritten: benchmarks/README.md and results.json beside it")
    missed = [row.what for row in measured if row.met is False]
    for what in missed:
        say(f"missed: {what}")
    return int(bool(failed or missed))


def _try_out(names: Sequence[str], flags: Sequence[str]) -> int:
    """Runs programs side by side, as nothing is judged; shows the output of those that fail.

    Returns:
        The exit code: 0, or 1 if one failed.
    """

    def succeeds(name: str) -> bool:
        started = time.perf_counter()
        with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
            rows, code = run_program(name, flags, output)
            output.seek(0)
            printed = output.read()
        taken = duration(time.perf_counter() - started)
        end = f"{len(rows)} rows in {taken}" if rows else f"failed with exit code {code}"
        say(f"{name}: {end}" if rows else f"{printed}\n{name}: {end}")
        return bool(rows)

    with ThreadPoolExecutor(available_cores()) as pool:
        return int(not all(list(pool.map(succeeds, names))))


def _left(names: Sequence[str], earlier: dict[str, float]) -> str:
    """Returns the time left by what the programs took last time, if that is known."""
    if any(name not in earlier for name in names):
        return ""
    return f", about {duration(sum(earlier[name] for name in names))} left"


if __name__ == "__main__":
    sys.exit(main())
