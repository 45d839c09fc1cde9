"""A figure of the spectra of all weight matrices of one or more files."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lowrank.common.texts import printable
from lowrank.measure.metrics import at
from lowrank.views.figures.multiples import multiples
from lowrank.views.figures.shades import SMALL
from lowrank.views.figures.style import OKABE_ITO
from lowrank.views.spectra.quantities import Measured, Row
from lowrank.views.table.matrices import relative


def spectra_figure(files: Sequence[Measured]) -> Figure:
    """Draws the normalised spectrum of every matrix, with the ranks at the first ε.

    Args:
        files: One or more, measured with the same thresholds; matrices of one name share a plot.

    Returns:
        The figure, one small plot per matrix on common axes; dashed lines are the thresholds.
    """
    of_name: dict[str, list[tuple[Measured, Row, str]]] = {}
    colours = [OKABE_ITO[place % len(OKABE_ITO)] for place in range(len(files))]
    for measured, colour in zip(files, colours, strict=True):
        for row in measured.rows:
            of_name.setdefault(row.name, []).append((measured, row, colour))
    epsilons = files[0].epsilons
    dashed = ", ".join(f"{epsilon:g}" for epsilon in epsilons)
    found = multiples(
        [f"{name} ({_sizes(rows)})" for name, rows in of_name.items()],
        f"Singular values (dashed: ε = {dashed}; in the corner: rank at ε = {epsilons[0]:g})",
        "σ / ‖W‖₂" if files[0].rank_norm == "spectral" else "σ / ‖W‖",
        epsilons,
        above=0.2,
    )
    for axes, rows in zip(found.plots, of_name.values(), strict=True):
        for line, (measured, row, colour) in enumerate(reversed(rows)):
            if not row.remark and row.spectrum.any():
                shares = relative(row.spectrum, measured.rank_norm)
                found.curve(axes, shares, color=colour, linewidth=1.2)
            text = row.remark.partition(":")[0] or f"{row.quantities[at('rank', epsilons[0])]:.0f}"
            place = (0.05, 0.05 + 0.14 * line)
            axes.text(*place, text, transform=axes.transAxes, fontsize=found.small, color=colour)
    legend = found.figure.legend(
        [Line2D([], [], color=colour) for colour in colours],
        [printable(measured.weights.path[-80:], 200) for measured in files],
        loc="upper center",
        bbox_to_anchor=(found.middle, 1 - 0.33 / found.figure.get_size_inches()[1]),
        ncols=len(files),
        frameon=False,
        fontsize=SMALL,
    )
    for words in legend.get_texts():
        words.set_parse_math(False)  # a $ in the name of a file or a layer is one
    return found.figure


def _sizes(rows: Sequence[tuple[Measured, Row, str]]) -> str:
    return "/".join(str(k) for k in dict.fromkeys(min(row.shape) for _, row, _ in rows))
