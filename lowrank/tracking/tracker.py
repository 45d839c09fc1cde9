"""Weights & Biases: one run tracked online or offline, continued where it stopped, never twice."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import shlex
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lowrank.common.errors import first_line
from lowrank.runs.directory import ENDED
from lowrank.runs.environment import DIFF_LIMIT
from lowrank.runs.find import load_run
from lowrank.runs.format import RecordError
from lowrank.runs.lost import lost
from lowrank.tracking import segments
from lowrank.tracking.account import check_identity, choose_mode
from lowrank.tracking.files import image, requirements, save, save_text, send_record
from lowrank.tracking.rows import RowLogger
from lowrank.tracking.segments import TrackingError

if TYPE_CHECKING:
    import wandb
    from matplotlib.figure import Figure

__all__ = ["Tracker", "TrackingError", "start_tracking"]

GRAPHQL_RETRIES = 6
"""Attempts after the first, 2 + 4 + 8 + 16 + 32 + 60 s apart. W&B's 20 are 16 minutes."""

FINISH_TIMEOUT = 350.0
"""Seconds for the last upload. An artifact that waits for a server that is down is not counted in
it but fails after two requests, about 250 s: together they are the ten minutes of a run's end."""


class Tracker:
    """Tracks nothing: what ``tracking=disabled`` gives, and the interface of all trackers.

    Attributes:
        mode: ``online``, ``offline`` or ``disabled``.
        last_epoch: Last epoch that W&B holds of this run; None if it holds none. The caller logs
            the record's later epochs first, then goes on.
        url: The run's page, if it has one.
    """

    mode = "disabled"
    last_epoch: int | None = None
    url: str | None = None

    @property
    def sync_command(self) -> str | None:
        """The shell command that uploads what W&B's server lacks; None if it lacks nothing."""
        return None

    def log(
        self,
        epoch: int,
        metrics: Mapping[str, float],
        spectra: Mapping[str, NDArray[np.float64]],
        figures: Mapping[str, Figure] | None = None,
    ) -> None:
        """Logs one epoch as one row, on disk within a second.

        Args:
            epoch: Greater than that of the last row, and than ``last_epoch``.
            metrics: Numbers by name. What is not finite is left out, and taken out of the run's
                summary: the table of runs must not show a rank from before a collapse.
            spectra: Singular values, shape (k,) or (N, k), by layer name; logged as
                ``spectrum/<layer>`` unless that layer collapsed.
            figures: By name; logged as images in the same row.

        Raises:
            TrackingError: If W&B's process on this machine has died.
        """

    def write(self, text: str) -> None:
        """Adds text to the run's log page.

        Args:
            text: One or more lines.
        """

    def finish(self, record: Path, state: str, exit_code: int = 0) -> None:
        """Ends the run: notes how it ended, uploads the record and waits for the upload.

        What W&B does not take is said in one line and is no error: the record is complete.

        Args:
            record: The run record, closed and in its final state; if it exists it becomes the
                artifact ``run-record-<run_id>``.
            state: How the run ended; in the run's summary as ``state``, which is ``dead`` or
                ``collapsed`` where that is how its network ended.
            exit_code: Of the process; other than 0 W&B shows the run as failed.
        """


