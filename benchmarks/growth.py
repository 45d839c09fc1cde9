"""How cost grows with size: spectra, records and reports, each with its fitted exponent.

    python -m benchmarks.growth

Writes a small plot of each into benchmarks/figures/. Over the larger half of the sizes a straight
line is fitted to the logarithms, by least squares: its slope is the exponent. Small sizes have a
fixed cost, which bends the curve.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from benchmarks.program import Options, run, say
from benchmarks.timing import Row, Spread, seconds, spread
from lowrank import load_run
from lowrank.commands.report import write_report
from lowrank.measure.spectra import singular_values
from lowrank.runs.environment import available_cores
from lowrank.views.figures import style
from tests.views.table.records import SIZE, make_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES = Path(__file__).resolve().parent / "figures"
EPSILONS = (1e-3, 1e-2)
MEAN_RANK_LOSS = 0.5  # per epoch of made-up runs


@dataclass(frozen=True)
class Curve:
    """How one cost grows.

    Attributes:
        name: Of the figure's file.
        cost: What grows, with its unit.
        size: With what.
        expected: The exponent expected.
        points: Cost at each size.
    """

    name: str
    cost: str
    size: str
    expected: float
    points: dict[int, Spread]

    @property
    def larger(self) -> list[int]:
        """The larger half of the sizes, the middle one included."""
        sizes = sorted(self.points)
        return sizes[len(sizes) // 2 :]

    @property
    def fit(self) -> tuple[float, float]:
        """Exponent, and logarithm of the cost at size 1, over the larger half."""
        slope, offset = np.polyfit(
            np.log(self.larger), np.log([self.points[size].median for size in self.larger]), 1
        )
        return float(slope), float(offset)

    def row(self) -> Row:
        """Returns the exponent as a row of the table; nothing is demanded of it."""
        return Row(
            f"growth of {self.cost.partition(',')[0]} with {self.size}",
            "expected exponent",
            "",
            Spread(self.fit[0], 0.0, 1),
            Spread(self.expected, 0.0, 1),
            "share",
            None,
        )


def measure(options: Options) -> list[Row]:
    """Measures and draws every curve.

    Args:
        options: How.

    Returns:
        The exponents.
    """
    torch.set_num_threads(available_cores())
    rows = []
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        for make in (matrix_size, matrix_count, record, report):
            for curve in make(options.quick, directory):
                say(f"{curve.cost} with {curve.size}: exponent {curve.fit[0]:.2f}")
                target = directory if options.quick else FIGURES
                target.mkdir(exist_ok=True)
                style.save(draw(curve), target / f"{curve.name}.png", 110)
                rows.append(curve.row())
    return rows


def matrix_size(quick: bool, _: Path) -> list[Curve]:
    """Times the spectrum of one square matrix.

    Args:
        quick: Whether sizes are small.

    Returns:
        One curve.
    """
    sizes = (16, 32, 64) if quick else (256, 512, 1024, 2048, 4096)
    points = {n: _time_spectra([_matrix(n)], 1 if quick else 3) for n in sizes}
    return [Curve("matrix-size", "spectrum, s", "rows of a square matrix", 3, points)]


def matrix_count(quick: bool, _: Path) -> list[Curve]:
    """Times the spectra of several square matrices.

    Args:
        quick: Whether sizes are small.

    Returns:
        One curve.
    """
    counts = (1, 2, 4) if quick else (1, 2, 4, 8, 16, 32, 64)
    size = 16 if quick else 384
    points = {n: _time_spectra([_matrix(size)] * n, 1 if quick else 5) for n in counts}
    return [Curve("matrix-count", "spectra, s", f"matrices of {size} × {size}", 1, points)]


def record(quick: bool, directory: Path) -> list[Curve]:
    """Finds size and time to read of run records.

    Args:
        quick: Whether records are short.
        directory: For the records.

    Returns:
        Two curves.
    """
    size: dict[int, Spread] = {}
    time: dict[int, Spread] = {}
    for epochs in (2, 4, 8) if quick else (32, 64, 128, 256, 512):
        ranks = np.maximum(1, SIZE - MEAN_RANK_LOSS * np.arange(epochs + 1))
        path = make_run(directory / f"epochs-{epochs}", ranks.astype(int).tolist())
        bytes_used = sum(file.stat().st_size for file in path.iterdir())
        size[epochs] = Spread(bytes_used / 1e3, 0.0, 1)
        time[epochs] = _time(partial(_read, path), 1 if quick else 5)
    return [
        Curve("record-size", "record size, kB", "epochs", 1, size),
        Curve("record-read", "reading a whole record, s", "epochs", 1, time),
    ]


def report(quick: bool, directory: Path) -> list[Curve]:
    """Times a report of many runs.

    Args:
        quick: Whether there are few.
        directory: For the runs.

    Returns:
        One curve.
    """
    counts = (2, 4, 8) if quick else (8, 16, 32, 64, 128)
    epochs = 2 if quick else 10
    made, output = directory / "runs", directory / "report.html"
    points = {}
    for count in counts:
        for k in range(len(list(made.glob("*"))), count):
            ranks = [SIZE - (k + epoch) % SIZE for epoch in range(epochs + 1)]
            make_run(made / f"run{k}", ranks, weight_decay=1e-3 * (1 + k // 4), seed=k % 4)
        points[count] = _time(lambda: write_report([made], output), 1 if quick else 3)
    return [Curve("report", "report, s", "runs", 1, points)]


def draw(curve: Curve) -> Figure:
    """Draws a curve with both exponents.

    Args:
        curve: What was measured.

    Returns:
        The figure.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.5, 2.0), layout=style.tight())
    axes = figure.subplots()
    sizes = sorted(curve.points)
    medians = np.array([curve.points[size].median for size in sizes])
    exponent, offset = curve.fit
    fitted = np.array(curve.larger, dtype=float)
    axes.plot(
        fitted,
        np.exp(offset) * fitted**exponent,
        color="0.7",
        lw=3,
        solid_capstyle="butt",
        label=f"fitted exponent {exponent:.2f}",
    )
    expected = medians[-1] * (np.array(sizes) / sizes[-1]) ** curve.expected
    axes.plot(
        sizes,
        expected,
        color="0.3",
        lw=0.8,
        ls=(0, (4, 3)),
        label=f"expected exponent {curve.expected:g}",
    )
    axes.plot(sizes, medians, "o", ms=3.5, color=style.colours(["measured"])[0])
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.set_ylim(top=3 * medians.max())  # room for the legend
    axes.set_xlabel(curve.size, fontsize=style.TEXT)
    axes.set_ylabel(curve.cost, fontsize=style.TEXT)
    axes.legend(loc="upper left", fontsize=style.TICKS, frameon=False, handlelength=1.6)
    style.dress(axes)
    return figure


def _matrix(size: int) -> torch.Tensor:
    return torch.randn(size, size, generator=torch.Generator().manual_seed(size))


def _time_spectra(matrices: Sequence[torch.Tensor], repetitions: int) -> Spread:
    return _time(lambda: singular_values(matrices, epsilons=EPSILONS), repetitions)


def _read(path: Path) -> None:
    found = load_run(path)
    for values in (found.metrics, found.spectra):
        for name in values:
            values[name]


def _time(turn: Callable[[], object], repetitions: int) -> Spread:
    turn()  # warms up
    return spread([seconds(turn) for _ in range(repetitions)])


if __name__ == "__main__":
    sys.exit(run("growth", measure))
