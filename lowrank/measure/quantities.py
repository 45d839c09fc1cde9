"""The quantities of a weight matrix: one table for all that measure, log or show them.

A new quantity is a function in `lowrank.measure.ranks` and an entry in `TABLE`. Then it is in the
record and in W&B, in the tables of ``lowrank spectra``, in the report and, where the entry says so,
on the dashboard and in the table that a run ends with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from numpy.typing import ArrayLike

from lowrank.measure import ranks
from lowrank.measure.ranks import Quantity


@dataclass(frozen=True)
class LayerQuantity:
    """What is known of a quantity before it is measured.

    Attributes:
        name: What stands before ``/<layer>`` in the names of metrics.
        words: What it is called in sentences and at axes.
        formula: Its definition where it is short; empty where it is not.
        function: Gives it from singular values (..., k). None for what needs more than those:
            `lowrank.measure.metrics` knows how to come by it.
        is_rank: Whether it counts directions. Such a quantity has no value where a matrix has
            collapsed, is averaged over the counted layers and compared with the full rank; any
            other is a size, which keeps its value and is not averaged.
        unit: Of its values; empty for a mere number.
        head: Its column in a table.
        form: How a table writes its values.
        is_logged: Whether training records it and W&B gets it, else only files are told.
        is_hidden: Whether W&B shall draw no panel of each layer by itself.
        on_dashboard: Whether it has a panel there: of its mean, or of every layer where none is.
        in_console: Whether the table at the end of a run has it.
        in_report: Whether the report draws every layer's: among the ranks, or among the sizes.
    """

    name: str
    words: str
    formula: str = ""
    function: Callable[[ArrayLike], Quantity] | None = None
    is_rank: bool = True
    unit: str = ""
    head: str = ""
    form: str = ".4g"
    is_logged: bool = True
    is_hidden: bool = True
    on_dashboard: bool = False
    in_console: bool = False
    in_report: bool = True

    @property
    def meaning(self) -> str:
        """Words, formula and unit, as at an axis."""
        unit = f"in {self.unit}" if self.unit else ""
        return " ".join(part for part in (self.words, self.formula, unit) if part)

    @property
    def mean(self) -> str:
        """The metric that averages it over the counted layers; empty where none does."""
        return f"{self.name}_mean" if self.is_rank else ""


TABLE: dict[str, LayerQuantity] = {
    quantity.name: quantity
    for quantity in (
        LayerQuantity("rank", "rank", head="rank", form=".0f", is_hidden=False),
        LayerQuantity(
            "stable_rank",
            "stable rank",
            "‖W‖_F²/‖W‖_2²",
            ranks.stable_rank,
            head="stable",
            form=".2f",
            on_dashboard=True,
            in_console=True,
        ),
        LayerQuantity(
            "effective_rank",
            "effective rank",
            function=ranks.effective_rank,
            head="effective",
            form=".1f",
            on_dashboard=True,
        ),
        LayerQuantity(
            "energy_rank",
            "energy rank",
            function=ranks.energy_rank,
            head="energy",
            form=".0f",
            is_logged=False,
        ),
        LayerQuantity(
            "frobenius_norm",
            "Frobenius norm",
            "‖W‖_F",
            ranks.frobenius_norm,
            is_rank=False,
            head="‖W‖",
        ),
        LayerQuantity(
            "spectral_norm",
            "spectral norm",
            "‖W‖_2",
            ranks.spectral_norm,
            is_rank=False,
            head="‖W‖₂",
        ),
        LayerQuantity("distance", "distance of W/‖W‖ from the epoch before", is_rank=False),
        LayerQuantity("rank_bound", "rank bound", is_rank=False, form=".0f", in_report=False),
    )
}
"""By name, in the order in which they are recorded and shown."""


def described(name: str) -> LayerQuantity:
    """Returns the entry of a quantity, also of a rank at a further ε.

    Args:
        name: Such as ``stable_rank`` or ``rank@0.01``.

    Returns:
        The entry.

    Example:
        >>> described("rank@0.01").words
        'rank'
    """
    return TABLE[name.partition("@")[0]]


def averaged() -> list[LayerQuantity]:
    """Returns what rows hold a mean of, beside the ranks at each ε."""
    return [e for e in TABLE.values() if e.function and e.is_rank and e.is_logged]