class WandbTracker(Tracker):
    """A run that W&B tracks. `start` makes it."""

    def __init__(
        self,
        run: wandb.Run,
        run_dir: Path,
        *,
        last_epoch: int | None,
        rank_norm: str,
        say: Callable[[str], None],
    ) -> None:
        self.mode = "offline" if run.offline else "online"
        self.last_epoch = last_epoch
        self.url = None if run.offline else run.url
        self._run = run
        self._run_dir = run_dir
        self._say = say
        self._segment = Path(run.settings.sync_dir)
        self._incomplete = False
        self._rows = RowLogger(run, rank_norm=rank_norm)

    @property
    def sync_command(self) -> str | None:
        lacks = self.mode == "offline" or self._incomplete
        return shlex.join(["lowrank", "sync", os.path.relpath(self._run_dir)]) if lacks else None

    def log(
        self,
        epoch: int,
        metrics: Mapping[str, float],
        spectra: Mapping[str, NDArray[np.float64]],
        figures: Mapping[str, Figure] | None = None,
    ) -> None:
        images = {name: image(figure) for name, figure in (figures or {}).items()}
        try:
            self._rows.log({**metrics, "epoch": epoch}, spectra, step=epoch, more=images)
        except _failures() as error:
            raise TrackingError(
                f"W&B cannot log epoch {epoch}: {first_line(error)}; nothing recorded is lost, "
                f"start the same command again with --run_id={self._run.id}"
            ) from error

    def write(self, text: str) -> None:
        self._run.write_logs(text)

    def finish(self, record: Path, state: str, exit_code: int = 0) -> None:
        import wandb

        try:
            try:
                self._upload(record, state)
            finally:
                self._run.finish(exit_code=exit_code)
        except _failures() as error:
            late = isinstance(error, TimeoutError)
            what = "everything in time" if late else "the end of the run"
            self._say_incomplete(what, first_line(error), record)
            if isinstance(error, _deaths()):
                # Else wandb does so at the program's end, with a traceback, and no other run of
                # this program could be tracked.
                with contextlib.suppress(*_failures(), SystemExit):
                    wandb.teardown()
        else:
            reasons = segments.failed_uploads(self._segment) if self.mode == "online" else []
            if reasons:
                self._say_incomplete("everything", reasons[0], record)
            else:
                with contextlib.suppress(OSError, RecordError):  # a full disk: it is asked again
                    if self.mode == "online":
                        for log in segments.find(self._run_dir, self._run.id):
                            segments.mark_synced(log.parent, self._run.id)
                        if record.exists():
                            segments.uploaded(self._run_dir).write_text(load_run(record).updated)
                    segments.unfinished(self._run_dir).unlink(missing_ok=True)

    def _say_incomplete(self, what: str, reason: str, record: Path) -> None:
        self._incomplete = True
        rest = f"; the record holds all of it, upload it with: {self.sync_command}"
        # What failed before it recorded anything leaves no directory.
        self._say(f"W&B did not take {what} ({reason}){rest if record.exists() else ''}")

    def _upload(self, record: Path, state: str) -> None:
        import wandb

        with contextlib.suppress(RecordError):
            gone = lost(load_run(record)) if record.exists() else None
            if gone is not None:
                self._run.summary["lost"] = gone.text
                state = gone.how if state in ENDED else state
        self._run.summary["state"] = state
        if record.exists() and self.mode == "offline":
            # The log of an artifact names its file by an absolute path, so that `wandb sync` would
            # look in vain for it in a directory that was moved. Files of a run it names relatively.
            send_record(self._run, record)
        elif record.exists():
            artifact = wandb.Artifact(f"run-record-{self._run.id}", type="run-record")
            with segments.staging_in(self._segment):
                artifact.add_file(str(record), skip_cache=True)
            artifact.finalize()
            # Online, log_artifact asks the server without any limit of time, and what it sends is
            # not kept in the segment: in an outage the record would be lost to `wandb sync`.
            assert self._run._interface is not None
            self._run._interface.publish_artifact(self._run, artifact, ["latest"])


