"""``lowrank sweep``: its flags, and from a sweep file to runs."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lowrank.common.errors import InputError
from lowrank.common.signals import Interruption
from lowrank.common.terminal import say
from lowrank.common.texts import printable
from lowrank.config import Config, Given, allowed
from lowrank.config.flags import read_flags
from lowrank.config.settings import FREE_ON_RESUME, with_role
from lowrank.config.sources import bad_values, of_machine
from lowrank.config.sweepfile import load_sweep_file
from lowrank.config.values import read_value
from lowrank.launch.programs import PROGRAM, find_program
from lowrank.launch.slots import ALLOWED, Slot, find_slots
from lowrank.launch.sweeps.identity import Identity, begin
from lowrank.launch.sweeps.search import Search
from lowrank.launch.sweeps.storage import file_url, open_storage, without_password
from lowrank.launch.sweeps.study import SweepStudy, Tally

OWN = {
    "gpus": ALLOWED,
    "per_gpu": "a whole number of at least 1",
    "storage": "an address such as postgresql://user@host/database",
    "count": "a whole number of at least 1",
    "search_seed": "a whole number of at least 0",
    "max_retries": "a whole number of at least 0",
    "heartbeat": "a whole number of seconds of at least 1",
    "dry_run": "True or False",
}
"""The command's own flags and what they take; all others are fields of the configuration."""

MOST_LOST = 20
"""Dead and collapsed points that are named at the end."""


@dataclass(frozen=True)
class Options:
    """What the command line asks for.

    Attributes:
        file: The sweep file.
        overrides: Fields that have one value at every point.
        gpus: For `find_slots`.
        per_gpu: For `find_slots`.
        storage: Address of the points' storage; None is a SQLite file in ``output_dir``.
        count: The most points, in place of the file's ``run_cap``.
        search_seed: Of random and Bayesian search.
        max_retries: How often a failed point is run again.
        heartbeat: Seconds between signs of life; None takes the sweep's.
        dry_run: Whether to list points only.
    """

    file: str
    overrides: Mapping[str, str] = field(default_factory=dict)
    gpus: str = "auto"
    per_gpu: int = 1
    storage: str | None = None
    count: int | None = None
    search_seed: int | None = None
    max_retries: int = 2
    heartbeat: int | None = None
    dry_run: bool = False


def parse(arguments: Sequence[str]) -> Options:
    """Reads the command line of ``lowrank sweep``.

    Args:
        arguments: The words after the subcommand.

    Returns:
        The options.

    Raises:
        InputError: With a line for each thing that is wrong.

    Example:
        >>> options = parse(["sweeps/lr.yaml", "--epochs=5", "--per_gpu=2", "--dry_run"])
        >>> options.file, dict(options.overrides), options.per_gpu, options.dry_run
        ('sweeps/lr.yaml', {'epochs': '5'}, 2, True)
    """
    lines: list[str] = []
    files, given = _read_words(arguments, lines)
    if len(files) != 1:
        lines.append("which sweep file? for example: lowrank sweep sweeps/lr.yaml --epochs=5")
    own: dict[str, Any] = {}
    for name, least in (("per_gpu", 1), ("count", 1), ("search_seed", 0), ("max_retries", 0),
                        ("heartbeat", 1)):  # fmt: skip
        if name in given:
            own[name] = _whole(name, given.pop(name), least, lines)
    for name in ("gpus", "storage"):
        if name in given:
            own[name] = given.pop(name)
    try:
        own["dry_run"] = read_value(bool, given.pop("dry_run", "False"))
    except ValueError:
        lines.append("dry_run: allowed: True or False")
    for name in with_role("identity"):
        if name in given:
            lines.append(f"{name}: lowrank sweep sets it for each point; leave it out")
            del given[name]
    lines += bad_values({n: Given(value, f"--{n}") for n, value in given.items()}).values()
    if lines:
        raise InputError(lines)
    return Options(file=files[0], overrides=given, **own)


def run(options: Options) -> int:
    """Runs what is missing of a sweep.

    Args:
        options: What is asked for.

    Returns:
        The exit code: 0 if every point is done, 1 if some failed too often, 130 and 143 by signal.

    Raises:
        InputError: If file, flags or the stored sweep cannot be used.
        Failure: If the workers or the storage fail.
    """
    sweep = load_sweep_file(options.file)
    if "output_dir" in sweep.parameters:
        raise InputError(f"{sweep.path}: output_dir is no parameter here; give --output_dir=DIR")
    search = Search(sweep, options.overrides, count=options.count)
    if options.dry_run:
        return _list_points(search, options.search_seed)
    program = find_program(sweep.path)
    slots = find_slots(options.gpus, options.per_gpu)
    with Interruption() as interruption:
        return _run(search, options, program, slots, interruption)


def _run(
    search: Search,
    options: Options,
    program: Path,
    slots: Sequence[Slot],
    interruption: Interruption,
) -> int:
    """Starts workers, opens the storage and runs what is missing.

    Returns:
        The exit code.
    """
    from lowrank.launch.sweeps.launcher import Launcher
    from lowrank.launch.sweeps.pool import workers_on
    from lowrank.launch.sweeps.presence import Presence
    from lowrank.launch.sweeps.progress import Progress

    sweep, output_dir = search.sweep, _output_dir(options)
    url = options.storage or file_url(_storage_file(output_dir, sweep.name))
    presence = Presence(output_dir)
    try:
        # The workers load torch while this process loads Optuna.
        with workers_on(slots, program, output_dir / "logs") as workers:
            storage = open_storage(url)
            study, identity = begin(
                storage,
                sweep.name,
                direction=search.direction,
                definition=_definition(search),
                search_seed=options.search_seed,
                heartbeat=options.heartbeat,
            )
            points = SweepStudy(storage, study, identity, search, presence, options.max_retries)
            points.fill()
            swept = [name for name in search.space() if name not in options.overrides]
            names = [slot.name for slot in slots]
            with Progress(names, swept, search.metric, output_dir) as progress:
                _introduce(search, identity, url, slots, progress.line)
                launcher = Launcher(
                    points,
                    workers,
                    output_dir=output_dir,
                    arguments=_arguments(search, output_dir),
                    progress=progress,
                    interruption=interruption,
                )
                with interruption.deferred():
                    tally = launcher.run()
    finally:
        presence.leave()
    return _conclude(search, points, tally, output_dir, interruption)


