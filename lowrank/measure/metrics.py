"""Metric names: what one measurement adds to an epoch's row, in W&B and in the record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lowrank.common.quantities import TABLE, LayerQuantity, described
from lowrank.measure import ranks
from lowrank.measure.directions import Directions, alignment, overlap
from lowrank.measure.layers import Layer, is_derived_name
from lowrank.measure.quantities import recorded, value
from lowrank.measure.truncation import is_of_truncation

HISTOGRAM_EDGES = np.linspace(-8.0, 0.0, 65)
"""Edges of the bins of log10(σ/‖W‖): the same in every epoch, layer and run."""


def at(name: str, epsilon: float) -> str:
    """Returns the name of a rank at a further ε.

    Args:
        name: ``rank`` or ``rank_mean``.
        epsilon: Threshold relative to ‖W‖.

    Returns:
        The name with the threshold, which W&B takes as part of the name.

    Example:
        >>> at("rank", 1e-2), at("rank_mean", 1e-5)
        ('rank@0.01', 'rank_mean@1e-05')
    """
    return f"{name}@{epsilon:g}"


def is_hidden(name: str) -> bool:
    """Returns whether W&B shall not draw a panel for a metric by itself.

    Args:
        name: Of any metric. Hidden are the means of further ε, those of truncated networks, and all
            per layer but ``rank/<layer>`` of a weight matrix.

    Returns:
        Whether it is one that would bury the others.

    Example:
        >>> [name for name in ("rank/head", "rank@0.01/head", "spectrum/head") if is_hidden(name)]
        ['rank@0.01/head', 'spectrum/head']
    """
    quantity, _, layer = name.partition("/")
    if quantity.startswith(("rank@", "rank_mean@")) or is_of_truncation(name):
        return True
    if quantity == "rank" and is_derived_name(layer):
        return True
    known = TABLE.get(quantity)
    return bool(layer) and (quantity == "spectrum" or (known is not None and known.is_hidden))


def parts_of(layers: Iterable[Layer]) -> list[str]:
    """Returns the parts whose ranks are averaged by themselves, in network order.

    Args:
        layers: What is measured.

    Returns:
        Their names.

    Example:
        >>> parts_of([Layer("0", "0", (3, 3), part="a"), Layer("1", "1", (3, 3))])
        ['a']
    """
    return list(dict.fromkeys(layer.part for layer in layers if layer.part))


def measurement_metrics(
    layers: Sequence[Layer],
    spectra: Mapping[str, NDArray[np.float64]],
    *,
    epsilons: Sequence[float],
    rank_norm: str = "frobenius",
    collapsed: Mapping[str, bool] | None = None,
    distances: Mapping[str, float] | None = None,
    quantities: Sequence[LayerQuantity] | None = None,
) -> dict[str, float]:
    """Returns every quantity of one measurement by its name.

    A collapsed matrix has no rank, so its ranks are NaN and so is every mean over it: a collapse
    must never look like low rank.

    Args:
        layers: What was measured, in network order; what is derived counts in no mean and no
            number.
        spectra: Singular values, descending, by layer name, shape (k,).
        epsilons: Thresholds relative to ‖W‖; the first is primary and has the plain names.
        rank_norm: The norm ‖W‖: ``frobenius`` or ``spectral``.
        collapsed: Whether a matrix has collapsed, by layer name; False where not given. A matrix
            that is not finite counts as collapsed in any case.
        distances: Distance of the normalised matrix from the previous epoch, where there is one.
        quantities: Functions of singular values; None for those that are always recorded.

    Returns:
        Numbers by name, NaN where there is none. Per layer: ``rank``,
        ``rank@ε``, the quantities and, where given, ``distance``, each
        followed by ``/<layer>``. Over the counted layers, means of those that are averaged:
        ``rank_mean``, ``rank_mean@ε``, ``stable_rank_mean``, …. Over those of each part:
        ``rank_mean/<part>``, ``rank_mean@ε/<part>``. Over all weight matrices: ``rank_mean_all``.
        ``collapsed`` is a number of them.

    Example:
        >>> layers = [Layer("0", "0.weight", (3, 3)), Layer("2", "2.weight", (1, 3), counted=False)]
        >>> spectra = {"0": np.array([1.0, 0.1, 1e-5]), "2": np.array([1.0])}
        >>> row = measurement_metrics(layers, spectra, epsilons=[1e-3])
        >>> row["rank/0"], row["rank_mean"], row["rank_mean_all"], row["collapsed"]
        (2.0, 2.0, 1.5, 0.0)
    """
    primary, *further = epsilons
    entries = {entry.name: entry for entry in (recorded() if quantities is None else quantities)}
    row: dict[str, float] = {}
    gone = 0
    for layer in layers:
        values = spectra[layer.name]
        is_gone = (collapsed or {}).get(layer.name, False) or not np.isfinite(values).all()
        gone += is_gone and layer.kind == "weight"
        of_layer = {
            "rank": ranks.rank(values, primary, rank_norm),
            **{at("rank", epsilon): ranks.rank(values, epsilon, rank_norm) for epsilon in further},
            **{name: value(entry, values, layer.shape) for name, entry in entries.items()},
        }
        for name in of_layer:
            if is_gone and (entries.get(name) or described(name)).kind != "size":
                of_layer[name] = np.nan
        if distances is not None and layer.name in distances:
            of_layer["distance"] = distances[layer.name]
        row |= {f"{quantity}/{layer.name}": float(v) for quantity, v in of_layer.items()}

    def mean(quantity: str, names: Iterable[str]) -> float:
        values = [row[f"{quantity}/{name}"] for name in names]
        return float(np.mean(values)) if values else np.nan

    counted = [layer.name for layer in layers if layer.counted]
    parts = {part: [x.name for x in layers if x.part == part] for part in parts_of(layers)}
    of_ranks = {"rank": "rank_mean"} | {at("rank", e): at("rank_mean", e) for e in further}
    return {
        "rank_mean": mean("rank", counted),
        "rank_mean_all": mean("rank", (x.name for x in layers if x.kind == "weight")),
        **{e.mean: mean(e.name, counted) for e in entries.values() if e.mean},
        **{at("rank_mean", epsilon): mean(at("rank", epsilon), counted) for epsilon in further},
        **{
            f"{name}/{part}": mean(quantity, names)
            for quantity, name in of_ranks.items()
            for part, names in parts.items()
        },
        "collapsed": float(gone),
        **row,
    }


def bound_metrics(bounds: Mapping[str, float]) -> dict[str, float]:
    """Returns the bounds on ranks by their names.

    Args:
        bounds: By layer name, where there is one that is not vacuous.

    Returns:
        Numbers by name.

    Example:
        >>> bound_metrics({"layers_0": 1517.0})
        {'rank_bound/layers_0': 1517.0}
    """
    return {f"rank_bound/{layer}": bound for layer, bound in bounds.items()}


def direction_metrics(
    layers: Sequence[Layer],
    directions: Mapping[str, Directions],
    previous: Mapping[str, Directions],
    before: Mapping[str, str],
) -> dict[str, float]:
    """Returns how far leading directions agree, by names.

    Args:
        layers: What was measured, in network order.
        directions: Of each layer.
        previous: Those of the previous measurement; empty if there was none.
        before: By the name of a layer that of the one before it, where there is one.

    Returns:
        Numbers by name, NaN where there is none. Per layer ``overlap_left`` and ``overlap_right``,
        and ``alignment`` where there is a layer before; of each a mean over the counted layers.

    Example:
        >>> layers = [Layer("0", "0.weight", (4, 3)), Layer("2", "2.weight", (2, 4))]
        >>> found = {"0": Directions(np.eye(4)[:, :2], np.eye(3)[:, :2])}
        >>> found["2"] = Directions(np.eye(2), np.eye(4)[:, 1:3])
        >>> row = direction_metrics(layers, found, found, {"2": "0"})
        >>> row["overlap_left/0"], row["overlap_right_mean"], row["alignment/2"]
        (1.0, 1.0, 0.5)
    """
    of_layers: dict[str, dict[str, float]] = {}
    for side in Directions._fields:
        of_layers[f"overlap_{side}"] = {
            name: overlap(getattr(found, side), getattr(previous[name], side))
            if previous
            else np.nan
            for name, found in directions.items()
        }
    of_layers["alignment"] = {
        name: alignment(directions[earlier].left, directions[name].right)
        for name, earlier in before.items()
    }
    row = {}
    for quantity, values in of_layers.items():
        counted = [values[layer.name] for layer in layers if layer.counted and layer.name in values]
        if counted:
            row[TABLE[quantity].mean] = float(np.mean(counted))
        row |= {f"{quantity}/{name}": value for name, value in values.items()}
    return row


def spectrum_histogram(s: ArrayLike, rank_norm: str = "frobenius") -> NDArray[np.int64] | None:
    """Counts log10(σ/‖W‖) in 64 equal bins over [-8, 0].

    Args:
        s: Singular values of one matrix, shape (k,).
        rank_norm: The norm ‖W‖: ``frobenius`` or ``spectral``.

    Returns:
        Counts, shape (64,), sum k. Values below 1e-8 ‖W‖, zeros included, are in the first bin,
        σ = ‖W‖ is in the last. None where the matrix is zero or not finite.

    Example:
        >>> counts = spectrum_histogram([1.0, 0.1, 0.0], "spectral")
        >>> [(int(bin), int(counts[bin])) for bin in counts.nonzero()[0]]
        [(0, 1), (56, 1), (63, 1)]
    """
    values = np.asarray(s, dtype=np.float64)
    norm = ranks.NORMS[rank_norm](values)
    if not 0 < norm < np.inf:
        return None
    # Rounding may leave a lone σ just above its own norm: clipped, as it belongs in the last bin.
    logs = np.log10(np.clip(values / norm, 1e-8, 1.0))
    return np.histogram(logs, HISTOGRAM_EDGES)[0]
