"""The loop of one run: train, evaluate, measure, checkpoint, record, log; and how it goes on."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lowrank.common.errors import InputError, out_of_memory
from lowrank.measure.matrices import describe
from lowrank.measure.ranks import quantity_of
from lowrank.measure.watcher import Watcher
from lowrank.runs import checkpoints
from lowrank.runs.directory import check_origin
from lowrank.runs.find import load_run
from lowrank.runs.lost import lost
from lowrank.runs.writer import Record
from lowrank.tracking.upload import log_recorded, recorded_rows
from lowrank.training import steps
from lowrank.training.console import Console, layer_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lowrank.common.signals import Interruption
    from lowrank.config import Config
    from lowrank.measure.ranks import Quantity
    from lowrank.runs.directory import RunDirectory
    from lowrank.runs.reader import Run
    from lowrank.tracking.tracker import Tracker
    from lowrank.training.learner import Learner


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        state: As the run record keeps it.
        exit_code: Of the process.
    """

    state: str
    exit_code: int


def read_checkpoint(directory: RunDirectory, device: torch.device) -> dict[str, Any] | None:
    """Reads a run's checkpoint before anything of the run is touched.

    Args:
        directory: Of the run.
        device: Where its tensors go.

    Returns:
        The checkpoint; None where there is none.

    Raises:
        InputError: If it is damaged or of another run, or a finished run is to go on whose
            optimiser state is gone.
    """
    config = directory.config
    if not directory.checkpoint.exists():
        return None
    with out_of_memory(f"{directory.checkpoint} does not fit; a machine with more is needed"):
        state = checkpoints.load(directory.checkpoint, map_location=device)
    check_origin(directory.checkpoint, state.get("config"), config)
    goes_on = state["epoch"] < config.epochs
    if goes_on and "optimizer" not in state and _optimizer_keeps_state(config):
        raise InputError(
            f"epochs={config.epochs}: run {directory.run_id} finished and kept only its weights, "
            "but its optimizer needs its state to go on; start a new run with keep_checkpoint=all"
        )
    return state


