"""One run of a pack: directory, record, checkpoint, W&B run, and what is known of its epochs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from signal import Signals
from typing import TYPE_CHECKING, Any, Self

from lowrank.common.errors import InputError, out_of_memory
from lowrank.config.families import FAMILIES
from lowrank.config.optimizers import keeps_state
from lowrank.measure.derived import difference
from lowrank.measure.truncation import is_of_truncation
from lowrank.measure.watcher import Watcher
from lowrank.runs import checkpoints
from lowrank.runs.directory import check_origin, check_text, open_record, open_run_directory
from lowrank.runs.environment import trained_together
from lowrank.runs.find import load_run
from lowrank.runs.lost import lost
from lowrank.runs.within import Look
from lowrank.tracking.account import follow_client
from lowrank.tracking.tracker import start_tracking
from lowrank.tracking.upload import finish_tracking, log_recorded, recorded_rows
from lowrank.training import steps
from lowrank.training.pictures import Pictures, pictures
from lowrank.training.schedule import learning_rate, learning_rates

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import torch
    from torch import Tensor, nn

    from lowrank.config import Config
    from lowrank.data import Dataset
    from lowrank.measure.watcher import Measurement
    from lowrank.training.learner import Learner
    from lowrank.training.requests import Request


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        state: As the run record keeps it.
        exit_code: Of the run.
    """

    state: str
    exit_code: int


@dataclass(frozen=True)
class Epoch:
    """What an epoch leaves to be measured and written.

    Attributes:
        number: Epochs trained.
        row: Metrics by W&B's names, but for those of the weights.
        rates: Learning rate of each epoch so far, from 1.
        weights: The matrices, with what is known of them beside; None where this epoch is not
            measured.
        state: For a checkpoint; None where none can be due.
    """

    number: int
    row: Mapping[str, float]
    rates: Sequence[float]
    weights: Mapping[str, Tensor] | None
    state: Mapping[str, Any] | None