def start_tracking(
    config: Mapping[str, Any],
    *,
    run_dir: Path,
    run_id: str,
    resumed: bool,
    environment: Mapping[str, Any],
    is_over: bool = False,
    say: Callable[[str], None] = print,
    variables: Mapping[str, str] = os.environ,
    stop: Callable[[], None] | None = None,
) -> Tracker:
    """Begins or continues the W&B run. Never prompts.

    A process may have many at once, each with variables of its own.

    Args:
        config: The validated configuration: it becomes the run's config, and its fields
            ``tracking``, ``project``, ``entity``, ``group``, ``tags``, ``name`` and ``rank_norm``
            say how the run is tracked.
        run_dir: The run's directory; W&B's files go to ``<run_dir>/wandb``.
        run_id: The run's id, here and on W&B.
        resumed: Whether the directory held a run before: then a run of this id on the server is
            continued; otherwise what that run holds is W&B's to keep or to drop.
        environment: What the run's record holds of where it ran. W&B gets its ``diff``, which
            ``wandb restore`` applies.
        is_over: Whether the run ended earlier: then this process and machine are not its own.
        say: Prints a line for the user.
        variables: W&B's (``WANDB_…``) that decide the run's identity there.
        stop: Called, in another thread, if the server asks the run to stop; by default the process
            gets SIGINT.

    Returns:
        The tracker, which also tells where to continue.

    Raises:
        InputError: If the run should be online but no API key is configured, or W&B is told
            something about its identity that the directory contradicts.
        TrackingError: If W&B refuses the run, cannot be reached within 90 s
            (``WANDB_INIT_TIMEOUT``), or an earlier segment cannot be read.
    """
    mode = choose_mode(config["tracking"], say, variables)
    if mode == "disabled":
        return Tracker()
    import wandb

    check_identity(
        run_id,
        project=config["project"],
        entity=config["entity"],
        online=mode == "online",
        resumed=resumed,
        variables=variables,
    )
    run_dir.mkdir(parents=True, exist_ok=True)
    settings = wandb.Settings()
    settings.update_from_env_vars(dict(variables))
    ours = wandb.Settings(
        # The default of 15 s is what a kill -9 would cost.
        x_transaction_log_flush_interval=1,
        # Wrapped, every frame of a progress bar would become a record; `write` has the lines.
        console="off",
        x_graphql_retry_max=GRAPHQL_RETRIES,
        finish_timeout=FINISH_TIMEOUT,
        finish_timeout_raises=True,
        use_dot_wandb=False,
        x_save_requirements=False,  # done below, in a fifth of the time
        show_info=False,
        quiet=True,
    )
    if stop is not None:
        ours.stop_fn = lambda: stop()  # copied with the settings, whole, if it were a method
    if is_over:
        ours.x_disable_stats = ours.x_disable_meta = True
        ours.host, ours.git_commit = environment.get("host"), environment.get("commit")
    settings.update_from_settings(ours)
    place: dict[str, Any] = {"project": config["project"], "entity": config["entity"], "id": run_id}
    if variables.get("WANDB_SWEEP_ID"):
        place = {}  # the agent has decided, by these variables
    # Of a sweep that the whole process is of, the client would take every run's id and values.
    shared = wandb.setup().settings
    shared.sweep_id = shared.sweep_param_path = settings.sweep_param_path = None
    kept = segments.kept_files(run_dir, run_id)
    held = None
    if mode == "offline":
        steps = [segments.last_step(log) for log in segments.find(run_dir, run_id)]
        held = max((step for step in steps if step is not None), default=None)
    run = None
    try:
        run = wandb.init(
            **place,
            mode=mode,
            dir=str(run_dir.resolve()),  # wandb-core may have started in another directory
            config={**segments.sweep_parameters(variables), **config},
            group=config["group"],
            tags=list(config["tags"]) or None,
            name=config["name"],
            resume="allow" if resumed and mode == "online" else None,
            reinit="create_new",  # a run that the caller of `main` has open is not ours to take
            settings=settings,
        )
        for handler in logging.getLogger("wandb").handlers:
            # Its log lies beside the run. Where the disk is full, Python prints a traceback for
            # each line that cannot be written there.
            handler.handleError = lambda record: None  # type: ignore[method-assign]  # noqa: ARG005
        if is_over:
            for file in kept:
                save(run, file.name, functools.partial(shutil.copyfile, file))
        else:
            save_text(run, "requirements.txt", requirements())
        diff = environment.get("diff")
        if diff and len(diff) <= DIFF_LIMIT:  # a longer one was cut
            save_text(run, "diff.patch", diff)
        segments.unfinished(run_dir).touch()
    except (wandb.Error, ValueError, OSError) as error:
        if run is not None:  # else wandb would end it with the program, and advise to upload it
            with contextlib.suppress(*_failures()):
                run.finish(exit_code=1)
        hint = "" if mode == "offline" else "; --tracking=offline trains without it"
        raise TrackingError(f"W&B could not start the run: {first_line(error)}{hint}") from error
    if mode == "online":
        held = run.starting_step - 1 if run.resumed and run.starting_step else None
        say(f"W&B: {run.url}")
    return WandbTracker(
        run,
        run_dir,
        last_epoch=held,
        rank_norm=config["rank_norm"],
        say=say,
    )


def _deaths() -> tuple[type[Exception], ...]:
    """Returns what the client raises when wandb-core, its process on this machine, has died."""
    from wandb.sdk.mailbox import HandleAbandonedError, MailboxClosedError

    return ConnectionError, HandleAbandonedError, MailboxClosedError


def _failures() -> tuple[type[Exception], ...]:
    """Returns all that the client raises when it cannot go on."""
    import wandb

    return wandb.Error, OSError, *_deaths()