class Trainer:
    """Takes one run to its end: what its learner learns is measured, kept, recorded and logged.

    Args:
        directory: Where record and checkpoint lie; its configuration is complete.
        learner: The networks, newly initialised, with their data.
        tracker: Logs each epoch to W&B.
        interruption: Tells when to stop.
    """

    def __init__(
        self,
        directory: RunDirectory,
        learner: Learner,
        tracker: Tracker,
        interruption: Interruption,
    ) -> None:
        self.config = config = directory.config
        self.directory = directory
        self.learner = learner
        self.dataset = dataset = learner.dataset
        self.tracker = tracker
        self.interruption = interruption
        self.watcher = Watcher(
            learner.networks[0],
            epsilons=config.epsilons,
            rank_norm=config.rank_norm,
            example_input=dataset.train.images[:1].float(),
            theory={
                "optimizer": config.optimizer,
                "weight_decay": config.weight_decay,
                "momentum": config.momentum,
                "batch_size": config.batch_size,
                "train_size": len(dataset.train),
            },
        )
        self.console = Console(
            epochs=config.epochs,
            steps=len(learner.batches),
            batch_size=config.batch_size,
            echo=tracker.write,
        )
        self.first_row: dict[str, float] = {}
        self.last_row: dict[str, float] = {}
        self.train_accuracies: dict[int, Quantity] = {}
        self.is_lost = False
        self._ends = (0.0, 0.0)

    def train(self, record: Record, checkpoint: Mapping[str, Any] | None) -> Outcome:
        """Goes on from a checkpoint, or begins, until the end, a stop by rule or a signal.

        Args:
            record: Of this run; its state follows the outcome.
            checkpoint: The run's latest, from `read_checkpoint`.

        Returns:
            How the run ended.

        Raises:
            Failure: If memory or disk is exhausted.
        """
        self.record = record
        remedy = (
            f"batch_size={self.config.batch_size} does not fit; a smaller batch in a new "
            "run, or a machine with more memory for the same command, is needed"
        )
        with self.console, self.interruption.deferred(), out_of_memory(remedy):
            outcome = self._go_on(checkpoint)
        record.set_state(outcome.state)
        if outcome.exit_code == 0:
            self._reduce_checkpoint()
        return outcome

    def table(self) -> str:
        """Returns a table of every layer's rank at the start and now."""
        return layer_table(self.watcher.layers, self.first_row, self.last_row)

    def _go_on(self, checkpoint: Mapping[str, Any] | None) -> Outcome:
        recorded = self._take_up(checkpoint)
        self.console.head()
        self.console.start(self.learner.epoch, self.learner.step)
        try:
            if not recorded:
                self._close_epoch()
            while True:
                if self._stops_by_rule():
                    return Outcome("collapsed", 0)
                if self.learner.epoch == self.config.epochs:
                    return Outcome("finished", 0)
                self.learner.train_epoch(self._proceed)
                self._close_epoch()
        except InterruptedError:
            self._save()
            self.console.line(
                f"{self.interruption.name}: saved epoch {self.learner.epoch}, "
                f"step {self.learner.step}"
            )
            return Outcome("stopped", self.interruption.exit_code)

    def _introduce(self) -> None:
        """Says what is trained, what is measured and skipped, and what the theory has to say."""
        config, dataset = self.config, self.dataset
        network = self.learner.networks[0]
        size = sum(parameter.numel() for parameter in network.parameters())
        self.console.line(
            f"{config.model} of {size:,} parameters, {self._seeds()}, "
            f"on {dataset.train.images.device} with {self._threads()}"
        )
        self.console.line(
            f"{config.dataset}: {len(dataset.train):,} images to train, "
            f"{len(dataset.test):,} to test"
        )
        if steps.computes_slowly(dataset.train.images.device, config.precision):
            self.console.line(
                "precision=bf16 will be slow: this processor has no instructions for bfloat16, "
                "precision=fp32 is faster"
            )
        self.console.line(f"\n{describe(network)}\n")
        if self.watcher.theory is not None and config.epochs:
            for line in self.watcher.theory.summary(self.learner.rates(config.epochs)):
                self.console.line(line)
        self.console.line()

    def _take_up(self, checkpoint: Mapping[str, Any] | None) -> bool:
        """Takes up the checkpoint where the record before it is whole, else begins anew.

        Returns:
            Whether the epoch now reached is in the record.

        Raises:
            InputError: If the checkpoint is of another network.
        """
        rows = {} if self.record.last_epoch is None else self._recorded_rows()
        missing = set(range(checkpoint["epoch"])) - rows.keys() if checkpoint else set()
        measured = checkpoint["train_accuracies"] if checkpoint else {}
        # It was measured as the last epoch of a run that is longer now, and not recorded.
        stray = [epoch for epoch in measured if not self._is_measured(epoch)]
        if checkpoint is None or missing or stray:
            if stray:
                self.console.line(
                    f"the checkpoint has measured epoch {stray[0]}, as the last one: training "
                    "again from 0"
                )
            elif missing:
                self.console.line(f"the record lacks epoch {min(missing)}: training again from 0")
            elif rows:
                self.console.line("there is no checkpoint: training again from epoch 0")
            self._introduce()
            return False
        try:
            self.learner.load_state_dict(checkpoint)
        except RuntimeError as error:  # the same settings, but other images or classes
            raise InputError(
                f"{self.directory.checkpoint} is of another network than model={self.config.model} "
                "is on these images; choose another run_id"
            ) from error
        self.watcher.load_state_dict(checkpoint["watcher"])
        accuracies = checkpoint["train_accuracies"]
        self.train_accuracies = {epoch: quantity_of(of) for epoch, of in accuracies.items()}
        self.is_lost = checkpoint["is_lost"]
        past = [row for epoch, row in sorted(rows.items()) if epoch <= self.learner.epoch]
        self.first_row, self.last_row = (past[0], past[-1]) if past else ({}, {})
        self.console.line(
            f"going on after epoch {self.learner.epoch}, step {self.learner.step}, with "
            f"{self._threads()} and {self._seeds()} as before"
        )
        # A signal may have come between the epoch's last step and its measurement, which the
        # record has of an earlier life: that one went on further, from a checkpoint before.
        measured = not self._is_measured(self.learner.epoch) or (
            self.learner.epoch in self.train_accuracies
        )
        recorded = self.learner.epoch in rows and (measured or self.learner.step > 0)
        if recorded and self.learner.step == 0 and _was_measured(self.last_row):
            self.watcher.advance()
        return recorded

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
        """Logs an epoch unless W&B holds it already, the last one with the run's pictures."""
        held = self.tracker.last_epoch
        if self.tracker.mode != "disabled" and (held is None or epoch > held):
            self.tracker.log(
                epoch, row, spectra, pictures(load_run(self.directory.record)) if is_last else None
            )

    def _close_epoch(self) -> None:
        """Evaluates, measures, checkpoints, records and logs the epoch just trained.

        Raises:
            InterruptedError: If a signal came before anything of the epoch was written.
        """
        learner, config, epoch = self.learner, self.config, self.learner.epoch
        row: dict[str, Quantity] = {
            "epoch": float(epoch),
            "lr_now": steps.learning_rate(config, max(1, epoch)),
        }
        started = time.perf_counter()
        for name, split in (("train", self.dataset.train), ("test", self.dataset.test)):
            row[f"{name}_loss"], row[f"{name}_accuracy"] = learner.evaluate(
                split, self.interruption.proceed
            )
        row["time/evaluate"] = time.perf_counter() - started
        if epoch:
            row["time/train"] = learner.seconds
            row["throughput/images_per_second"] = learner.images_per_second
        spectra: Mapping[str, np.ndarray] = {}
        if self._is_measured(epoch):
            started = time.perf_counter()
            measurement = self.watcher.measure(epoch, learner.rates(epoch))
            row["time/spectra"] = time.perf_counter() - started
            row.update(measurement.metrics)
            spectra = measurement.spectra
            self.train_accuracies[epoch] = row["train_accuracy"]
            dead = steps.is_dead(list(self.train_accuracies.values()), self.dataset.num_classes)
            row["dead"] = quantity_of(dead)
            # One that is lost must not end the others.
            self.is_lost = bool(np.all(dead | (np.asarray(row["collapsed"]) > 0)))
        means = {name: float(value) for name, value in row.items()}
        self.last_row = means
        self.first_row = self.first_row or means
        is_last = epoch == config.epochs or self._stops_by_rule()
        if is_last or epoch % config.checkpoint_every == 0:
            self._save()
        self.record.append(epoch, means, spectra)
        self._log(epoch, means, spectra, is_last)
        if self._is_measured(epoch):
            self.watcher.advance()
        self.console.epoch(epoch, means)
        if self._is_measured(epoch):
            self._warn(means)

    def _warn(self, row: Mapping[str, float]) -> None:
        """Says it when matrices collapse, or the network dies: the rank shown is then none."""
        ends = row["dead"], row["collapsed"]
        if ends != self._ends and any(ends):
            gone = lost(load_run(self.directory.record))
            if gone is not None:
                self.console.line(f"no rank any more: {gone.text}")
        self._ends = ends

    def _stops_by_rule(self) -> bool:
        return self.config.on_collapse == "stop" and self.is_lost

    def _is_measured(self, epoch: int) -> bool:
        return epoch % self.config.measure_every == 0 or epoch == self.config.epochs

    def _proceed(self) -> bool:
        self.console.stepped()
        return self.interruption.proceed()

    def _seeds(self) -> str:
        return f"seed {self.directory.seed}"

    def _threads(self) -> str:
        return "1 thread" if self.config.threads == 1 else f"{self.config.threads} threads"

    def _save(self) -> None:
        checkpoints.save(self.directory.checkpoint, self._state())

    def _state(self) -> dict[str, Any]:
        return {
            "config": self.config.recorded(),
            **self.learner.state_dict(),
            "watcher": self.watcher.state_dict(),
            "train_accuracies": {
                epoch: np.asarray(of).tolist() for epoch, of in self.train_accuracies.items()
            },
            "is_lost": self.is_lost,
        }

    def _reduce_checkpoint(self) -> None:
        """Leaves of the last checkpoint what ``keep_checkpoint`` asks for."""
        if self.config.keep_checkpoint == "none":
            self.directory.checkpoint.unlink(missing_ok=True)
        elif self.config.keep_checkpoint == "weights":
            state = self._state()
            if _optimizer_keeps_state(self.config):
                del state["optimizer"]
            state["watcher"]["previous"] = {}
            checkpoints.save(self.directory.checkpoint, state)


def pictures(run: Run) -> dict[str, Figure]:
    """Draws what W&B gets with a run's last epoch.

    Args:
        run: Read from the record.

    Returns:
        Figures by their names in W&B.
    """
    # Loaded only for the last epoch: matplotlib takes a good part of a short run's start.
    from lowrank.views.figures import final_figures

    return final_figures(run)


def _optimizer_keeps_state(config: Config) -> bool:
    return config.optimizer != "sgd" or config.momentum != 0


def _was_measured(row: Mapping[str, float]) -> bool:
    return not math.isnan(row.get("collapsed", math.nan))
