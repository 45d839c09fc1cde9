"""What W&B lacks of a recorded run, taken from its record: epochs, pictures, an end, all of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from lowrank.runs.directory import ENDED
from lowrank.runs.find import load_run
from lowrank.tracking import segments
from lowrank.tracking.tracker import start_tracking

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lowrank.runs.directory import RunDirectory
    from lowrank.runs.reader import Run
    from lowrank.tracking.tracker import Tracker

Pictures = Callable[["Run"], "Mapping[str, Figure]"]
"""What draws the pictures that W&B gets with the last epoch, by their names there."""


def upload(
    run: Run, config: Mapping[str, Any], pictures: Pictures, say: Callable[[str], None]
) -> Tracker:
    """Gives W&B what it lacks of a run that nobody is working on.

    Args:
        run: Read from the record in its run directory.
        config: The run's configuration; its tracking fields say where it goes.
        pictures: Draws the run's pictures.
        say: Prints a line for the user.

    Returns:
        The tracker that did it, finished; its ``sync_command`` is None if W&B lacks nothing now.
    """
    tracker = start_tracking(
        config,
        run_dir=run.path.parent,
        run_id=run.id,
        resumed=True,
        environment=run.environment,
        is_over=True,
        say=say,
    )
    ended = run.state in ENDED
    log_recorded(run, tracker, int(run.epochs[-1]) if ended and len(run.epochs) else -1, pictures)
    tracker.finish(run.path, state=run.state, exit_code=0 if ended else 1)
    return tracker


def is_uploaded(run: Run) -> bool:
    """Returns whether W&B's server has all of a run, as far as this directory tells.

    Args:
        run: Read from the record in its run directory.
    """
    try:
        return segments.uploaded(run.path.parent).read_text("utf-8") == run.updated
    except (OSError, ValueError):
        return False


def finish_tracking(
    directory: RunDirectory, pictures: Pictures, say: Callable[[str], None]
) -> None:
    """Gives W&B what it lacks of a run that has ended, if its process was killed before it did.

    Args:
        directory: Of the run.
        pictures: Draws the run's pictures.
        say: Prints a line for the user.
    """
    config = directory.config
    if config.tracking == "disabled" or not segments.unfinished(directory.path).exists():
        return
    say("W&B does not have the end of the run yet")
    tracker = upload(load_run(directory.record), config.recorded(), pictures, say)
    if tracker.sync_command:
        say(f"upload it with: {tracker.sync_command}")


def log_recorded(run: Run, tracker: Tracker, last: int, pictures: Pictures) -> None:
    """Logs those epochs of a record that W&B does not hold.

    Args:
        run: Read from the record.
        tracker: Afterwards it holds all of them.
        last: The run's last epoch, with which its pictures are logged.
        pictures: Draws them.
    """
    held = -1 if tracker.last_epoch is None else tracker.last_epoch
    if tracker.mode == "disabled" or not len(run.epochs) or run.epochs[-1] <= held:
        return
    spectra = {name: run.spectra[name] for name in run.spectra}
    for place, (epoch, row) in enumerate(recorded_rows(run).items()):
        if epoch > held:
            drawn = pictures(run) if epoch == last else None
            tracker.log(epoch, row, {name: s[place] for name, s in spectra.items()}, drawn)
    tracker.last_epoch = int(run.epochs[-1])


def recorded_rows(run: Run) -> dict[int, dict[str, float]]:
    """Returns the metrics of every epoch of a record, by epoch.

    Args:
        run: Read from the record.
    """
    metrics = {name: run.metrics[name] for name in run.metrics}
    return {
        epoch: {name: float(values[place]) for name, values in metrics.items()}
        for place, epoch in enumerate(run.epochs.tolist())
    }
