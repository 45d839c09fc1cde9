"""One row of metrics and histograms logged to a W&B run, whoever began the run."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lowrank.measure.metrics import HISTOGRAM_EDGES, is_hidden, spectrum_histogram

if TYPE_CHECKING:
    import wandb


class RowLogger:
    """Logs rows to any W&B run, with ``epoch`` as the x-axis of each of their metrics.

    Each metric is defined by its own name when it is first logged: of globs that overlap, W&B
    would take any. Metrics that never pass here are left as they are.

    Args:
        run: The run.
        rank_norm: The norm that histograms refer to.
        prefix: What stands before each name but ``epoch``.
    """

    def __init__(self, run: wandb.Run, *, rank_norm: str, prefix: str = "") -> None:
        self._run = run
        self._prefix = prefix
        self._rank_norm = rank_norm
        run.define_metric("epoch", hidden=True)
        self._defined = {"epoch"}

    def log(
        self,
        metrics: Mapping[str, float],
        spectra: Mapping[str, NDArray[np.float64]],
        *,
        step: int | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        """Logs one row.

        Args:
            metrics: As for `Tracker.log`, with ``epoch`` among them.
            spectra: As for `Tracker.log`.
            step: W&B's step; None leaves it to W&B.
            more: Anything else of the row, such as images.
        """
        import wandb

        row: dict[str, Any] = {n: value for n, value in metrics.items() if math.isfinite(value)}
        absent = metrics.keys() - row.keys()
        for layer, values in spectra.items():
            counts = spectrum_histogram(values, self._rank_norm)
            if counts is not None and f"rank/{layer}" not in absent:
                row[f"spectrum/{layer}"] = wandb.Histogram(np_histogram=(counts, HISTOGRAM_EDGES))
        row |= more or {}
        named = {self._named(name): value for name, value in row.items()}
        for name, full in zip(row, named, strict=True):
            if full not in self._defined:
                self._run.define_metric(full, step_metric="epoch", hidden=is_hidden(name))
                self._defined.add(full)
        self._run.log(named, step=step, commit=True)
        if metrics.get("dead", 0.0) > 0:  # the lowest rank of all, and no result of any search
            absent |= {name for name in metrics if "rank_mean" in name}
        for name in sorted(absent):
            with contextlib.suppress(KeyError):  # which only a run in mode disabled raises
                del self._run.summary[self._named(name)]  # type: ignore[no-untyped-call]

    def _named(self, name: str) -> str:
        return name if name == "epoch" else f"{self._prefix}{name}"
