"""The loop of one run: train, evaluate, measure, checkpoint, record, log; and how it goes on."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from lowrank import checkpoints, training
from lowrank.console import Console, layer_table
from lowrank.data import Batches
from lowrank.errors import Failure, InputError
from lowrank.matrices import describe
from lowrank.record import Record
from lowrank.runs import load_run
from lowrank.watcher import Watcher

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lowrank.config import Config
    from lowrank.data import Dataset, Split
    from lowrank.interruption import Interruption
    from lowrank.run_directory import RunDirectory
    from lowrank.tracking import Tracker

EVALUATION_BATCH = 512
"""Examples evaluated at once; it bounds the memory of evaluation."""


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
        InputError: If it is damaged, or a finished run is to go on whose optimiser state is gone.
    """
    config = directory.config
    if not directory.checkpoint.exists():
        return None
    state = checkpoints.load(directory.checkpoint, map_location=device)
    goes_on = state["epoch"] < config.epochs
    if goes_on and "optimizer" not in state and _optimizer_keeps_state(config):
        raise InputError(
            f"epochs={config.epochs}: run {directory.run_id} finished and kept only its weights, "
            "but its optimizer needs its state to go on; start a new run with keep_checkpoint=all"
        )
    return state


class Trainer:
    """Everything that changes while one run goes on.

    Args:
        config: Complete, with seed and threads.
        directory: Where record and checkpoint lie.
        dataset: On the device.
        model: On the device, newly initialised.
        tracker: Logs each epoch to W&B.
        interruption: Tells when to stop.
    """

    def __init__(
        self,
        config: Config,
        directory: RunDirectory,
        dataset: Dataset,
        model: nn.Module,
        tracker: Tracker,
        interruption: Interruption,
    ) -> None:
        self.config = config
        self.directory = directory
        self.dataset = dataset
        self.model = model
        self.tracker = tracker
        self.interruption = interruption
        self.optimizer = training.make_optimizer(config, model)
        self.loss = training.make_loss(config.loss)
        self.batches = self._batches(dataset.train, config.batch_size, augment=config.augment)
        self.watcher = Watcher(
            model,
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
            steps=len(self.batches),
            batch_size=config.batch_size,
            echo=tracker.write,
        )
        self.epoch = 0
        self.step = 0
        self.train_seconds = 0.0
        self.generators: list[Tensor] = []
        self.first_row: dict[str, float] = {}
        self.last_row: dict[str, float] = {}
        self.train_accuracies: list[float] = []

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
        with self.console, self.interruption.deferred():
            try:
                outcome = self._go_on(checkpoint)
            except torch.OutOfMemoryError as error:
                raise Failure(
                    f"out of memory with batch_size={self.config.batch_size}; a smaller batch, or "
                    f"a device with more memory, is needed ({str(error).splitlines()[0]})"
                ) from error
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
        self.console.start(self.epoch, self.step)
        try:
            if not recorded:
                self._close_epoch()
            while True:
                if self._stops_by_rule():
                    return Outcome("collapsed", 0)
                if self.epoch == self.config.epochs:
                    return Outcome("finished", 0)
                self._train_epoch()
                self._close_epoch()
        except InterruptedError:
            self._save()
            self.console.line(
                f"{self.interruption.name}: saved epoch {self.epoch}, step {self.step}"
            )
            return Outcome("stopped", self.interruption.exit_code)

    def _introduce(self) -> None:
        """Says what is trained, what is measured and skipped, and what the theory has to say."""
        config, dataset = self.config, self.dataset
        size = sum(parameter.numel() for parameter in self.model.parameters())
        self.console.line(
            f"{config.model} of {size:,} parameters, seed {config.seed}, "
            f"on {dataset.train.images.device} with {self._threads()}"
        )
        self.console.line(
            f"{config.dataset}: {len(dataset.train):,} images to train, "
            f"{len(dataset.test):,} to test"
        )
        self.console.line(f"\n{describe(self.model)}\n")
        if self.watcher.theory is not None and config.epochs:
            for line in self.watcher.theory.summary(self._rates(config.epochs)):
                self.console.line(line)
        self.console.line()

    def _take_up(self, checkpoint: Mapping[str, Any] | None) -> bool:
        """Takes up the checkpoint where the record before it is whole, else begins anew.

        Returns:
            Whether the epoch now reached is in the record.
        """
        rows = {} if self.record.last_epoch is None else self._recorded_rows()
        missing = set(range(checkpoint["epoch"])) - rows.keys() if checkpoint else set()
        if checkpoint is None or missing:
            if missing:
                self.console.line(f"the record lacks epoch {min(missing)}: training again from 0")
            elif rows:
                self.console.line("there is no checkpoint: training again from epoch 0")
            self._introduce()
            return False
        self.model.load_state_dict(checkpoint["model"])
        if "optimizer" in checkpoint:
            self.optimizer.load_state_dict(checkpoint["optimizer"])
        self.watcher.load_state_dict(checkpoint["watcher"])
        self.epoch, self.step = checkpoint["epoch"], checkpoint["step"]
        self.train_seconds = checkpoint["train_seconds"]
        self.generators = checkpoint["generators"]
        past = [row for epoch, row in sorted(rows.items()) if epoch <= self.epoch]
        self.first_row, self.last_row = (past[0], past[-1]) if past else ({}, {})
        self.train_accuracies = [row["train_accuracy"] for row in past if _was_measured(row)]
        self.console.line(
            f"going on after epoch {self.epoch}, step {self.step}, with {self._threads()} and seed "
            f"{self.config.seed} as before"
        )
        recorded = self.epoch in rows
        if recorded and self.step == 0 and _was_measured(self.last_row):
            self.watcher.advance()
        return recorded

    def _recorded_rows(self) -> dict[int, dict[str, float]]:
        """Returns the record's rows by epoch, having logged those that W&B does not hold."""
        run = load_run(self.directory.record)
        metrics = {name: run.metrics[name] for name in run.metrics}
        epochs = run.epochs.tolist()
        rows = {
            epoch: {name: float(values[place]) for name, values in metrics.items()}
            for place, epoch in enumerate(epochs)
        }
        if any(self._is_news(epoch) for epoch in epochs):
            spectra = {layer.name: run.spectra[layer.name] for layer in run.layers}
            for place, (epoch, row) in enumerate(rows.items()):
                self._log(epoch, row, {name: s[place] for name, s in spectra.items()})
        return rows

    def _is_news(self, epoch: int) -> bool:
        return self.tracker.last_epoch is None or epoch > self.tracker.last_epoch

    def _log(
        self,
        epoch: int,
        row: Mapping[str, float],
        spectra: Mapping[str, np.ndarray],
        figures: Mapping[str, Figure] | None = None,
    ) -> None:
        """Logs an epoch unless W&B holds it already."""
        if self._is_news(epoch):
            self.tracker.log(epoch, row, spectra, figures)

    def _train_epoch(self) -> None:
        """Trains to the end of the next epoch.

        Raises:
            InterruptedError: If a signal came; the step reached is in ``step``.
        """
        number = self.epoch + 1
        for group in self.optimizer.param_groups:
            group["lr"] = training.learning_rate(self.config, number)
        training.seed_epoch(self.directory.seed, number)
        order = self.batches.draw_order()
        if self.step:
            training.set_generators(self.generators)
        started = time.perf_counter()
        self.step += training.train_steps(
            self.model,
            self.optimizer,
            self.loss,
            self.batches.epoch(order, self.step),
            precision=self.config.precision,
            proceed=self._proceed,
        )
        self._synchronize()
        self.train_seconds += time.perf_counter() - started
        if self.step < len(self.batches):
            self.generators = training.get_generators()
            raise InterruptedError
        self.epoch, self.step, self.generators = number, 0, []

    def _close_epoch(self) -> None:
        """Evaluates, measures, checkpoints, records and logs the epoch just trained.

        Raises:
            InterruptedError: If a signal came before anything of the epoch was written.
        """
        epoch, config = self.epoch, self.config
        row = {"epoch": float(epoch), "lr_now": training.learning_rate(config, max(1, epoch))}
        started = time.perf_counter()
        for name, split in (("train", self.dataset.train), ("test", self.dataset.test)):
            row[f"{name}_loss"], row[f"{name}_accuracy"] = self._evaluate(split)
        row["time/evaluate"] = time.perf_counter() - started
        if epoch:
            row["time/train"] = self.train_seconds
            row["throughput/images_per_second"] = len(self.dataset.train) / self.train_seconds
        spectra: Mapping[str, np.ndarray] = {}
        if self._is_measured(epoch):
            started = time.perf_counter()
            measurement = self.watcher.measure(epoch, self._rates(epoch))
            row["time/spectra"] = time.perf_counter() - started
            row.update(measurement.metrics)
            spectra = measurement.spectra
            self.train_accuracies.append(row["train_accuracy"])
            dead = training.is_dead(self.train_accuracies, self.dataset.num_classes)
            row["dead"] = float(dead)
        self.last_row = row
        self.first_row = self.first_row or row
        is_last = epoch == config.epochs or self._stops_by_rule()
        if is_last or epoch % config.checkpoint_every == 0:
            self._save()
        self.train_seconds = 0.0
        self.record.append(epoch, row, spectra)
        self._log(epoch, row, spectra, self._figures() if is_last else None)
        if self._is_measured(epoch):
            self.watcher.advance()
        self.console.epoch(epoch, row)

    def _rates(self, epochs: int) -> list[float]:
        """Returns the learning rate of each epoch 1 … ``epochs``."""
        return [training.learning_rate(self.config, epoch) for epoch in range(1, epochs + 1)]

    def _stops_by_rule(self) -> bool:
        row = self.last_row
        return self.config.on_collapse == "stop" and bool(row.get("collapsed") or row.get("dead"))

    def _is_measured(self, epoch: int) -> bool:
        return epoch % self.config.measure_every == 0 or epoch == self.config.epochs

    def _evaluate(self, split: Split) -> tuple[float, float]:
        batches = self._batches(split, EVALUATION_BATCH)
        in_order = torch.arange(len(split), device=split.labels.device)[None]
        return training.evaluate(
            self.model,
            self.loss,
            batches.epoch(in_order),
            precision=self.config.precision,
            proceed=self.interruption.proceed,
        )

    def _batches(self, split: Split, batch_size: int, *, augment: bool = False) -> Batches:
        return Batches(
            split,
            mean=self.dataset.mean,
            std=self.dataset.std,
            batch_size=batch_size,
            augment=augment,
        )

    def _figures(self) -> dict[str, Figure]:
        # Loaded only for the last epoch: matplotlib takes a good part of a short run's start.
        from lowrank import figures

        return figures.final_figures(load_run(self.directory.record))

    def _proceed(self) -> bool:
        self.console.stepped()
        return self.interruption.proceed()

    def _threads(self) -> str:
        return "1 thread" if self.config.threads == 1 else f"{self.config.threads} threads"

    def _synchronize(self) -> None:
        if self.dataset.train.images.is_cuda:
            torch.cuda.synchronize()

    def _save(self) -> None:
        checkpoints.save(self.directory.checkpoint, self._state())

    def _state(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "step": self.step,
            "train_seconds": self.train_seconds,
            "generators": self.generators,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "watcher": self.watcher.state_dict(),
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


def _optimizer_keeps_state(config: Config) -> bool:
    return config.optimizer != "sgd" or config.momentum != 0


def _was_measured(row: Mapping[str, float]) -> bool:
    return not math.isnan(row.get("collapsed", math.nan))
