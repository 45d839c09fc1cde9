"""The networks of one run while they learn: one, or replicas as one batched computation."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lowrank.data import Batches
from lowrank.training import gradients, steps
from lowrank.training.replicas import Replicas

if TYPE_CHECKING:
    from lowrank.config import Config
    from lowrank.data import Dataset, Split
    from lowrank.measure.ranks import Quantity

EVALUATION_BATCH = 512
"""Examples evaluated at once, at most; it bounds the memory of evaluation."""

CONVOLVED_BATCH = 32
"""Likewise of convolutions on a CPU, where more are hardly faster."""

EVALUATION_ROWS = 8192
"""Examples times replicas evaluated at once, at most."""


class Learner:
    """Model, optimiser and batches of one run, and how far training has come.

    Args:
        config: Complete, with seed and threads.
        dataset: On the device.
        model: On the device, newly initialised: one network, or
            `lowrank.training.replicas.Replicas`.
        seeds: Of the network, or of each replica.

    Attributes:
        networks: Each replica, or the one network alone.
        epoch: Epochs completed.
        step: Steps taken since.
        seconds: Time that these steps took, or those of the last epoch.
    """

    def __init__(
        self, config: Config, dataset: Dataset, model: nn.Module, seeds: Sequence[int]
    ) -> None:
        self.config = config
        self.dataset = dataset
        self.model = model
        self.seeds = seeds
        self.networks = model.networks if isinstance(model, Replicas) else (model,)
        self.optimizer = steps.make_optimizer(config, model)
        self.loss = steps.make_loss(config.loss)
        self.gradients = gradients.by_autograd(model, self.loss, precision=config.precision)
        on_cpu = dataset.train.images.device.type == "cpu"
        self._convolves = on_cpu and any(isinstance(m, nn.Conv2d) for m in model.modules())
        self.batches = self._batches(dataset.train, config.batch_size, augment=config.augment)
        self.epoch = 0
        self.step = 0
        self.seconds = 0.0
        self._generators: list[Tensor] = []

    def compile(self) -> None:
        """Compiles forward and backward pass; the next steps use what was compiled.

        Raises:
            InputError: If torch cannot compile here.
        """
        train = self.dataset.train
        size = min(self.config.batch_size, len(train))
        shape = (size,) if len(self.networks) == 1 else (len(self.networks), size)
        images = torch.zeros(*shape, *self.dataset.image_shape, device=train.images.device)
        images = images.contiguous(memory_format=self.batches.layout)
        labels = torch.zeros(shape, dtype=torch.int64, device=train.images.device)
        self.gradients = gradients.compiled(
            self.model, self.loss, images, labels, precision=self.config.precision
        )

    def train_epoch(self, proceed: Callable[[], bool]) -> None:
        """Trains to the end of the next epoch.

        Args:
            proceed: Called after every step; training ends early when it returns False.

        Raises:
            InterruptedError: If it did; the step reached is in ``step``.
        """
        number = self.epoch + 1
        if not self.step:
            self.seconds = 0.0
        for group in self.optimizer.param_groups:
            group["lr"] = steps.learning_rate(self.config, number)
        order = self._draw_order(number)
        if self.step:
            steps.set_generators(self._generators)
        started = time.perf_counter()
        self.step += steps.train_steps(
            self.model,
            self.optimizer,
            self.gradients,
            self.batches.epoch(order, self.step),
            proceed=proceed,
        )
        self._synchronize()
        self.seconds += time.perf_counter() - started
        if self.step < len(self.batches):
            self._generators = steps.get_generators()
            raise InterruptedError
        self.epoch, self.step, self._generators = number, 0, []

    def evaluate(self, split: Split, proceed: Callable[[], bool]) -> tuple[Quantity, Quantity]:
        """Returns mean loss and accuracy over all examples of a split, in evaluation mode.

        Args:
            split: The examples.
            proceed: Called after every batch; evaluation is given up when it returns False.

        Returns:
            Loss and accuracy, of N replicas (N,) each.

        Raises:
            InterruptedError: If it was given up.
        """
        most = CONVOLVED_BATCH if self._convolves else EVALUATION_BATCH
        batches = self._batches(split, max(1, min(most, EVALUATION_ROWS // len(self.networks))))
        in_order = torch.arange(len(split), device=split.labels.device)[None]
        return steps.evaluate(
            self.model,
            self.loss,
            batches.epoch(in_order),
            precision=self.config.precision,
            proceed=proceed,
        )

    @property
    def watched(self) -> nn.Module | Sequence[nn.Module]:
        """What a `lowrank.Watcher` measures: the network, or all replicas."""
        return self.networks if isinstance(self.model, Replicas) else self.model

    def rates(self, epochs: int) -> list[float]:
        """Returns the learning rate of each epoch.

        Args:
            epochs: How many.

        Returns:
            The rates of epochs 1 … ``epochs``.
        """
        return [steps.learning_rate(self.config, epoch) for epoch in range(1, epochs + 1)]

    @property
    def images_per_second(self) -> float:
        """Training images of all networks per second of the last epoch's steps."""
        return len(self.networks) * len(self.dataset.train) / self.seconds

    def state_dict(self) -> dict[str, Any]:
        """Returns what a checkpoint must keep: tensors and numbers."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "train_seconds": self.seconds,
            "generators": self._generators,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from a state that ``state_dict`` gave, or from one without optimiser.

        Args:
            state: Of a learner with the same configuration.
        """
        self.model.load_state_dict(state["model"])
        if "optimizer" in state:
            self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.step = state["epoch"], state["step"]
        self.seconds = state["train_seconds"]
        self._generators = state["generators"]

    def _draw_order(self, epoch: int) -> Tensor:
        """Draws the order of an epoch for each seed, as its run alone does.

        Returns:
            (1, n), or (4, n) with augmentation; of N replicas (1, N, n).
        """
        orders = []
        for seed in self.seeds:
            steps.seed_epoch(seed, epoch)
            orders.append(self.batches.draw_order())
        return torch.stack(orders, dim=1).squeeze(1)

    def _batches(self, split: Split, batch_size: int, *, augment: bool = False) -> Batches:
        # The kernels of a CPU convolve such images faster; those of replicas are batched.
        is_fast = self._convolves and len(self.networks) == 1
        return Batches(
            split,
            mean=self.dataset.mean,
            std=self.dataset.std,
            batch_size=batch_size,
            augment=augment,
            layout=torch.channels_last if is_fast else torch.contiguous_format,
        )

    def _synchronize(self) -> None:
        if self.dataset.train.images.is_cuda:
            torch.cuda.synchronize()
