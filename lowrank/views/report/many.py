"""Many runs as the tables behind the page's overview: what varies, curves, and last values.

A run that collapsed or died has no rank from then on: NaN, never a low number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from lowrank.common.quantities import TABLE
from lowrank.common.secrets import redact
from lowrank.measure.metrics import parts_of
from lowrank.measure.truncation import is_of_truncation
from lowrank.runs.find import Run
from lowrank.runs.metrics import metric_of
from lowrank.views.report.packing import Floats, every, pack
from lowrank.views.table.fields import differing, in_order, text, words
from lowrank.views.table.rows import ACCURACIES, Definition, RunRow, definitions, recorded_as

CURVE_BYTES = 3_000_000
"""For all curves together, before they become text."""

POINTS = (40, 200)
"""A curve has at least and at most so many points: more than 200 a plot does not show."""

MOST_METRICS = 40
"""So many others can be chosen, those that most runs have."""


def quantities_of(runs: Sequence[Run]) -> dict[str, tuple[str, Definition | None]]:
    """Returns what the overview can show: ranks at every recorded ε, and the other means.

    Args:
        runs: The runs; those of another norm or without some ε have no such rank.

    Returns:
        For each key in the page its name in words, and for a rank its definition; the most
        frequent primary rank first, then by ε.
    """
    primary, recorded = Counter[Definition](), set[Definition]()
    for run in runs:
        of_run = definitions(run)
        primary.update(of_run[:1])
        recorded |= set(of_run)
    first = [definition for definition, _ in primary.most_common(1)]
    rest = sorted(recorded - set(first), key=lambda d: (d.rank_norm, d.epsilon))
    found: dict[str, tuple[str, Definition | None]] = {
        f"rank {definition}": (f"average rank at {definition}", definition)
        for definition in [*first, *rest]
    }
    for entry in TABLE.values():
        if entry.mean not in ("", "rank_mean") and any(entry.mean in run.metrics for run in runs):
            found[entry.mean] = (f"average {entry.meaning}", None)
    for part in dict.fromkeys(part for run in runs for part in parts_of(run.layers)):
        found[f"rank_mean/{part}"] = (f"average rank of the {part}", None)
    return found


def further_metrics(run: Run) -> list[str]:
    """Returns the other numbers that a run has once per epoch: losses, and whatever it logged.

    Args:
        run: The run.

    Returns:
        Names in the record's order; no ranks, no accuracies and no quantities of single layers.
    """
    known = {"epoch", "collapsed", "dead", *(entry.mean for entry in TABLE.values()), *ACCURACIES}
    layers = {layer.name for layer in (*run.layers, *run.derived)}

    def is_further(name: str) -> bool:
        head, slash, layer = name.partition("/")
        quantity = head.partition("@")[0]
        if slash and layer in layers and quantity in TABLE:
            return False
        if is_of_truncation(name):  # which have a panel of their own
            return False
        return name not in known and quantity != "rank_mean"

    return [name for name in run.metrics if is_further(name)]


def overview(runs: Sequence[Run], rows: Sequence[RunRow], named: Sequence[str]) -> dict[str, Any]:
    """Returns the tables of many runs.

    Args:
        runs: The runs.
        rows: What `lowrank.views.table` says of each, in the same order.
        named: How each is named on the command line.

    Returns:
        JSON types, as the page's program reads them.
    """
    quantities = quantities_of(runs)
    logged = [n for n, _ in Counter(n for run in runs for n in further_metrics(run)).most_common()]
    metrics = {name: name.replace("_", " ") for name in logged[:MOST_METRICS]}
    shown_values = quantities | {name: (text, None) for name, text in metrics.items()}
    fields, found = differing(rows)
    levels = {name: in_order(each.get(name) for each in found) for name in fields}
    places = {name: {value: i for i, value in enumerate(levels[name])} for name in fields}
    longest = max((len(row.epochs) for row in rows), default=0)
    wanted = int(CURVE_BYTES / 4 / max(1, len(rows)) / (len(shown_values) + len(ACCURACIES)))
    stride = max(1, -(-longest // int(np.clip(wanted, *POINTS))))
    groups: dict[tuple[Hashable, ...], int] = {}
    axes: dict[bytes, int] = {}
    table = []
    for run, row, own, name in zip(runs, rows, found, named, strict=True):
        measured = np.isin(run.epochs, row.epochs)
        gone = np.isnan(row.ranks)
        shown = every(len(row.epochs), stride)
        columns = _columns(run, shown_values, measured, gone)
        axis = axes.setdefault(row.epochs[shown].astype("<f4").tobytes(), len(axes))
        point = tuple(own.get(field) for field in fields if field != "seed")
        table.append(
            {
                "id": run.id,
                "named": name,
                "state": run.state,
                "ends": row.end,
                "created": run.created[:16].replace("T", " "),
                "levels": [places[field][own.get(field)] for field in fields],
                "group": groups.setdefault(point, len(groups)),
                "epoch": int(run.epochs[-1]) if len(run.epochs) else None,
                "epochs": _whole(run.config.get("epochs")),
                "full_rank": _number(row.full_rank),
                "last": {key: _number(values[-1:]) for key, values in columns.items()},
                "axis": axis,
                "curves": {k: pack(v[shown]) for k, v in columns.items() if not np.isnan(v).all()},
            }
        )
    return {
        "fields": [_field(name, levels[name]) for name in fields],
        "quantities": {key: meaning for key, (meaning, _) in quantities.items()},
        "metrics": metrics,
        "unlisted": logged[MOST_METRICS:],
        "axes": [pack(np.frombuffer(axis, dtype="<f4")) for axis in axes],
        "stride": stride,
        "runs": table,
    }


def _columns(
    run: Run,
    quantities: dict[str, tuple[str, Definition | None]],
    measured: Any,
    gone: Any,
) -> dict[str, Floats]:
    """Returns every curve over the measured epochs."""
    names = {
        key: key if definition is None else recorded_as(run, definition)
        for key, (_, definition) in quantities.items()
    }
    names |= {name: name for name in ACCURACIES}
    run.preload(names.values())
    columns = {key: metric_of(run, name)[measured] for key, name in names.items()}
    for key in quantities:
        columns[key] = np.where(gone, np.nan, columns[key])
    return columns


def _field(name: str, values: Sequence[Hashable]) -> dict[str, Any]:
    """Describes a setting that varies.

    Returns:
        Its name and its values as texts and, if every value is a number, as numbers.
    """
    numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    return {
        "name": name,
        "words": words(name),
        "texts": [redact(text(value))[:80] for value in values],
        "numbers": [float(str(value)) for value in values] if numeric else None,
    }


def _number(value: Any) -> float | None:
    """Returns a number with seven digits, None for NaN, infinity or an empty array."""
    array = np.atleast_1d(value)
    if not array.size or not np.isfinite(array[0]):
        return None
    return float(f"{array[0]:.7g}")


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
