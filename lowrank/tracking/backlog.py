"""What W&B lacks of a recorded run: epochs that were not logged, an end that was not uploaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from lowrank.runs.find import Run, load_run
from lowrank.tracking import segments
from lowrank.tracking.tracker import start_tracking

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lowrank.runs.directory import RunDirectory
    from lowrank.tracking.tracker import Tracker

Pictures = Callable[[Run], "Mapping[str, Figure]"]
"""What draws the pictures that W&B gets with the last epoch, by their names there."""


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
    rows = recorded_rows(run)
    spectra = {layer.name: run.spectra[layer.name] for layer in run.layers}
    for place, (epoch, row) in enumerate(rows.items()):
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
    tracker = start_tracking(
        config.recorded(), run_dir=directory.path, run_id=directory.run_id, resumed=True, say=say
    )
    run = load_run(directory.record)
    log_recorded(run, tracker, int(run.epochs[-1]), pictures)
    tracker.finish(directory.record, state=run.state)
    if tracker.sync_command:
        say(f"upload it with: {tracker.sync_command}")
