"""The quantities of a weight matrix: one table for all that ask for, measure, log or show them.

A new quantity is a function in `lowrank.measure.ranks` and an entry in `TABLE`. Then it is in the
record and in W&B, in the tables of ``lowrank spectra``, in the report and, where the entry says so,
on the dashboard and in the table that a run ends with. One that is only told on request is derived
from the recorded spectra where a run did not record it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

PRODUCTS = ("qk", "ov")
"""Kinds of derived matrices of attention, one for each head."""

CHANGES = ("change", "update", "gradient")
"""Kinds of derived matrices that every weight matrix may have."""


@dataclass(frozen=True)
class LayerQuantity:
    """What is known of a quantity before it is measured.

    Attributes:
        name: What stands before ``/<layer>`` in the names of metrics.
        words: What it is called in sentences and at axes.
        formula: Its definition where it is short; empty where it is not.
        function: Gives it from singular values (..., k): its module and name within
            ``lowrank.measure``, or one of one's own. Empty for what needs more than those:
            `lowrank.measure.metrics` knows how to come by it.
        options: Further arguments of the function.
        takes_shape: Whether the function takes (rows, columns) beside singular values.
        is_share: Whether it is what the function gives over the full rank.
        kind: ``rank`` counts directions; it has no value where a matrix has collapsed, is averaged
            over the counted layers and compared with the full rank. ``shape`` is a number of
            another kind that does not depend on the matrix's scale: likewise, but not compared.
            ``size`` keeps its value at collapse and is not averaged.
        unit: Of its values; empty for a mere number.
        head: Its column in a table.
        form: How a table writes its values.
        told: ``always``: training records it and W&B gets it. ``of files``: ``lowrank spectra``
            shows it. ``on request``: who names it gets it. The last two are never recorded unless
            asked for. ``with directions``: recorded where those are.
        is_hidden: Whether W&B shall draw no panel of each layer by itself.
        on_dashboard: Whether it has a panel there: of its mean, or of every layer where none is.
        in_console: Whether the table at the end of a run has it.
        in_report: Whether the report draws every layer's: among the ranks, or among the sizes.
    """

    name: str
    words: str
    formula: str = ""
    function: str | Callable[..., Any] = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    takes_shape: bool = False
    is_share: bool = False
    kind: Literal["rank", "shape", "size"] = "rank"
    unit: str = ""
    head: str = ""
    form: str = ".4g"
    told: Literal["always", "of files", "on request", "with directions"] = "always"
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
        return "" if self.kind == "size" else f"{self.name}_mean"


_ON_REQUEST: dict[str, Any] = {"told": "on request", "form": ".1f"}
_OF_DIRECTIONS: dict[str, Any] = {"told": "with directions", "kind": "shape", "form": ".3f"}


def _with_shares(entries: Iterable[LayerQuantity]) -> Iterable[LayerQuantity]:
    """Yields entries, and at the end those of ranks as a share of the full rank."""
    listed = list(entries)
    yield from listed
    for entry in listed:
        if entry.kind == "rank" and entry.function:
            yield dataclasses.replace(
                entry,
                name=f"{entry.name}_share",
                words=f"{entry.words} as a share of the full rank",
                formula="",
                is_share=True,
                kind="shape",
                head=f"{entry.head}/full",
                form=".3f",
                told="on request",
                on_dashboard=False,
                in_console=False,
            )


TABLE: dict[str, LayerQuantity] = {
    quantity.name: quantity
    for quantity in _with_shares((
        LayerQuantity("rank", "rank", head="rank", form=".0f", is_hidden=False),
        LayerQuantity(
            "stable_rank",
            "stable rank",
            "‖W‖_F²/‖W‖_2²",
            "ranks.stable_rank",
            head="stable",
            form=".2f",
            on_dashboard=True,
            in_console=True,
        ),
        LayerQuantity(
            "effective_rank",
            "effective rank",
            function="ranks.effective_rank",
            head="effective",
            form=".1f",
            on_dashboard=True,
        ),
        LayerQuantity(
            "energy_rank",
            "energy rank",
            function="ranks.energy_rank",
            head="energy",
            form=".0f",
            told="of files",
        ),
        LayerQuantity(
            "effective_rank_energy",
            "effective rank of σ²",
            "exp H(σ²/Σσ²)",
            "ranks.effective_rank",
            {"power": 2},
            head="eff. σ²",
            **_ON_REQUEST,
        ),
        LayerQuantity(
            "participation_ratio",
            "participation ratio",
            "(Σσ²)²/Σσ⁴",
            "ranks.participation_ratio",
            head="particip.",
            **_ON_REQUEST,
        ),
        LayerQuantity(
            "nuclear_rank",
            "nuclear rank",
            "(Σσ)²/Σσ²",
            "ranks.nuclear_rank",
            head="nuclear",
            **_ON_REQUEST,
        ),
        LayerQuantity(
            "srank",
            "srank at δ = 0.01",
            function="ranks.srank",
            head="srank",
            **(_ON_REQUEST | {"form": ".0f"}),
        ),
        LayerQuantity(
            "power_law_alpha",
            "power-law exponent α of σ²",
            function="tails.power_law_alpha",
            kind="shape",
            head="α",
            **(_ON_REQUEST | {"form": ".2f"}),
        ),
        LayerQuantity(
            "edge_ratio",
            "largest σ over the Marchenko-Pastur edge",
            function="tails.edge_ratio",
            takes_shape=True,
            kind="shape",
            head="σ₁/edge",
            **(_ON_REQUEST | {"form": ".3f"}),
        ),
        LayerQuantity(
            "frobenius_norm",
            "Frobenius norm",
            "‖W‖_F",
            "ranks.frobenius_norm",
            kind="size",
            head="‖W‖",
        ),
        LayerQuantity(
            "spectral_norm",
            "spectral norm",
            "‖W‖_2",
            "ranks.spectral_norm",
            kind="size",
            head="‖W‖₂",
        ),
        LayerQuantity("distance", "distance of W/‖W‖ from the epoch before", kind="size"),
        LayerQuantity("rank_bound", "rank bound", kind="size", form=".0f", in_report=False),
        LayerQuantity(
            "overlap_left",
            "left overlap",
            "‖UᵀU′‖²/r",
            **_OF_DIRECTIONS,
        ),
        LayerQuantity(
            "overlap_right",
            "right overlap",
            "‖VᵀV′‖²/r",
            **_OF_DIRECTIONS,
        ),
        LayerQuantity("alignment", "alignment", "‖VᵀU‖²/r", **_OF_DIRECTIONS),
    ))
}  # fmt: skip
"""By name, in the order in which they are recorded and shown."""

FURTHER = tuple(entry.name for entry in TABLE.values() if entry.told in ("of files", "on request"))
"""What is recorded for who asks."""


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
