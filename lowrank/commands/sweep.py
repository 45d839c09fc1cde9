"""``lowrank sweep``: a W&B sweep file, run without a server."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import field_validator

from lowrank.common.terminal import say
from lowrank.config.options import Options, option, settings, word
from lowrank.config.packs import LARGEST
from lowrank.config.settings import with_role
from lowrank.config.sweepfile import load_sweep_file
from lowrank.launch.slots import ALLOWED


class Sweep(Options):
    """What ``lowrank sweep`` is asked for."""

    file: str = word(
        "FILE", "", "which sweep file? for example: lowrank sweep sweeps/lr.yaml --epochs=5"
    )
    overrides: Mapping[str, str] = settings(
        "a field of the configuration, at every point",
        **dict.fromkeys(
            with_role("identity"), "lowrank sweep sets it for each point; leave it out"
        ),
    )
    gpus: str = option(
        "auto",
        "{default} (default), all, none, or numbers such as 0,1",
        "LIST",
        ALLOWED,
    )
    per_gpu: int = option(
        1, "runs at once on each GPU, or on the CPU; default {default}", "N", ge=1
    )
    pack: str | None = option(
        None,
        "how many points train as one computation that differ only in lr and its\nschedule, "
        "weight_decay, momentum and seed: auto, as many as memory allows (default on GPUs); off "
        "(default on a CPU); or at most N",
        "auto|off|N",
        f"auto, off, or a whole number from 1 to {LARGEST}",
    )
    dry_run: bool = option(
        False, "lists the points, their commands and packs, and says how many count already"
    )
    status: bool = option(
        False,
        "says how the sweep stands, from another terminal: points by state, "
        "what runs and the best; nothing is started or changed",
    )
    storage: str | None = option(
        None,
        "where the points are kept; default a SQLite file in output_dir;\nmachines share a sweep "
        "through postgresql:// or mysql://",
        "URL",
        "an address such as postgresql://user@host/database",
    )
    missing_from: str | None = option(
        None,
        "runs only what is missing there: points that ran to their end in such "
        "directories, W&B sweeps or projects count as done",
        "PATH,...",
        "directories of runs, or W&B's ENTITY/PROJECT[/SWEEP], separated by commas",
    )
    count: int | None = option(None, "the most points, in place of the file's run_cap", "N", ge=1)
    search_seed: int | None = option(None, "makes random and Bayesian search repeatable", "N", ge=0)
    max_retries: int = option(
        2, "how often a failed point is run again; default {default}", "N", ge=0
    )
    heartbeat: int | None = option(
        None,
        "signs of life of a launcher; three missed: it is dead; default 20",
        "SEC",
        "a whole number of seconds of at least 1",
        ge=1,
    )
    column = 18
    notes = """\
Exit codes: 0 every point is done, 1 some failed too often (they are listed),
2 bad input, 130 and 143 by signal: running points stop at a checkpoint.
"""

    @field_validator("pack")
    @classmethod
    def _is_size(cls, pack: str) -> str:
        is_number = pack.isascii() and pack.isdigit() and 1 <= int(pack) <= LARGEST
        if pack not in ("auto", "off") and not is_number:
            raise ValueError("no size of a pack")
        return pack


def run(options: Sweep) -> int:
    """Runs what is missing of a sweep.

    Args:
        options: What is asked for.

    Returns:
        The exit code: 0 if every point is done, 1 if some failed too often, 130 and 143 by signal.

    Raises:
        InputError: If file, flags or the stored sweep cannot be used.
        Interrupted: At a second signal, which waits for no checkpoint.
    """
    from lowrank.launch.sweeps.search import Search

    has_end = options.count is not None
    sweep = load_sweep_file(options.file, without_server=options.overrides, has_end=has_end)
    search = Search(sweep, options.overrides, count=options.count)
    if options.status:
        from lowrank.launch.sweeps.standing import Standing
        from lowrank.launch.sweeps.status import status_lines
        from lowrank.launch.sweeps.storage import output_dir_of, stored_at

        standing = Standing(search, stored_at(search, options.storage), as_stored=True)
        for line in status_lines(standing, output_dir_of(search), options.max_retries):
            say(line)
        return 0

    from lowrank.common.signals import Interrupted, Interruption
    from lowrank.launch.layers import OF_A_STEP, check_metric, networks_of
    from lowrank.launch.slots import find_slots
    from lowrank.launch.sweeps.room import check_room
    from lowrank.launch.sweeps.run import list_points, run_sweep

    check_metric(search.metric, networks_of(sweep.parameters, options.overrides))
    pack = int(options.pack) if options.pack and options.pack.isdigit() else options.pack
    missing_from = [path for path in (options.missing_from or "").split(",") if path]
    slots = find_slots(options.gpus, options.per_gpu)
    if options.dry_run:
        list_points(search, options.search_seed, slots, pack, options.storage, missing_from)
        return 0
    with Interruption() as interruption:
        packs = pack not in ("off", 1) and sweep.early_terminate is None
        if not packs:  # they are as large as memory allows
            check_room(slots, networks_of(sweep.parameters, options.overrides, OF_A_STEP), say)
        try:
            return run_sweep(
                search,
                slots,
                interruption,
                storage_url=options.storage,
                search_seed=options.search_seed,
                max_retries=options.max_retries,
                heartbeat=options.heartbeat,
                pack=pack,
                missing_from=missing_from,
            )
        except Interrupted:  # a second signal, or one before the first point
            say("the same command again runs what is missing")
            raise
