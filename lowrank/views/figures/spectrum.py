"""Every layer's singular values over a run's epochs, as small plots side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lowrank.views.figures.multiples import multiples
from lowrank.views.figures.shades import shade, steps
from lowrank.views.table.matrices import relative
from lowrank.views.table.rows import Floats

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

    Args:
        epochs: The measured epochs, shape (E,), ascending.
        spectra: Singular values, descending, shape (E, k), by layer in network order; NaN where the
            matrix was not finite.
        epsilons: Drawn as dashed lines: what lies above is counted in the rank.
        rank_norm: The norm ‖W‖: ``frobenius`` or ``spectral``.
        title: What the run is.

    Returns:
        The figure, one small plot per layer on common axes.
    """
    shown = early(len(epochs), SHOWN_EPOCHS)
    dashed = ", ".join(f"{epsilon:g}" for epsilon in epsilons)
    found = multiples(
        [f"{name} ({values.shape[-1]})" for name, values in spectra.items()],
        f"{title or 'Spectra'}: singular values over time; dashed: ε = {dashed}",
        "σ / ‖W‖",
        epsilons,
        right=1.1,
    )
    for axes, values in zip(found.plots, spectra.values(), strict=True):
        shares = relative(values, rank_norm)
        for position, epoch in enumerate(shown):
            if np.isfinite(shares[epoch]).all():
                found.curve(axes, shares[epoch], color=shade(position, len(shown)), linewidth=1)
        if not np.isfinite(shares[shown[-1]]).all():
            axes.text(0.05, 0.06, "collapsed", transform=axes.transAxes, fontsize=found.small)
    box = found.figure.subplotpars
    width = found.figure.get_size_inches()[0]
    place = found.figure.add_axes(
        (1 - 0.95 / width, box.bottom, 0.15 / width, box.top - box.bottom)
    )
    steps(found.figure, place, [f"{epochs[epoch]:g}" for epoch in shown]).set_label("epoch")
    return found.figure


def early(length: int, count: int) -> NDArray[np.int64]:
    """Returns some of many positions, denser at the start, where ranks fall.

    Args:
        length: How many there are.
        count: How many to return, at most.

    Returns:
        Positions, ascending, the first and the last among them.
    """
    return np.unique((np.linspace(0, 1, count) ** 2 * (length - 1)).round().astype(np.int64))


def edges_of(epochs: Floats) -> Floats:
    """Returns the boundaries of cells around epochs, for a heat map.

    Args:
        epochs: Shape (E,), ascending, at least one.

    Returns:
        Shape (E + 1,).

    Example:
        >>> edges_of(np.array([0.0, 1.0, 3.0])).tolist()
        [-0.5, 0.5, 2.0, 4.0]
    """
    if len(epochs) == 1:
        return np.array([epochs[0] - 0.5, epochs[0] + 0.5])
    middles = (epochs[1:] + epochs[:-1]) / 2
    return np.concatenate(([2 * epochs[0] - middles[0]], middles, [2 * epochs[-1] - middles[-1]]))
