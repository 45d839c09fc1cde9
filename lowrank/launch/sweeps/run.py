"""A sweep without a server, from its points to their runs and what is said of them."""

from __future__ import annotations

import math
import os
import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from lowrank.common.errors import InputError
from lowrank.common.signals import Interruption
from lowrank.common.terminal import say
from lowrank.config.sweepfile import Distribution
from lowrank.config.sweepfile.parameters import values_of
from lowrank.launch.programs import PROGRAM, find_program
from lowrank.launch.slots import Slot
from lowrank.launch.sweeps.best import best_lines
from lowrank.launch.sweeps.elsewhere import found_in
from lowrank.launch.sweeps.growth import definition_of, grow, growth_lines, search_of
from lowrank.launch.sweeps.identity import Identity, begin
from lowrank.launch.sweeps.launcher import Launcher
from lowrank.launch.sweeps.packs import AUTO, OFF, Packs
from lowrank.launch.sweeps.points import Tally
from lowrank.launch.sweeps.pool import workers_on
from lowrank.launch.sweeps.presence import Presence
from lowrank.launch.sweeps.progress import Progress
from lowrank.launch.sweeps.pruning import Pruner, Pruning
from lowrank.launch.sweeps.search import Search
from lowrank.launch.sweeps.standing import Standing, contradicting
from lowrank.launch.sweeps.storage import (
    file_url,
    open_storage,
    output_dir_of,
    storage_file,
    stored_at,
    without_password,
)
from lowrank.launch.sweeps.study import SweepStudy
from lowrank.tracking.segments import uploaded
from lowrank.training.schedule import planned_efolds

MOST_LOST = 20
"""Dead, collapsed and pruned points that are named at the end."""


def run_sweep(
    search: Search,
    slots: Sequence[Slot],
    interruption: Interruption,
    *,
    storage_url: str | None = None,
    search_seed: int | None = None,
    max_retries: int = 2,
    heartbeat: int | None = None,
    pack: str | int | None = None,
    missing_from: Sequence[str] = (),
) -> int:
    """Starts workers, opens the storage and runs what is missing.

    Args:
        search: The sweep's points.
        slots: Where they run.
        interruption: Ends it in order.
        storage_url: Where points are kept; None is a SQLite file in ``output_dir``.
        search_seed: Of random and Bayesian search.
        max_retries: How often a failed point is run again.
        heartbeat: Seconds between signs of life; None takes the sweep's.
        pack: How many points train as one: ``auto``, ``off`` or a number; None takes what pays
            on such slots.
        missing_from: Where runs are that count as points.

    Returns:
        The exit code: 0 if every point is done, 1 if some failed too often, 130 and 143 by signal.
    """
    sweep = search.sweep
    tracked = _tracking(search) != {"disabled"}
    above = sweep.path.resolve().parent
    program = find_program(Path.cwd(), above, above.parent, command="lowrank sweep")
    output_dir = output_dir_of(search)
    url = storage_url or file_url(storage_file(search))
    packs = _packs(search, pack, slots)
    pruning = None
    if sweep.early_terminate is not None:
        pruning = Pruning(sweep.early_terminate, search.metric, search.direction)
    presence = Presence(output_dir)
    try:
        # The workers load torch while this process loads Optuna.
        with workers_on(slots, program, output_dir / "logs", tracked=tracked) as workers:
            storage = open_storage(url)
            study, identity, has_grown = begin(
                storage,
                sweep.name,
                direction=search.direction,
                definition=definition_of(search),
                search_seed=search_seed,
                heartbeat=heartbeat,
                contradictions=partial(contradicting, search),
            )
            before = [search_of(each, sweep) for each in identity.definitions[:-1]]
            if before:
                grow(search, before)
            points = SweepStudy(storage, study, identity, search, presence, max_retries, packs)
            points.fill()
            counted: list[str] = []
            if missing_from:
                ends, counted = found_in(search, missing_from)
                points.credit(ends)
            swept = [name for name in search.space() if name not in search.overrides]
            names = [slot.name for slot in slots]
            with Progress(names, swept, search.metric, output_dir) as progress:
                points.undecided()  # reads what is decided
                _introduce(packs, search, identity, url, slots, progress.line)
                for line in [*(growth_lines(search, before[-1]) if has_grown else ()), *counted]:
                    progress.line(line)
                launcher = Launcher(
                    points,
                    workers,
                    output_dir=output_dir,
                    arguments=_arguments(search, output_dir),
                    progress=progress,
                    interruption=interruption,
                    pruner=None if pruning is None else Pruner(pruning, points.trials),
                )
                with interruption.deferred():
                    tally = launcher.run()
    finally:
        presence.leave()
    return _conclude(search, points, tally, output_dir, interruption)


def _packs(search: Search, pack: str | int | None, slots: Sequence[Slot]) -> Packs:
    """Returns how points are packed: by default as pays, on GPUs.

    Raises:
        InputError: If single members would have to end early.
    """
    if search.sweep.early_terminate is not None:
        if pack not in (None, OFF):
            raise InputError(f"pack: got {pack}; allowed: off, as early_terminate ends single runs")
        return Packs(search, OFF)
    if pack is None:
        pack = AUTO if any(slot.visible is not None for slot in slots) else OFF
    return Packs(search, pack)