class Member:
    """A run, alone or beside others of its pack; a context that holds all that is open of it.

    Args:
        request: What was asked for.
        size: Members of the pack.
        say: Prints a line for the user.

    Attributes:
        directory: The run's.
        config: Complete.
        watcher: Measures its network.
        record: The run record, open.
        theory: What the theory has to say of the run, in lines.
        outcome: How it ended; None while it goes on.
        first_row: Metrics of the first epoch, by W&B's names.
        last_row: Those of the latest.
        is_lost: Whether the network is dead or collapsed.

    Raises:
        InputError: If the directory, W&B or the machine show that the run cannot work.
        Failure: If W&B fails.
    """

    def __init__(self, request: Request, size: int, say: Callable[[str], None]) -> None:
        self.request = request
        self._say = say
        self._open = ExitStack()
        self.outcome: Outcome | None = None
        self._asked: Signals | None = None
        requested = follow_client(request.config, request.variables)
        self.directory = self._open.enter_context(open_run_directory(requested, members=size))
        self.config: Config = self.directory.config
        self.theory: list[str] = []
        self.first_row: Mapping[str, float] = {}
        self.last_row: Mapping[str, float] = {}
        self.is_lost = False
        self._train_accuracies: dict[int, float] = {}
        self._ends: tuple[float, ...] = (0.0, 0.0)
        self._last_state: Mapping[str, Any] | None = None
        self._before: dict[str, Tensor] = {}
        self._looks: list[Look] = []  # within the epoch that is not recorded yet
        self._pictures = Pictures(self.config.figures_every, self.config.epochs, size)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> bool | None:
        return self._open.__exit__(*error)

    @property
    def run_id(self) -> str:
        """Of the run, here and on W&B."""
        return self.directory.run_id

    @property
    def state(self) -> str:
        """How the run ended, as its record keeps it."""
        return self.outcome.state if self.outcome else "running"

    @property
    def exit_code(self) -> int | None:
        """Of the run; None while it goes on."""
        return self.outcome.exit_code if self.outcome else None

    def finish_earlier(self) -> None:
        """Gives W&B what it lacks of a run that has nothing left to do."""
        finish_tracking(self.directory, pictures, self._say)
        self.say_lost()
        self._say(f"run {self.run_id} has ended, nothing is left to do: {self.directory.path}")
        self.outcome = Outcome("finished", 0)
        self._open.close()
        self.request.ended(0)

    def fail(self, error: Exception, exit_code: int) -> None:
        """Ends the run before it has trained; its network stays in the computation.

        Args:
            error: Why.
            exit_code: Of the run.
        """
        self.outcome = Outcome("failed", exit_code)
        self._open.__exit__(type(error), error, error.__traceback__)

    def trained_with(self) -> list[str] | None:
        """Returns the ids of the pack that an earlier process trained; None if none has."""
        if not self.directory.record.exists():
            return None
        run = load_run(self.directory.record)
        return trained_together(run.environment, self.run_id) if len(run.epochs) else None

    def begin(self, device: torch.device, environment: Mapping[str, Any]) -> None:
        """Reads the checkpoint and starts W&B's run.

        Args:
            device: Where the network goes.
            environment: Of this process, for the record.

        Raises:
            InputError: If the checkpoint is unusable, or W&B's settings are.
            Failure: If W&B cannot start the run.
        """
        self.checkpoint = read_checkpoint(self.config, self.directory.checkpoint, device)
        self._environment = environment
        pack = environment.get("pack")
        self.tracker = start_tracking(
            self.config.recorded() | ({"pack": _described(pack)} if pack else {}),
            run_dir=self.directory.path,
            run_id=self.run_id,
            resumed=self.directory.resumed,
            environment=environment,
            variables=self.request.variables,
            stop=self._stop if pack else None,
            say=self._say,
        )
        self._open.push(self._finish)

    def watch(self, network: nn.Module, dataset: Dataset) -> None:
        """Looks at the network, and opens the record.

        Args:
            network: The member's own.
            dataset: What it is trained on.

        Raises:
            InputError: If the record is of another network or another text.
        """
        config = self.config
        check_text(self.directory.record, dataset.name, dataset.text)
        self._num_classes = dataset.num_classes
        self.watcher = Watcher(
            network,
            epsilons=config.epsilons,
            rank_norm=config.rank_norm,
            parts=FAMILIES[config.model].parts,
            quantities=config.quantities,
            directions=config.directions,
            attention_products=config.attention_products,
            spectra_of=config.spectra_of,
            example_input=dataset.example,
            theory={
                "optimizer": config.optimizer,
                "weight_decay": config.weight_decay,
                "momentum": config.momentum,
                "batch_size": config.batch_size,
                "train_size": len(dataset.train),
                "precision": config.precision,
            },
        )
        rates = learning_rates(config, config.epochs)
        if self.watcher.theory is not None and rates:
            self.theory = self.watcher.theory.summary(rates)
        self.record = self._open.enter_context(
            open_record(
                self.directory,
                [*self.watcher.layers, *self.watcher.derived.layers],
                {**self._environment, "theory": self.theory, "text": dataset.text},
            )
        )

    def take_up(self, learner: Learner, index: int, line: Callable[[str], None]) -> bool | None:
        """Takes up the checkpoint where the record before it is whole, else begins anew.

        Args:
            learner: Of the pack, newly initialised.
            index: This member's place in it.
            line: Prints a line.

        Returns:
            Whether the epoch now reached is in the record; None if the run begins anew.

        Raises:
            InputError: If the checkpoint is of another network.
        """
        checkpoint = self.checkpoint
        rows = {} if self.record.last_epoch is None else self._recorded_rows()
        missing = set(range(checkpoint["epoch"])) - rows.keys() if checkpoint else set()
        measured = checkpoint["train_accuracies"] if checkpoint else {}
        # It was measured as the last epoch of a run that is longer now, and not recorded.
        stray = [epoch for epoch in measured if not self.is_measured(epoch)]
        if checkpoint is None or missing or stray:
            if stray:
                line(
                    f"the checkpoint has measured epoch {stray[0]}, as the last one: training "
                    "again from 0"
                )
            elif missing:
                line(f"the record lacks epoch {min(missing)}: training again from 0")
            elif rows:
                line("there is no checkpoint: training again from epoch 0")
            return None
        try:
            learner.load_state_dict(index, checkpoint)
        except RuntimeError as error:  # the same settings, but other images or classes
            raise InputError(
                f"{self.directory.checkpoint} is of another network than model={self.config.model} "
                "is on these images; choose another run_id"
            ) from error
        self.watcher.load_state_dict(checkpoint["watcher"])
        self._train_accuracies = dict(measured)
        self._before = dict(checkpoint.get("before", {}))
        epoch, step = checkpoint["epoch"], checkpoint["step"]
        past = [row for number, row in sorted(rows.items()) if number <= epoch]
        self.first_row, self.last_row = (past[0], past[-1]) if past else ({}, {})
        # A signal may have come between the epoch's last step and its measurement, which the
        # record has of an earlier life: that one went on further, from a checkpoint before.
        complete = not self.is_measured(epoch) or epoch in self._train_accuracies
        recorded = epoch in rows and (complete or step > 0)
        self.is_lost = checkpoint["is_lost"] and recorded  # else it is found out again
        if step > 0 or not recorded:
            self._looks = [Look(*look) for look in checkpoint.get("within", ())]
        if recorded and step == 0 and _was_measured(self.last_row):
            self.watcher.advance()
        return recorded

    def keep_before(self) -> None:
        """Keeps the weights before the epoch's last step, whose update is measured."""
        self._before = {name: weight.clone() for name, weight in self.watcher.weights().items()}

    def left(
        self,
        learner: Learner,
        index: int,
        row: Mapping[str, float],
        gradients: Mapping[str, Tensor] | None = None,
    ) -> Epoch:
        """Returns what the epoch just trained leaves; its tensors go on changing.

        Args:
            learner: Of the pack.
            index: This member's place in it.
            row: The epoch's metrics so far.
            gradients: Of each weight matrix, if they are measured.

        Returns:
            What `close` needs.
        """
        epoch, config = learner.epochs[index], self.config
        weights = None
        if self.is_measured(epoch):
            weights = {name: weight.detach() for name, weight in self.watcher.weights().items()}
            before, named = self._before, self.watcher.derived.named
            updates = {name: difference(weights[name], before[name]) for name in before}
            weights |= named("update", updates) | named("gradient", gradients or {})
        may_end = epoch == config.epochs or config.on_collapse == "stop"
        due = may_end or epoch % config.checkpoint_every == 0
        return Epoch(
            epoch,
            {"epoch": float(epoch), "lr_now": learning_rate(config, max(1, epoch)), **row},
            learning_rates(config, epoch),
            weights,
            self._state(learner, index) if due else None,
        )

    def close(self, epoch: Epoch, measurement: Measurement | None, seconds: float) -> None:
        """Checkpoints, records and logs an epoch.

        Args:
            epoch: What it left.
            measurement: Of its weights; None where it was not measured.
            seconds: That measuring took.

        Raises:
            Failure: If the disk or W&B fails.
        """
        number, row = epoch.number, dict(epoch.row)
        if measurement is not None:
            row["time/spectra"] = seconds
            row |= measurement.metrics
            if row["collapsed"]:  # which is no low rank at which it works
                row |= {name: math.nan for name in row if is_of_truncation(name)}
            self._train_accuracies[number] = row["train_accuracy"]
            dead = steps.is_dead(list(self._train_accuracies.values()), self._num_classes)
            row["dead"] = float(dead)
            self.is_lost = dead or row["collapsed"] > 0
        self.last_row = row
        self.first_row = self.first_row or row
        is_last = number == self.config.epochs or self.stops_by_rule
        if epoch.state is not None and (is_last or number % self.config.checkpoint_every == 0):
            self._save(epoch.state)
            self._last_state = epoch.state if is_last else None
        spectra = {} if measurement is None else measurement.spectra
        directions = None if measurement is None else measurement.directions
        self.record.append(number, row, spectra, directions, self._looks)
        self._looks = []
        self._log(number, row, spectra, is_last)
        if epoch.weights is not None:
            self.watcher.advance(epoch.weights, directions)

    def is_measured(self, epoch: int) -> bool:
        """Returns whether the weights are measured.

        Args:
            epoch: Epochs trained.
        """
        return epoch % self.config.measure_every == 0 or epoch == self.config.epochs

    def note(self, look: Look) -> None:
        """Keeps what was measured within an epoch until it is recorded with that epoch.

        Args:
            look: The measurement.
        """
        self._looks.append(look)

    def is_truncated(self, epoch: int) -> bool:
        """Returns whether the network is evaluated at lower ranks, too.

        Args:
            epoch: Epochs trained.
        """
        every = self.config.truncation_every
        return every is not None and epoch % every == 0

    def interrupt(self, learner: Learner, index: int) -> None:
        """Writes a checkpoint within an epoch.

        Args:
            learner: Of the pack.
            index: This member's place in it.
        """
        self._save(self._state(learner, index))

    def signal(self) -> int | None:
        """Returns the number of the signal that asks this run to end, if there is one."""
        return self._asked or self.request.signal()

    def news(self) -> str | None:
        """Returns a line if matrices have collapsed or the network died in the latest epoch."""
        ends = tuple(self.last_row.get(name, math.nan) for name in ("dead", "collapsed"))
        if any(math.isnan(end) for end in ends) or ends == self._ends:
            return None
        self._ends = ends
        gone = lost(load_run(self.directory.record)) if any(ends) else None
        return None if gone is None else f"no rank any more: {gone.text}"

    def end(self, outcome: Outcome, learner: Learner, index: int) -> None:
        """Ends the run here: state and checkpoint. W&B's run ends with this context.

        Args:
            outcome: How it ended.
            learner: Of the pack.
            index: This member's place in it.
        """
        self.record.set_state(outcome.state)
        if outcome.exit_code == 0:
            self._reduce_checkpoint(self._last_state or self._state(learner, index))
        self._last_state = None
        self.outcome = outcome

    def say_lost(self) -> None:
        """Says it if the run has no rank to speak of, whatever number stands in the table."""
        gone = lost(load_run(self.directory.record))
        if gone is not None:
            self._say(f"\nrun {self.run_id} is {gone.how} and has no rank: {gone.text}\n")

    @property
    def stops_by_rule(self) -> bool:
        """Whether ``on_collapse`` ends the run now."""
        return self.config.on_collapse == "stop" and self.is_lost

    def _stop(self) -> None:
        """Called by W&B's client, in a thread of its own, where the server asks for an end."""
        self._asked = Signals.SIGINT

    def _finish(self, _: object, error: BaseException | None, __: object) -> None:
        """Ends W&B's run, however ours ends."""
        outcome = self.outcome
        if outcome is None:
            outcome = Outcome("failed", 2 if isinstance(error, InputError) else 1)
            if isinstance(error, KeyboardInterrupt):
                outcome = Outcome("stopped", getattr(error, "exit_code", 130))
        self.tracker.finish(self.directory.record, state=outcome.state, exit_code=outcome.exit_code)

    def _recorded_rows(self) -> dict[int, dict[str, float]]:
        """Returns the record's rows by epoch, having logged those that W&B does not hold."""
        run = load_run(self.directory.record)
        log_recorded(run, self.tracker, self.config.epochs, pictures)
        return recorded_rows(run)

    def _log(
        self,
        epoch: int,
        row: Mapping[str, float],
        spectra: Mapping[str, np.ndarray],
        is_last: bool,
    ) -> None:
        """Logs an epoch unless W&B holds it already, some and the last with the run's pictures."""
        held = self.tracker.last_epoch
        if self.tracker.mode == "disabled" or (held is not None and epoch <= held):
            return
        # Offline nobody sees them before the end, which has all that they show.
        meanwhile = self.tracker.mode == "online" and self._pictures.are_due(epoch)
        run = load_run(self.directory.record) if is_last or meanwhile else None
        self.tracker.log(epoch, row, spectra, self._pictures.draw(run) if run else None)

    def _state(self, learner: Learner, index: int) -> dict[str, Any]:
        return {**learner.state_dict(index), **({"before": self._before} if self._before else {})}

    def _save(self, state: Mapping[str, Any]) -> None:
        checkpoints.save(self.directory.checkpoint, self._whole(state))

    def _whole(self, state: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "config": self.config.recorded(),
            **state,
            "watcher": self.watcher.state_dict(),
            "train_accuracies": dict(self._train_accuracies),
            "is_lost": self.is_lost,
            "within": [[look.step, look.steps, dict(look.metrics)] for look in self._looks],
        }

    def _reduce_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Leaves of the last checkpoint what ``keep_checkpoint`` asks for."""
        if self.config.keep_checkpoint == "none":
            self.directory.checkpoint.unlink(missing_ok=True)
        elif self.config.keep_checkpoint == "weights":
            whole = self._whole(state)
            if keeps_state(self.config.optimizer, self.config.momentum):
                del whole["optimizer"]
            whole["watcher"] |= {"previous": {}, "previous_directions": {}}
            whole.pop("before", None)
            checkpoints.save(self.directory.checkpoint, whole)


def read_checkpoint(config: Config, path: Path, device: torch.device) -> dict[str, Any] | None:
    """Reads a run's checkpoint before anything of the run is touched.

    Args:
        config: Of the run.
        path: Of the checkpoint.
        device: Where its tensors go.

    Returns:
        The checkpoint; None where there is none.

    Raises:
        InputError: If it is damaged or of another run, or a finished run is to go on whose
            optimiser state is gone.
    """
    if not path.exists():
        return None
    with out_of_memory(f"{path} does not fit; a machine with more is needed"):
        state = checkpoints.load(path, map_location=device)
    check_origin(path, state.get("config"), config)
    goes_on = state["epoch"] < config.epochs
    if goes_on and "optimizer" not in state and keeps_state(config.optimizer, config.momentum):
        raise InputError(
            f"epochs={config.epochs}: run {path.parent.name} finished and kept only its weights, "
            "but its optimizer needs its state to go on; start a new run with keep_checkpoint=all"
        )
    return state


def _described(pack: Mapping[str, Any]) -> dict[str, Any]:
    """Returns of a pack what W&B's table of runs is to show."""
    return {name: value for name, value in pack.items() if name != "members"}


def _was_measured(row: Mapping[str, float]) -> bool:
    return not math.isnan(row.get("collapsed", math.nan))
