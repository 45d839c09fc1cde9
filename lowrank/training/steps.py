"""One epoch of training, evaluation and seeding; knows no tracker and no files."""

from __future__ import annotations

import contextlib
import copy
import itertools
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from lowrank.common.errors import InputError
from lowrank.runs.environment import named_gpus
from lowrank.training import allocator

if TYPE_CHECKING:
    from lowrank.config import Config
    from lowrank.data import Dataset

Loss = Callable[[Tensor, Tensor], Tensor]
"""(logits (…, C), labels (…)) → loss of each label (…): of an image, or of a byte of a text."""


DEAD_ACCURACY = 1.5
"""A run whose train accuracy stays at or below this multiple of chance has died."""
DEAD_MEASUREMENTS = 3


def make_loss(name: str) -> Loss:
    """Returns the loss of single labels by its name in the configuration.

    Args:
        name: ``cross_entropy``, or ``mse``: the squared error on one-hot targets, averaged over
            classes.

    Returns:
        A function of logits (…, C) and labels (…) that gives losses (…), such as (B,), of text
        (B, T), or (N, B) for N members of a pack.

    Example:
        >>> make_loss("mse")(torch.tensor([[1.0, 1.0]]), torch.tensor([0]))
        tensor([0.5000])
    """

    def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
        of_all = nn.functional.cross_entropy(
            logits.flatten(0, -2), labels.flatten(), reduction="none"
        )
        return of_all.view(labels.shape)

    def squared_error(logits: Tensor, labels: Tensor) -> Tensor:
        targets = nn.functional.one_hot(labels, logits.shape[-1]).to(logits.dtype)
        return nn.functional.mse_loss(logits, targets, reduction="none").mean(dim=-1)

    return cross_entropy if name == "cross_entropy" else squared_error


class Evaluation:
    """Mean loss and accuracy of networks in evaluation mode, batch by batch.

    Sums are float64, stay where the networks are, and are the same tensor from the second batch on.

    Args:
        model: One network, or a `lowrank.training.pack.Pack`.
        loss: Loss of single labels.
        precision: As in training.
    """

    def __init__(self, model: nn.Module, loss: Loss, precision: str = "fp32") -> None:
        self._model = model
        self._loss = loss
        self._precision = precision
        self._sums: Tensor | None = None

    @torch.inference_mode()
    def begin(self) -> None:
        """Puts the networks into evaluation mode and forgets what was added."""
        self._model.eval()
        if self._sums is not None:
            self._sums.zero_()

    @torch.inference_mode()
    def add(self, images: Tensor, labels: Tensor) -> None:
        """Adds a batch; every label counts the same, however they are batched.

        Args:
            images: As for the networks.
            labels: (B,), of text (B, T).
        """
        of_each = tuple(range(-labels.ndim, 0))
        with autocast(images.device.type, self._precision):
            logits = self._model(images)
            losses = self._loss(logits, labels.expand(logits.shape[:-1]))
        correct = (logits.argmax(dim=-1) == labels).sum(dim=of_each)
        found = torch.stack([losses.sum(dim=of_each, dtype=torch.float64), correct.double()])
        if self._sums is None:
            self._sums = torch.zeros_like(found)
        self._sums += found

    def means(self, count: int) -> tuple[list[float], list[float]]:
        """Returns what was added as means.

        Args:
            count: Of the labels.

        Returns:
            The mean loss, without the decay term, and the accuracy in [0, 1], of each network.
        """
        assert self._sums is not None
        losses, accuracies = (self._sums / count).reshape(2, -1).tolist()
        return losses, accuracies


def is_dead(train_accuracies: Sequence[float], num_classes: int) -> bool:
    """Tells whether a network has died, by the rule of the paper's code.

    Args:
        train_accuracies: At every measurement so far, in [0, 1].
        num_classes: Chance is one in so many.

    Returns:
        Whether the last three are all at most 1.5 times chance.

    Example:
        >>> is_dead([0.9, 0.15, 0.1, 0.1], num_classes=10)
        True
    """
    last = train_accuracies[-DEAD_MEASUREMENTS:]
    return len(last) == DEAD_MEASUREMENTS and max(last) <= DEAD_ACCURACY / num_classes


