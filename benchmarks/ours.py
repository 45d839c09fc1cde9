"""The product's own path to a learner, as train.py takes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lowrank.config import Config, replace
from lowrank.data import Dataset, load_dataset
from lowrank.runs.directory import complete
from lowrank.training import steps
from lowrank.training.learner import Learner
from lowrank.training.pack import build

MLP: dict[str, Any] = {"model": "mlp", "depth": 10, "width": 100}
RESNET18: dict[str, Any] = {"model": "resnet18"}
SMALL: dict[str, Any] = {"model": "mlp", "depth": 1, "width": 20}
"""What stands in for both in quick runs: compiling takes seconds."""


@dataclass(frozen=True)
class Ours:
    """A learner of ours, and what it was made of.

    Attributes:
        config: Complete, with seed and threads.
        dataset: On the device.
        learner: Newly initialised.
    """

    config: Config
    dataset: Dataset
    learner: Learner

    def train_epoch(self) -> None:
        """Trains for an epoch with the switches and threads that a run of its own has."""
        steps.configure_torch(self.config)
        self.learner.train_epoch(lambda: True)


def make(device: str, *, data_dir: str | None = None, members: int = 1, **fields: Any) -> Ours:
    """Makes a learner.

    Args:
        device: ``cpu`` or ``cuda``.
        data_dir: An image folder with images of one size; None takes made-up colour images, 32×32.
        members: Of a pack, which differ in learning rate and weight decay.
        **fields: Of the configuration.

    Returns:
        The learner.
    """
    name, where = _source(data_dir)
    config = complete(
        Config.model_validate({"dataset": name, **where, "device": device, **fields}), members
    )
    configs = [
        replace(
            config, lr=config.lr / 2 ** (i % 6), weight_decay=config.weight_decay * 2 ** (i // 6)
        )
        for i in range(members)
    ]
    place = steps.configure_torch(config)
    dataset = load_dataset(**config.data_request, device=place)
    pack = build(configs, dataset.image_shape, dataset.num_classes, place)
    learner = Learner(configs, dataset, pack)
    if config.compile:
        learner.compile()
    return Ours(config, dataset, learner)


def data(
    data_dir: str | None, train_size: int | None, device: torch.device | str = "cpu"
) -> Dataset:
    """Loads what is trained on.

    Args:
        data_dir: As `make` takes it.
        train_size: Images to train on; None takes all.
        device: Where they go.

    Returns:
        The images.
    """
    name, where = _source(data_dir)
    return load_dataset(name, **where, train_size=train_size, device=device)


def network(device: str, **fields: Any) -> nn.Module:
    """Makes one of our networks for 32×32 colour images of ten classes.

    Args:
        device: Where it goes.
        **fields: Of the configuration.

    Returns:
        The network, newly initialised.
    """
    return make(device, train_size=20, **fields).learner.pack.networks[0]


def _source(data_dir: str | None) -> tuple[str, dict[str, Any]]:
    """Returns the data set's name, and where it lies."""
    return ("synthetic", {}) if data_dir is None else ("imagefolder", {"data_dir": data_dir})
