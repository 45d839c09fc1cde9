"""What a run took: steps, seconds, and the decay that its weights went through."""

from __future__ import annotations

import math

import numpy as np

from lowrank.config.datasets import DATASETS
from lowrank.config.optimizers import OPTIMIZERS
from lowrank.measure.bounds import forgetting_efolds
from lowrank.runs.find import Run
from lowrank.runs.metrics import metric_of


def preload(run: Run) -> None:
    """Reads what the others here need in one look at the record.

    Args:
        run: The run.
    """
    of_time = ("time/", "throughput/")
    run.preload(name for name in run.metrics if name == "lr_now" or name.startswith(of_time))


def steps_per_epoch(run: Run) -> int | None:
    """Returns how many steps an epoch has.

    Args:
        run: The run.

    Returns:
        As its number of examples tells: the one configured, that of its data set, or what time and
        rate tell. None where none of them is known.
    """
    examples = run.config.get("train_size") or getattr(
        DATASETS.get(str(run.config.get("dataset"))), "train_size", None
    )
    if examples is None:
        each = metric_of(run, "time/train") * metric_of(run, "throughput/images_per_second")
        each = each[np.isfinite(each)]
        examples = round(float(np.median(each))) if each.size else None
    if not examples or not run.config.get("batch_size"):
        return None
    return math.ceil(examples / int(run.config["batch_size"]))


def seconds(run: Run) -> float:
    """Returns how long a run trained, evaluated and measured, over all its sessions.

    Args:
        run: The run.

    Returns:
        Seconds, those of its pack where it trained in one; NaN for a run that recorded none.
    """
    times = [metric_of(run, name) for name in run.metrics if name.startswith("time/")]
    return float(np.nansum(times)) if times else math.nan


def efolds(run: Run) -> float:
    """Returns the forgetting e-folds so far (`lowrank.measure.bounds.forgetting_efolds`).

    Args:
        run: The run.

    Returns:
        The e-folds; NaN where decay does not shrink the weights themselves (Adam's is part of the
        gradient), and where learning rate, weight decay or steps are not known.
    """
    rates, decay = metric_of(run, "lr_now")[1:], run.config.get("weight_decay")
    steps, optimizer = steps_per_epoch(run), OPTIMIZERS.get(str(run.config.get("optimizer")))
    if optimizer is None or not optimizer.shrinks or not isinstance(decay, float | int):
        return math.nan
    if steps is None or not len(run.epochs) or not np.isfinite(rates).all():
        return math.nan
    try:
        return forgetting_efolds(
            rates.tolist(), steps, decay, float(run.config.get("momentum") or 0)
        )
    except ValueError:  # of another loop's own numbers
        return math.nan