def seed_epoch(seed: int, epoch: int) -> None:
    """Seeds torch's generators for one epoch.

    Every epoch starts from a state that only the seed and its number decide, so that a resumed
    run needs no stored generator to draw the same batches.

    Args:
        seed: The run's seed.
        epoch: 0 for initialisation.
    """
    entropy = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)
    torch.manual_seed(int(entropy[0]))


def autocast(device_type: str, precision: str) -> contextlib.AbstractContextManager[object]:
    """Returns the context of a forward pass: autocast to bfloat16, or nothing.

    Args:
        device_type: ``cpu`` or ``cuda``.
        precision: ``fp32``, ``tf32`` or ``bf16``.

    Returns:
        A context manager.
    """
    if precision == "bf16":
        return torch.autocast(device_type, torch.bfloat16)
    return contextlib.nullcontext()


def get_generators(device: torch.device) -> list[Tensor]:
    """Returns the states of the global generators that a run draws from, the CPU's and its GPU's.

    Args:
        device: Where it computes. Other GPUs may not be there when it goes on.
    """
    own = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.get_rng_state(), *own]


def set_generators(states: list[Tensor], device: torch.device) -> None:
    """Sets torch's global generators.

    Args:
        states: From ``get_generators`` of the same kind of device.
        device: Where the run computes.
    """
    cpu, *own = (state.cpu() for state in states)
    torch.set_rng_state(cpu)
    if own and device.type == "cuda":
        torch.cuda.set_rng_state(own[0], device)


def check_last_batch(model: nn.Module, dataset: Dataset, batch_size: int) -> None:
    """Refuses a last batch of one example where BatchNorm cannot train on it.

    Args:
        model: On the data set's device; it is not changed.
        dataset: Its training examples are counted.
        batch_size: Examples per batch.

    Raises:
        InputError: If so, with sizes that work.
    """
    count = len(dataset.train)
    if count % batch_size != 1 and batch_size != 1:
        return
    try:
        with torch.no_grad():
            copy.deepcopy(model).train()(dataset.example)
    except ValueError:
        if count == 1:
            raise InputError(
                "train_size=1: BatchNorm cannot train on a single image; train_size=2 works"
            ) from None
        works = next(size for size in itertools.count(max(2, batch_size)) if count % size != 1)
        other = "" if batch_size == 1 else f" or train_size={count - 1}"
        raise InputError(
            f"batch_size={batch_size} leaves a batch of one of the {count} training images, "
            f"which BatchNorm cannot train on; batch_size={works}{other} works"
        ) from None


def lacks_bfloat16(device: torch.device) -> bool:
    """Returns whether bfloat16 only costs time: on an x86 processor without instructions for it.

    Args:
        device: Where to compute.
    """
    features = torch.cpu.get_capabilities()
    has = any(features.get(name) for name in ("avx512_bf16", "amx_bf16"))
    is_x86 = features.get("architecture") == "x86_64"
    return device.type == "cpu" and is_x86 and not has


def configure_torch(config: Config) -> torch.device:
    """Sets torch's global switches, all of them, as one process may train several runs.

    On a CPU memory that is freed stays with the process (`lowrank.training.allocator.keep_freed`).

    Args:
        config: Reads ``device``, ``threads``, ``precision`` and ``deterministic``.

    Returns:
        The device.

    Raises:
        InputError: If the device is not there, or cannot do what is asked for.
    """
    name = config.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        if name == "cpu" and (named := named_gpus(os.environ)):
            raise InputError(
                f"device=auto: CUDA_VISIBLE_DEVICES={named} names no GPU that torch sees; unset "
                "it, or device=cpu computes without"
            )
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device={config.device} is not there: torch sees {torch.cuda.device_count()} CUDA "
            "devices; device=cpu works everywhere"
        )
    if config.precision == "tf32" and device.type != "cuda":
        raise InputError(f"precision=tf32 needs a CUDA device, not {device}; use fp32 or bf16")
    torch.set_num_threads(config.threads or 1)
    torch.backends.cuda.matmul.allow_tf32 = config.precision == "tf32"
    torch.backends.cudnn.allow_tf32 = config.precision == "tf32"
    torch.backends.cudnn.benchmark = not config.deterministic
    # Whether this is so torch looks up once in a process, which may train others before.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(config.deterministic)
    # Nothing here reads what it has not written; filling it takes a kernel for every tensor.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if device.type == "cpu":
        allocator.keep_freed()
    elif device.index is not None:  # streams, events and memory are those of the current device
        torch.cuda.set_device(device)
    return device
