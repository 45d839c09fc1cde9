"""The learning rate of every epoch, and what it makes of a run before it begins."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lowrank.config.datasets import DATASETS
from lowrank.config.optimizers import OPTIMIZERS

if TYPE_CHECKING:
    from lowrank.config import Config


def learning_rate(config: Config, epoch: int) -> float:
    """Returns the rate used throughout one epoch.

    ``milestones`` multiplies by ``gamma`` at the start of each listed epoch, ``cosine`` goes down
    half a cosine from the full rate in epoch 1 towards 0 after the last, ``constant`` stays. During
    the ``warmup_epochs`` w, epoch e uses e / (w + 1) of it.

    Args:
        config: Reads ``lr``, ``epochs``, ``schedule``, ``milestones``, ``gamma`` and
            ``warmup_epochs``.
        epoch: Counted from 1.

    Returns:
        The learning rate.

    Example:
        >>> from lowrank.config import Config
        >>> paper = Config(lr=1.0, milestones=[60, 100, 200], gamma=0.2, epochs=500)
        >>> [round(learning_rate(paper, epoch), 3) for epoch in (1, 59, 60, 99, 100, 199, 200, 500)]
        [1.0, 1.0, 0.2, 0.2, 0.04, 0.04, 0.008, 0.008]
    """
    rate = config.lr
    if config.schedule == "milestones":
        rate *= config.gamma ** sum(milestone <= epoch for milestone in config.milestones)
    elif config.schedule == "cosine":
        rate *= (1 + math.cos(math.pi * (epoch - 1) / config.epochs)) / 2
    return rate * min(1.0, epoch / (config.warmup_epochs + 1))


def learning_rates(config: Config, epochs: int) -> list[float]:
    """Returns the rate of each epoch from the first on.

    Args:
        config: As for `learning_rate`.
        epochs: How many.

    Returns:
        The rates of epochs 1 … ``epochs``.
    """
    return [learning_rate(config, epoch) for epoch in range(1, epochs + 1)]


def planned_efolds(config: Config) -> float:
    """Returns the forgetting e-folds of a whole run (`lowrank.measure.bounds.forgetting_efolds`).

    Args:
        config: Of the run.

    Returns:
        The e-folds; NaN where decay does not shrink the weights themselves (Adam's is part of the
        gradient) and where the number of images is not known beforehand.

    Example:
        >>> from lowrank.config import Config
        >>> round(planned_efolds(Config(lr=0.2, weight_decay=0.02, batch_size=8, epochs=20)), 3)
        14.4
    """
    from lowrank.measure.bounds import forgetting_efolds  # numpy, which the rest does not need

    images = config.train_size or DATASETS[config.dataset].train_size
    if not OPTIMIZERS[config.optimizer].shrinks or images is None:
        return math.nan
    return forgetting_efolds(
        learning_rates(config, config.epochs),
        math.ceil(images / config.batch_size),
        config.weight_decay,
        config.momentum,
    )