def _introduce(
    packs: Packs,
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
    line(f"{_sized(search, packs)}, {how}, on {', '.join(s.name for s in slots)}")
    for told in [*packs.told(), *_notes(search)]:
        line(told)
    line(f"runs {identity.prefix}-NNNN, points in {without_password(url)}")


def _sized(search: Search, packs: Packs) -> str:
    in_packs = f" in {packs.described()}" if packs.on else ""
    return f"sweep {search.sweep.name}: {search.size} points{in_packs}"


def _notes(search: Search) -> list[str]:
    return search.notes + [
        f"LOWRANK_{name.upper()} of the environment sets {name}={value} at every point"
        for name, value in search.environment.items()
    ]


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
    alike: dict[tuple[str, str], list[int]] = {}  # a pack that failed as a whole
    for number, ended in sorted(tally.failed.items()):
        alike.setdefault((ended.log, ended.why), []).append(number)
    for (log, why), numbers in alike.items():
        names = ", ".join(map(points.run_id, numbers))
        say(f"\n{names} failed too often, see {log}")
        for line in why.splitlines():
            say(f"    {line}")
    for number, ended in sorted(tally.lost.items())[:MOST_LOST]:
        say(f"{points.run_id(number)} is {ended.why}")
    if len(tally.lost) > MOST_LOST:
        say(f"... and {len(tally.lost) - MOST_LOST} more")
    lost = "".join(f", {n} of them {how}" for how, n in sorted(tally.losses.items()))
    failed = f", {len(tally.failed)} failed" if tally.failed else ""
    say(f"sweep {name}: {tally.done} of {tally.size} points done{lost}{failed}")
    for line in best_lines(search, points.points(), output_dir, points.prefix):
        say(line)
    if tally.done:
        place = shlex.quote(os.path.relpath(output_dir))
        say(f"see them with: lowrank report {place} --sweep={shlex.quote(name)} -o report.html")
    if tally.failed:
        say("a larger --max_retries tries the failed points again")
    if not tally.settled:
        say("the same command again runs what is missing")
    elif _waiting(output_dir, points.prefix):
        say(f"upload them with: lowrank sync {shlex.quote(str(output_dir))}/{points.prefix}-*")
    if interruption.signal is not None:
        return interruption.exit_code
    return 1 if tally.failed else 0


def list_points(
    search: Search,
    seed: int | None,
    slots: Sequence[Slot],
    pack: str | int | None,
    storage_url: str | None = None,
    missing_from: Sequence[str] = (),
) -> None:
    """Prints the commands of the points that are known beforehand, and their packs.

    Args:
        search: The sweep's points.
        seed: Of random search.
        slots: Where they would run.
        pack: As for `run_sweep`. Memory is that of now and this machine.
        storage_url: As for `run_sweep`. What counts already is said; nothing is changed there.
        missing_from: As for `run_sweep`.
    """
    counted = Standing(search, stored_at(search, storage_url), seed).counted()
    if missing_from:
        counted += found_in(search, missing_from)[1]
    sweep, packs = search.sweep, _packs(search, pack, slots)
    if undecided := packs.undecided(seed or 0):
        from lowrank.launch.sweeps.worker import estimate

        sharing = sum(slot.visible == slots[0].visible for slot in slots)
        members = estimate({kind: words for kind, (words, _) in undecided.items()}, sharing)
        packs.decide(undecided, members["members"], len(slots))
    for line in [f"{_sized(search, packs)}, {sweep.method}", *counted, *_notes(search)]:
        say(line)
    known = sweep.method == "grid" or (sweep.method == "random" and seed is not None)
    if not known:
        why = "with --search_seed=N" if sweep.method == "random" else "as results come in"
        say(f"a {sweep.method} search finds its points {why}")
        return
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    notes: list[str] = []
    points = {
        number: search.point(number, search.propose(number, seed or 0).params)
        for number in range(search.size)
    }
    of = {n: f"{i:>4}" for i, members in enumerate(packs.of(points)) for n in members}
    for number, point in points.items():
        words = [*sweep.command(point, search.overrides), *_tracked(search)]
        column = ""
        if packs.on:
            column = "  alone    " if number in packs.reasons else f"  pack {of[number]}"
        folds = planned_efolds(sweep.config(point, search.overrides, notes))
        column += "  e-folds    -" if math.isnan(folds) else f"  e-folds {folds:>4.3g}"
        say(f"{number:>4}{column}  {shlex.join(['python', PROGRAM, *words])}")
    for told in packs.told():
        say(told)
    for note, count in Counter(notes).items():
        say(f"at {count} {'point' if count == 1 else 'points'} {note}")


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
    given = {*search.overrides, *sweep.fixed, *sweep.swept}
    return [f"--{name}={value}" for name, value in flags.items() if name not in given]


def _tracking(search: Search) -> set[str]:
    """Returns how the sweep's runs are tracked."""
    if "tracking" in search.overrides:
        return {str(search.overrides["tracking"])}
    parameter = search.sweep.parameters.get("tracking")
    if parameter is None or isinstance(parameter, Distribution):
        return {str(search.sweep.fixed.get("tracking", "offline"))}
    return {str(value) for value in values_of(parameter)}


def _waiting(output_dir: Path, prefix: str) -> bool:
    """Returns whether there are runs here that W&B may not have: tracked, and not uploaded."""
    tracked = (path.parent.parent for path in output_dir.glob(f"{prefix}-*/wandb/offline-run-*"))
    return any(not uploaded(directory).exists() for directory in tracked)
