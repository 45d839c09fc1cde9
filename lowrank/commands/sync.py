"""``lowrank sync``: uploads runs to W&B from their records, whatever became of W&B's own files."""

from __future__ import annotations

import os
from pathlib import Path

from lowrank.common.errors import Failure, InputError, refuse
from lowrank.common.terminal import say
from lowrank.common.texts import printable
from lowrank.config.options import Options, word

OF_ONE_RUN = ("RUN_ID", "RESUME", "RESUME_FROM", "FORK_FROM", "SWEEP_ID", "SWEEP_PARAM_PATH")
"""Variables of W&B's (``WANDB_…``) that speak of one run, not of these."""


class Sync(Options):
    """What ``lowrank sync`` is asked for."""

    paths: tuple[str, ...] = word(
        "PATH",
        "a run directory, or a directory of runs",
        "which runs? for example: lowrank sync runs",
    )
    notes = """\
What W&B has is not sent again. Exit codes: 0 W&B has all of every run, 1 not
of every one (they are listed), 2 bad input, 130 and 143 by signal.
"""


def run(options: Sync) -> int:
    """Uploads every run that W&B does not have in whole.

    Args:
        options: What is asked for.

    Returns:
        The exit code 0.

    Raises:
        InputError: If there is no such directory or no run, or no usable API key is configured.
        Failure: If one of them is not there now.
    """
    from lowrank.runs.find import find_runs
    from lowrank.runs.lock import lock
    from lowrank.tracking.account import choose_mode
    from lowrank.tracking.upload import is_uploaded, upload
    from lowrank.views.figures import final_figures

    paths = [Path(path) for path in options.paths]
    refuse(
        f"'{printable(str(path), 200)}': there is no such directory; give a run directory, or a "
        "directory of them"
        for path in paths
        if not path.is_dir()
    )
    for name in OF_ONE_RUN:
        os.environ.pop(f"WANDB_{name}", None)
    choose_mode("online", say)
    found = [find_runs(path) for path in paths]
    runs = {run.path.resolve(): run for some, _ in found for run in some}
    problems = [line for _, errors in found for error in errors for line in error.lines]
    if not runs and not problems:
        raise InputError(f"there is no run in {', '.join(str(path) for path in paths)}")
    for run in runs.values():
        if is_uploaded(run):
            say(f"run {run.id}: W&B has it already")
            continue
        try:
            held = lock(run.path.parent)
            try:
                tracker = upload(run, run.config | {"tracking": "online"}, final_figures, say)
            finally:
                held.release()
        except (InputError, Failure) as error:
            problems += error.lines
        else:
            if tracker.sync_command:
                problems.append(f"run {run.id}: W&B did not take all of it")
            else:
                say(f"run {run.id}: uploaded, {len(run.epochs)} epochs, {run.state}")
    if problems:
        raise Failure(problems)
    return 0
