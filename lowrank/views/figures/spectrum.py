"""Every layer's singular values over a run's epochs, as small plots side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lowrank.views.figures.shades import SMALL, shade, steps

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]

SHOWN_EPOCHS = 9
"""At most so many spectra are drawn over each other."""


def spectrum_over_time(
    epochs: Floats,
    spectra: Mapping[str, Floats],
    *,
    epsilons: Sequence[float] = (1e-3,),
    rank_norm: str = "frobenius",
    title: str = "",
) -> Figure:
    """Draws the normalised spectrum of every layer at up to nine epochs, from dark to light.

    Values of replicas are pooled: the share of a curve above ε is that of the mean rank.

    Args:
        epochs: The measured epochs, shape (E,), ascending.
        spectra: Singular values, descending, shape (E, k), or (E, N, k) of N replicas, by layer in
            network order; NaN where the matrix was not finite.
        epsilons: Drawn as dashed lines: what lies above is counted in the rank.
        rank_norm: The norm ‖W‖: ``frobenius`` or ``spectral``.
        title: What the run is.

    Returns:
        The figure, one small plot per layer on common axes.
    """
    from matplotlib.figure import Figure

    columns = min(len(spectra), 5 if len(spectra) <= 25 else 9)
    rows = -(-len(spectra) // columns)
    small = SMALL if columns <= 5 else SMALL - 1.5
    width, height = 1.9 + 1.75 * max(columns, 3), 1.35 + 1.45 * rows
    figure = Figure(figsize=(width, height))
    # Places in inches: matplotlib's own layout takes 6 s for 54 layers.
    left, right, bottom, top = 0.7 / width, 1 - 1.1 / width, 0.65 / height, 1 - 0.7 / height
    figure.subplots_adjust(left, bottom, right, top, wspace=0.12, hspace=0.3)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    shown = _early(len(epochs), SHOWN_EPOCHS)
    lowest = min(epsilons) / 30
    for axes, (name, values) in zip(grid, spectra.items(), strict=False):
        count = values.shape[-1]
        relative = _pooled(values, rank_norm)
        for position, epoch in enumerate(shown):
            if np.isfinite(relative[epoch]).all():
                axes.plot(
                    (np.arange(relative.shape[1]) + 1) / relative.shape[1],
                    np.maximum(relative[epoch], lowest / 10),
                    color=shade(position, len(shown)),
                    linewidth=1,
                    marker="." if relative.shape[1] == 1 else None,
                )
        if not np.isfinite(relative[shown[-1]]).all():
            axes.text(0.05, 0.06, "collapsed", transform=axes.transAxes, fontsize=small)
        for epsilon in epsilons:
            axes.axhline(epsilon, color="0.4", linestyle="--", linewidth=0.7)
        axes.set_title(f"{name} ({count})", fontsize=small, pad=3, y=1)
    grid[0].set(yscale="log", ylim=(lowest, 1.5), xlim=(0, 1), xticks=[0, 0.5, 1])
    grid[0].set_xticklabels(["0", "½", "1"])
    for axes in grid:
        axes.minorticks_off()
        axes.tick_params(labelsize=small)
    grid[0].yaxis.set_major_formatter(lambda value, _: _power(value))
    for number, axes in enumerate(grid):
        axes.yaxis.set_visible(number % columns == 0)  # an axis takes as long as all its curves
    for axes in grid[len(spectra) :]:
        axes.set_visible(False)
    for axes in grid[len(spectra) - columns : len(spectra)]:
        axes.tick_params(labelbottom=True)
    dashed = ", ".join(f"{epsilon:g}" for epsilon in epsilons)
    middle = (left + right) / 2
    figure.suptitle(f"{title or 'Spectra'}: singular values over time; dashed: ε = {dashed}",
                    x=middle, y=1 - 0.12 / height, va="top", fontsize=11)  # fmt: skip
    figure.supxlabel("index of the singular value / number of singular values (in brackets)",
                     x=middle, y=0.12 / height, va="bottom", fontsize=10)  # fmt: skip
    figure.supylabel("σ / ‖W‖", x=0.1 / width, ha="left", fontsize=10)
    place = (1 - 0.95 / width, bottom, 0.15 / width, top - bottom)
    names = [f"{epochs[epoch]:g}" for epoch in shown]
    steps(figure, figure.add_axes(place), names).set_label("epoch")
    return figure


def _pooled(values: Floats, rank_norm: str) -> Floats:
    """Returns σ/‖W‖ of all replicas together (E, N·k), descending; NaN where one has none."""
    norms = values[..., 0] if rank_norm == "spectral" else np.sqrt((values**2).sum(axis=-1))
    relative = values / np.where(norms > 0, norms, np.nan)[..., None]
    return -np.sort(-relative.reshape(len(values), -1), axis=1)


def _power(value: float) -> str:
    """Returns a power of ten as text, which is drawn ten times faster than mathematics.

    Example:
        >>> _power(1e-3)
        '10⁻³'
    """
    return "10" + f"{round(math.log10(value))}".translate(
        str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
    )


def _early(length: int, count: int) -> NDArray[np.int64]:
    """Returns at most `count` of `length` positions, denser at the start, where ranks fall."""
    return np.unique((np.linspace(0, 1, count) ** 2 * (length - 1)).round().astype(np.int64))