def _introduce(
    search: Search,
    identity: Identity,
    url: str,
    slots: Sequence[Slot],
    line: Callable[[str], None],
) -> None:
    """Says what is run, where and where from."""
    sweep = search.sweep
    how = sweep.method
    if sweep.method != "grid":
        how += f" search with search_seed {identity.search_seed}"
    line(f"sweep {sweep.name}: {search.size} points, {how}, on {', '.join(s.name for s in slots)}")
    line(f"runs {identity.prefix}-NNNN, points in {without_password(url)}")


def _conclude(
    search: Search,
    points: SweepStudy,
    tally: Tally,
    output_dir: Path,
    interruption: Interruption,
) -> int:
    """Says how the sweep ended and what is left to do.

    Returns:
        The exit code.
    """
    name = search.sweep.name
    for number, ended in sorted(tally.failed.items()):
        say(f"\n{points.run_id(number)} failed too often, see {ended.log}")
        for line in ended.why.splitlines():
            say(f"    {line}")
    for number, ended in sorted(tally.lost.items())[:MOST_LOST]:
        say(f"{points.run_id(number)} is {ended.why}")
    if len(tally.lost) > MOST_LOST:
        say(f"... and {len(tally.lost) - MOST_LOST} more")
    lost = "".join(f", {n} of them {how}" for how, n in sorted(tally.losses.items()))
    failed = f", {len(tally.failed)} failed" if tally.failed else ""
    say(f"sweep {name}: {tally.done} of {tally.size} points done{lost}{failed}")
    if tally.failed:
        say("a larger --max_retries tries the failed points again")
    if not tally.settled:
        say("the same command again runs what is missing")
    elif _tracking(search) == "offline":
        runs = shlex.quote(str(output_dir))
        say(f"upload them with: lowrank sync {runs}/{points.run_id(0)[:-4]}*")
    if interruption.signal is not None:
        return interruption.exit_code
    return 1 if tally.failed else 0


def _list_points(search: Search, seed: int | None) -> int:
    """Prints the commands of the points that are known beforehand.

    Returns:
        The exit code 0.
    """
    sweep = search.sweep
    say(f"sweep {sweep.name}: {search.size} points, {sweep.method}")
    known = sweep.method == "grid" or (sweep.method == "random" and seed is not None)
    if not known:
        why = "with --search_seed=N" if sweep.method == "random" else "as results come in"
        say(f"a {sweep.method} search finds its points {why}")
        return 0
    for number in range(search.size):
        params, _ = search.propose(number, seed or 0)
        words = [*sweep.command(search.point(params), search.overrides), *_tracked(search)]
        say(f"{number:>4}  {shlex.join(['python', PROGRAM, *words])}")
    return 0


def _arguments(search: Search, output_dir: Path) -> list[str]:
    """Returns the flags of every run besides its point's and its id."""
    arguments = [*_tracked(search), f"--sweep={search.sweep.name}"]
    if "output_dir" not in search.overrides:
        arguments.append(f"--output_dir={output_dir}")
    return arguments


def _tracked(search: Search) -> list[str]:
    """Returns the flags that say how runs are tracked, but for those given by hand or file."""
    sweep = search.sweep
    flags = {"tracking": "offline", "group": sweep.name}
    flags |= {name: sweep.raw[name] for name in ("project", "entity") if sweep.raw.get(name)}
    given = {*search.overrides, *sweep.parameters}
    return [f"--{name}={value}" for name, value in flags.items() if name not in given]


def _tracking(search: Search) -> str:
    given = search.overrides.get("tracking")
    return given if isinstance(given, str) else "offline"


def _definition(search: Search) -> dict[str, Any]:
    """Returns what decides a sweep's points, as JSON types, without what may differ by machine."""
    raw = search.sweep.raw
    overrides = {
        name: read_value(Config.model_fields[name].annotation, value)
        for name, value in search.overrides.items()
        if name not in FREE_ON_RESUME
    }
    return {
        "method": raw["method"],
        "metric": raw.get("metric"),
        "parameters": dict(raw["parameters"]),
        "overrides": json.loads(json.dumps(overrides)),
    }


def _output_dir(options: Options) -> Path:
    return Path(options.overrides.get("output_dir") or of_machine("output_dir")).expanduser()


def _storage_file(output_dir: Path, name: str) -> Path:
    return output_dir / f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', name)}.sqlite"


def _read_words(arguments: Sequence[str], lines: list[str]) -> tuple[list[str], dict[str, str]]:
    """Tells files from flags.

    Returns:
        The files, and every flag's value.
    """
    fields = Config.model_fields
    switches = ["dry_run", *(name for name in fields if fields[name].annotation is bool)]
    values = {name: _allowed(name) for name in (*OWN, *fields) if name not in switches}
    return read_flags(arguments, values, switches, lines)


def _allowed(name: str) -> str:
    return OWN[name] if name in OWN else allowed(name)


def _whole(name: str, text: str, least: int, lines: list[str]) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        lines.append(f"{name}: got '{printable(text)}'; allowed: {OWN[name]}")
    return number
