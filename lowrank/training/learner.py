"""The networks of a pack while they learn, each in its own epoch."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lowrank.config.optimizers import OPTIMIZERS
from lowrank.data import Batches
from lowrank.data.sets import blank
from lowrank.measure.matrices import weight_matrices
from lowrank.training import step, steps
from lowrank.training.optimizer import Optimizer
from lowrank.training.rounds import Rounds
from lowrank.training.schedule import learning_rate

if TYPE_CHECKING:
    from lowrank.config import Config
    from lowrank.data import Dataset, Split
    from lowrank.training.pack import Pack

EVALUATION_BATCH = 512
"""Examples evaluated at once, at most; it bounds the memory of evaluation."""

CONVOLVED_BATCH = 32
"""Likewise of convolutions on a CPU, where more are hardly faster."""

EVALUATION_ROWS = 8192
"""Labels times members evaluated at once, at most."""


class Learner:
    """Networks, optimiser and batches of a pack, and how far each member has come.

    Members may stand in different epochs: one whose run was cut off earlier than the others' trains
    its own next epoch beside theirs. What a member's tensors hold does not reach those of another,
    so that one that has ended may stay in the computation (a *ghost*) and change nothing.

    Args:
        configs: Of each member, complete, with seed and threads.
        dataset: On the device.
        pack: On the device, newly initialised.

    Attributes:
        epochs: Epochs that each member has completed.
        steps: Steps that each has taken since.
        seconds: Time that these steps took, or those of the last epoch.
    """

    def __init__(self, configs: Sequence[Config], dataset: Dataset, pack: Pack) -> None:
        self.configs = configs
        self.config = configs[0]
        self.dataset = dataset
        self.pack = pack
        self.optimizer = Optimizer(
            configs,
            list(pack.stack.parameters()),
            fused=not (pack.is_stacked or self.config.compile),
            rows=self._hidden_rows(),
        )
        self.loss = steps.make_loss(self.config.loss)
        self._step = step.by_autograd(
            pack, self.optimizer, self.loss, precision=self.config.precision
        )
        self._device = dataset.train.images.device
        self._convolves = self._device.type == "cpu" and any(
            isinstance(m, nn.Conv2d) for m in pack.modules()
        )
        self.batches = self._batches(
            dataset.train, self.config.batch_size, augment=self.config.augment
        )
        size = min(self.config.batch_size, len(dataset.train))
        self._rounds = Rounds(self._learn, size)
        self._recorded: dict[int, tuple[steps.Evaluation, Rounds]] = {}  # by id of a split
        self.epochs = [0] * len(configs)
        self.steps = [0] * len(configs)
        self.seconds = 0.0
        self._generators: list[Tensor] = []
        self._waiting: dict[int, dict[str, Any]] = {}

    def _hidden_rows(self) -> list[list[int]] | None:
        """Returns which hidden matrices lie in each parameter, for an optimiser of these."""
        if not OPTIMIZERS[self.config.optimizer].of_matrices:
            return None
        network = self.pack.networks[0]
        rows: dict[str, list[int]] = {name: [] for name, _ in network.named_parameters()}
        for matrix in weight_matrices(network, example_input=self.dataset.example):
            if matrix.counted:
                rows[matrix.path].append(matrix.shape[0])
        return list(rows.values())

    def compile(self) -> None:
        """Compiles the step; on a GPU it and the evaluations are recorded as rounds.

        Raises:
            InputError: If torch cannot compile or record here.
            OutOfMemoryError: If the device's memory is exhausted.
        """
        train = self.dataset.train
        size = min(self.config.batch_size, len(train))
        shape = (len(self.configs), size) if self.pack.is_stacked else (size,)
        images = blank(self.dataset.image_shape, *shape, device=self._device)
        images = images.contiguous(memory_format=self.batches.layout)
        labels = torch.zeros(
            *shape, *train.labels.shape[1:], dtype=torch.int64, device=self._device
        )
        self._step = step.compiled(
            self.pack, self.optimizer, self.loss, images, labels, precision=self.config.precision
        )
        if self._device.type == "cuda":
            with step.explained():
                self._record()

    def _record(self) -> None:
        self.pack.train()
        with step.unchanged(self.pack, self.optimizer):
            pool = self._rounds.record(self._draw_order([1] * len(self.configs)))
        for split in (self.dataset.train, self.dataset.test):
            evaluation, rounds = self._recorded[id(split)] = self._evaluation(split, self.pack)
            evaluation.begin()
            pool = rounds.record(_in_order(split), pool)

    def train_epoch(
        self,
        proceed: Callable[[], bool],
        ghosts: Collection[int] = (),
        before_last: Callable[[Sequence[int]], None] | None = None,
        look: Callable[[Sequence[int]], None] | None = None,
    ) -> None:
        """Trains every member to the end of its next epoch.

        Args:
            proceed: Called for every step, after its round; training ends early when it returns
                False.
            ghosts: Members that have ended: what becomes of them does not matter.
            before_last: Called before the epoch's last step with the members that take it.
            look: Called with the members that have come to a multiple of ``measure_every_steps``
                before the epoch's last step. The time it takes is none of the training's.

        Raises:
            InterruptedError: If it did; the steps taken are in ``steps``.
        """
        numbers = [min(epoch + 1, self.config.epochs) for epoch in self.epochs]
        living = [member for member in range(len(self.configs)) if member not in ghosts]
        if not any(self.steps[member] for member in living):
            self.seconds = 0.0
        self.optimizer.set_rates(self.rates(numbers))
        order = self._draw_order(numbers)
        if self._generators:
            steps.set_generators(self._generators, self._device)
        started = time.perf_counter()
        try:
            while (first := min(self.steps[member] for member in living)) < len(self.batches):
                # Members that were cut off within an epoch wait until the others are there.
                ahead = [member for member in living if self.steps[member] > first]
                until = min((self.steps[member] for member in ahead), default=len(self.batches))
                self._waiting = copy.deepcopy({m: self.state_dict(m) for m in ahead})
                active = [member for member in living if member not in self._waiting]
                self._take_steps(order, active, until, proceed, before_last, look)
                for member, state in self._waiting.items():
                    self._load(member, state)
                self._waiting = {}
                if self.steps[active[0]] < until:
                    raise InterruptedError
        except InterruptedError:
            self._generators = steps.get_generators(self._device)
            raise
        finally:
            self._synchronize()
            self.seconds += time.perf_counter() - started
        self.epochs, self.steps, self._generators = numbers, [0] * len(numbers), []

    def evaluate(
        self, split: Split, proceed: Callable[[], bool], pack: nn.Module | None = None
    ) -> tuple[Sequence[float], Sequence[float]]:
        """Returns mean loss and accuracy over all examples of a split, in evaluation mode.

        Args:
            split: The examples.
            proceed: Called after every round; evaluation is given up when it returns False.
            pack: Networks that take the place of those that learn; None takes these.

        Returns:
            Losses and accuracies of each member.

        Raises:
            InterruptedError: If it was given up.
        """
        recorded = self._recorded.get(id(split)) if pack is None else None
        evaluation, rounds = recorded or self._evaluation(split, pack or self.pack)
        evaluation.begin()
        first, until, order = 0, -(-len(split) // self._evaluation_batch), _in_order(split)
        while first < until:
            first += rounds.take(order, first, until)
            if not proceed():
                raise InterruptedError("evaluation was interrupted")
        return evaluation.means(split.labels.numel())

    def first_batch(self) -> tuple[Tensor, Tensor]:
        """Returns the first training examples as they are stored, as many as a batch has.

        Returns:
            A batch for all members, not augmented.
        """
        batches = self._batches(self.dataset.train, self.config.batch_size)
        return batches.take(_in_order(self.dataset.train)[:, : batches.batch_size])

    def rates(self, epochs: Sequence[int]) -> list[float]:
        """Returns the learning rate of each member in an epoch of its own.

        Args:
            epochs: Of each member, from 1.
        """
        return [
            learning_rate(config, epoch) for config, epoch in zip(self.configs, epochs, strict=True)
        ]

    @property
    def images_per_second(self) -> float:
        """Training examples of each member per second of the last epoch's steps."""
        return len(self.dataset.train) / self.seconds

    def state_dict(self, member: int) -> dict[str, Any]:
        """Returns what a member's checkpoint must keep: tensors, which go on changing, and numbers.

        Args:
            member: From 0.
        """
        if member in self._waiting:
            return self._waiting[member]
        network = self.pack.networks[member]
        return {
            "epoch": self.epochs[member],
            "step": self.steps[member],
            "train_seconds": self.seconds,
            "generators": self._generators,
            "model": dict(network.state_dict()),
            "optimizer": self.optimizer.state_dict(member),
        }

    def load_state_dict(self, member: int, state: Mapping[str, Any]) -> None:
        """Continues a member from a state that ``state_dict`` gave, or one without optimiser.

        Args:
            member: From 0.
            state: Of a run with the same configuration.
        """
        self._load(member, state)
        self.epochs[member], self.steps[member] = state["epoch"], state["step"]
        self.seconds = max(self.seconds, state["train_seconds"])  # members differ: one may be at 0
        self._generators = state["generators"]

    def _load(self, member: int, state: Mapping[str, Any]) -> None:
        self.pack.networks[member].load_state_dict(state["model"])
        if "optimizer" in state:
            self.optimizer.load_state_dict(member, state["optimizer"])

    def _take_steps(
        self,
        order: Tensor,
        active: Sequence[int],
        until: int,
        proceed: Callable[[], bool],
        before_last: Callable[[Sequence[int]], None] | None,
        look: Callable[[Sequence[int]], None] | None,
    ) -> None:
        """Takes the steps of an epoch from where the active members stand."""
        self.pack.train()
        last = len(self.batches) - 1
        every = (look and self.config.measure_every_steps) or len(self.batches)
        while (first := self.steps[active[0]]) < until:
            if before_last and first == last:
                before_last(active)
            stop = min(until, (first // every + 1) * every)
            if before_last and first < last:
                stop = min(stop, last)
            taken = self._rounds.take(order, first, stop)
            for member in active:
                self.steps[member] += taken
            # Before a signal is asked for: a member that it stops here has been looked at.
            if look and (first + taken) % every == 0 and first + taken < len(self.batches):
                started = time.perf_counter()
                look(active)
                self.seconds -= time.perf_counter() - started
            if not all(proceed() for _ in range(taken)):
                return

    def _learn(self, part: Tensor) -> None:
        self._step(*self.batches.take(part))

    @property
    def _evaluation_batch(self) -> int:
        most = CONVOLVED_BATCH if self._convolves else EVALUATION_BATCH
        labels = self.dataset.train.labels[0].numel()
        return max(1, min(most, EVALUATION_ROWS // (labels * len(self.configs))))

    def _evaluation(self, split: Split, networks: nn.Module) -> tuple[steps.Evaluation, Rounds]:
        """Returns what evaluates networks on a split, and what takes its batches."""
        evaluation = steps.Evaluation(networks, self.loss, self.config.precision)
        batches = self._batches(split, self._evaluation_batch)

        def add(part: Tensor) -> None:
            evaluation.add(*batches.take(part))

        return evaluation, Rounds(add, min(batches.batch_size, len(split)))

    def _draw_order(self, epochs: Sequence[int]) -> Tensor:
        """Draws the order of each member's epoch, as its run alone does.

        Returns:
            (1, n), or (4, n) with augmentation; of N members (1, N, n).
        """
        orders = []
        for config, epoch in zip(self.configs, epochs, strict=True):
            assert config.seed is not None
            steps.seed_epoch(config.seed, epoch)
            orders.append(self.batches.draw_order())
        return torch.stack(orders, dim=1) if self.pack.is_stacked else orders[0]

    def _batches(self, split: Split, batch_size: int, *, augment: bool = False) -> Batches:
        # The kernels of a CPU convolve such images faster; those of a stack are batched.
        is_fast = self._convolves and not self.pack.is_stacked
        return Batches(
            split,
            mean=self.dataset.mean,
            std=self.dataset.std,
            batch_size=batch_size,
            augment=augment,
            layout=torch.channels_last if is_fast else torch.contiguous_format,
        )

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def _in_order(split: Split) -> Tensor:
    return torch.arange(len(split), device=split.labels.device)[None]
