"""What single matrices of a run do: their spectra, and the ratio of their norms over epochs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from lowrank.config.optimizers import OPTIMIZERS
from lowrank.measure.layers import Layer
from lowrank.measure.ranks import NORMS
from lowrank.runs.find import Run
from lowrank.runs.metrics import metric_of
from lowrank.views.table.effort import steps_per_epoch
from lowrank.views.table.rows import Floats

EVERY = 10
"""Epochs over which a ratio of norms is taken, as in the paper's Figures 5 and 17."""


def usual_layer(layers: Iterable[Layer]) -> str:
    """Returns which matrix is shown where none is asked for: the middle one that is counted.

    Args:
        layers: Of one or several runs.

    Returns:
        Its name; empty where none is counted.
    """
    names = list(dict.fromkeys(layer.name for layer in layers if layer.counted))
    return names[len(names) // 2] if names else ""


def relative_spectra(run: Run, epochs: Iterable[int], rank_norm: str) -> dict[str, Floats]:
    """Returns σ/‖W‖ of every layer, and of what is measured beside them, at some epochs.

    Args:
        run: The run.
        epochs: Measured ones.
        rank_norm: Which norm ‖W‖ is.

    Returns:
        Layer name -> descending values, shape (E, k); NaN where a matrix was not finite or is zero.
    """
    sizes = {layer.name: min(layer.shape) for layer in (*run.layers, *run.derived)}
    return {
        name: relative(values.reshape(-1, sizes[name]), rank_norm)
        for name, values in run.spectra_at(epochs).items()
    }


def relative(spectra: Floats, rank_norm: str = "frobenius") -> Floats:
    """Returns σ/‖W‖.

    Args:
        spectra: Singular values, shape (..., k).
        rank_norm: Which norm ‖W‖ is.

    Returns:
        Of the same shape; NaN where a matrix is not finite or zero.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(spectra / np.asarray(NORMS[rank_norm](spectra))[..., None])


def norm_ratios(
    run: Run, epochs: Floats, layers: Sequence[str], every: int = EVERY
) -> tuple[Floats, Floats, Floats]:
    """Returns ‖W(t)‖/‖W(t−k)‖ over k epochs, beside what weight decay alone would leave.

    Args:
        run: The run.
        epochs: The measured ones.
        layers: The names of L matrices.
        every: The number k of epochs.

    Returns:
        The N epochs t that are multiples of k, the ratios (L, N), NaN where there is none, and
        Π(1 − μ·wd) over the steps between, as `pure_decay` has it, (N,).
    """
    ends = np.intersect1d(epochs[epochs % every == 0], epochs + every)
    if not ends.size:
        return ends, np.empty((len(layers), 0)), np.empty(0)
    norms = norms_of(run, layers)
    now, then = (np.searchsorted(run.epochs, ends - shift) for shift in (0, every))
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = norms[:, now] / norms[:, then]
    decay = np.array([pure_decay(run, int(end) - every, int(end)) for end in ends])
    return ends, ratios, decay


def norms_of(run: Run, layers: Sequence[str]) -> Floats:
    """Returns the recorded Frobenius norms of some matrices.

    Args:
        run: The run.
        layers: The names.

    Returns:
        Shape (L, E), NaN where there is none.
    """
    names = [f"frobenius_norm/{layer}" for layer in layers]
    run.preload(names)
    return np.array([metric_of(run, name) for name in names])


def pure_decay(run: Run, start: int, end: int) -> float:
    """Returns Π(1 − μ·wd) over the steps from one epoch to another.

    Args:
        run: The run.
        start: After how many epochs.
        end: Until after how many.

    Returns:
        The product; NaN where it is not known: for an optimiser whose steps do not shrink weights
        by 1 − μ·wd, as Adam, for one with a field momentum that is not 0, or an unknown number of
        steps.
    """
    config = run.config
    steps, optimizer = steps_per_epoch(run), OPTIMIZERS.get(str(config.get("optimizer")))
    if optimizer is None or not optimizer.shrinks or steps is None:
        return math.nan
    if "momentum" in optimizer.fields and config.get("momentum"):
        return math.nan
    run.preload(["lr_now"])
    rates = metric_of(run, "lr_now")[(run.epochs > start) & (run.epochs <= end)]
    if len(rates) != end - start or not np.isfinite(rates).all():
        return math.nan
    return float(np.exp(steps * np.log1p(-rates * float(config["weight_decay"])).sum()))
