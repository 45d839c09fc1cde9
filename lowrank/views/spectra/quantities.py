"""Quantities of the weight matrices of files, and all of them as JSON or CSV."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lowrank.common.quantities import TABLE, LayerQuantity, described
from lowrank.common.texts import csv_text
from lowrank.common.texts import to_json as as_json
from lowrank.measure.layers import Layer
from lowrank.measure.metrics import at
from lowrank.measure.quantities import value
from lowrank.measure.ranks import rank
from lowrank.measure.spectra import Spectrum, singular_values
from lowrank.measure.watcher import COLLAPSE
from lowrank.views.spectra.weights import Weights

_TOGETHER = 8_000_000  # entries; small matrices are faster together, one thread each


@dataclass(frozen=True, kw_only=True)
class Row(Layer):
    """What was found about one matrix.

    Attributes:
        spectrum: Singular values (min(rows, columns),), descending; NaN if it is not finite.
        quantities: Numbers by name, NaN where there is none.
        remark: Why some of them are NaN; empty if none is.
    """

    spectrum: Spectrum
    quantities: dict[str, float]
    remark: str


@dataclass(frozen=True)
class Measured:
    """All rows of one file, in its order, and how they were measured.

    Attributes:
        weights: The file.
        epsilons: Thresholds of the ranks.
        rank_norm: The norm they are relative to.
        rows: One per matrix.
    """

    weights: Weights
    epsilons: tuple[float, ...]
    rank_norm: str
    rows: list[Row]

    @property
    def view(self) -> str:
        """How tensors are seen as matrices, in words."""
        if self.weights.model is None:
            return (
                "rows = first dimension, as no model is named; not true for transposed\n"
                "convolutions, fused attention and recurrent layers: --model=NAME views them"
            )
        return f"rows and columns as the modules of {self.weights.model} have them"

    def means(self) -> dict[str, dict[str, float]]:
        """Returns the means of the ranks over two sets of matrices, by name of set and quantity.

        Returns:
            ``rank_mean_all`` over all matrices; ``rank_mean`` over those that count, where a model
            says which. NaN where a matrix has no rank.
        """
        sets = {"rank_mean_all": self.rows}
        if self.weights.model is not None:
            sets = {"rank_mean": [row for row in self.rows if row.counted]} | sets
        return {
            name: {
                quantity: float(np.mean([row.quantities[quantity] for row in rows]))
                for quantity in self.rows[0].quantities
                if described(quantity).mean
            }
            for name, rows in sets.items()
            if rows
        }


def measure(
    weights: Weights,
    *,
    epsilons: Sequence[float] = (1e-3, 1e-2),
    rank_norm: str = "frobenius",
    further: Collection[str] = (),
    progress: Callable[[int], object] = lambda _: None,
) -> Measured:
    """Computes the spectrum and the quantities of every matrix.

    A few small matrices or one large one are in memory at a time.

    Args:
        weights: As `read_weights` gives them.
        epsilons: Thresholds of the rank.
        rank_norm: ``frobenius`` or ``spectral``: the norm that thresholds refer to.
        further: Names of `lowrank.common.quantities.FURTHER` that are wanted, too.
        progress: Called with the number of matrices done since the last call.

    Returns:
        A row per matrix.
    """
    rows: list[Row] = []
    entries = sorted(
        (e for e in TABLE.values() if e.function and (e.told != "on request" or e.name in further)),
        key=lambda entry: entry.name not in further,  # a table may have no room for the last ones
    )
    for start, stop in _groups([math.prod(matrix.shape) for matrix in weights.matrices]):
        group = weights.matrices[start:stop]
        spectra = singular_values(
            [matrix.view() for matrix in group], epsilons=epsilons, rank_norm=rank_norm
        )
        for matrix, spectrum in zip(group, spectra, strict=True):
            remark = _why_no_rank(spectrum, weights.largest_norms.get(matrix.name, 0.0))
            quantities = _quantities(spectrum, matrix.shape, epsilons, rank_norm, entries)
            if not (remark or spectrum.any()):
                remark = "zero: it has no stable and no effective rank"
            elif remark:
                quantities |= {name: math.nan for name in quantities if described(name).mean}
            rows.append(
                Row(
                    matrix.name,
                    matrix.path,
                    matrix.shape,
                    counted=None if weights.model is None else matrix.counted,
                    spectrum=spectrum,
                    quantities=quantities,
                    remark=remark,
                )
            )
        progress(len(group))
    return Measured(weights, tuple(epsilons), rank_norm, rows)


def _groups(sizes: Sequence[int]) -> Iterable[tuple[int, int]]:
    """Yields ranges of neighbours that are small together, or of one."""
    start = total = 0
    for index, size in enumerate(sizes):
        if index > start and total + size > _TOGETHER:
            yield start, index
            start, total = index, 0
        total += size
    yield start, len(sizes)


def _quantities(
    s: Spectrum,
    shape: tuple[int, int],
    epsilons: Sequence[float],
    rank_norm: str,
    entries: Sequence[LayerQuantity],
) -> dict[str, float]:
    found = {at("rank", epsilon): rank(s, epsilon, rank_norm) for epsilon in epsilons}
    found |= {entry.name: value(entry, s, shape) for entry in entries}
    return {name: float(value) for name, value in found.items()}


def _why_no_rank(s: Spectrum, largest_norm: float) -> str:
    if not np.isfinite(s).all():
        return "not finite: it holds NaN or infinite values"
    if np.linalg.norm(s) < COLLAPSE * largest_norm:
        return f"collapsed: its norm is below {COLLAPSE:g} of the largest it had"
    return ""


def to_json(files: Sequence[Measured], truncated: Sequence[Mapping[str, float]] = ()) -> str:
    """Returns everything that was measured, spectra included.

    Args:
        files: One or more.
        truncated: What each came to at lower ranks, by name of the metric; or nothing.

    Returns:
        A JSON document: under ``files`` one object per file; null stands for NaN.
    """
    documents: list[dict[str, Any]] = [
        {
            "file": measured.weights.path,
            "model": measured.weights.model,
            "origin": measured.weights.origin,
            "view": measured.view.replace("\n", " "),
            "epsilons": measured.epsilons,
            "rank_norm": measured.rank_norm,
            "means": measured.means(),
            "matrices": [
                {
                    **_identity(row),
                    **row.quantities,
                    "remark": row.remark,
                    "singular_values": row.spectrum.tolist(),
                }
                for row in measured.rows
            ],
            "skipped": [asdict(skipped) for skipped in measured.weights.skipped],
        }
        for measured in files
    ]
    for document, metrics in zip(documents, truncated, strict=False):
        document["truncated"] = metrics
    return as_json({"files": _without_nan(documents)})


def to_csv(files: Sequence[Measured]) -> str:
    """Returns a line for every matrix of every file.

    Args:
        files: One or more, measured at the same thresholds.

    Returns:
        CSV with a head line.
    """
    rows = [
        {"file": measured.weights.path, **_identity(row), **row.quantities, "remark": row.remark}
        for measured in files
        for row in measured.rows
    ]
    return csv_text([rows[0], *(row.values() for row in rows)])


def _identity(row: Row) -> dict[str, Any]:
    rows, columns = row.shape
    return {
        "name": row.name,
        "path": row.path,
        "rows": rows,
        "columns": columns,
        "full_rank": min(rows, columns),
        "counted": row.counted,
    }


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
