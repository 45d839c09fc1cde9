"""Metric names: what one measurement adds to an epoch's row, in W&B and in the record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lowrank.measure import ranks
from lowrank.measure.layers import Layer
from lowrank.measure.quantities import TABLE, averaged, described
from lowrank.measure.ranks import Quantity, quantity_of

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
        name: Of any metric. Hidden are the means of further ε and all per layer but
            ``rank/<layer>``.

    Returns:
        Whether it is one that would bury the others.

    Example:
        >>> [name for name in ("rank/head", "rank@0.01/head", "spectrum/head") if is_hidden(name)]
        ['rank@0.01/head', 'spectrum/head']
    """
    quantity, _, layer = name.partition("/")
    if quantity.startswith(("rank@", "rank_mean@")):
        return True
    known = TABLE.get(quantity)
    return bool(layer) and (quantity == "spectrum" or (known is not None and known.is_hidden))


def measurement_metrics(
    layers: Sequence[Layer],
    spectra: Mapping[str, NDArray[np.float64]],
    *,
    epsilons: Sequence[float],
    rank_norm: str = "frobenius",
    collapsed: Mapping[str, ArrayLike] | None = None,
    distances: Mapping[str, Quantity] | None = None,
) -> dict[str, Quantity]:
    """Returns every quantity of one measurement by its name.

    A collapsed matrix has no rank, so its ranks are NaN and so is every mean over it: a collapse
    must never look like low rank.

    Args:
        layers: What was measured, in network order.
        spectra: Singular values, descending, by layer name: shape (k,), or (N, k) for N replicas.
        epsilons: Thresholds relative to ‖W‖; the first is primary and has the plain names.
        rank_norm: The norm ‖W‖: ``frobenius`` or ``spectral``.
        collapsed: Whether a matrix has collapsed, by layer name, shape () or (N,); False where not
            given. A matrix that is not finite counts as collapsed in any case.
        distances: Distance of the normalised matrix from the previous epoch, where there is one.

    Returns:
        Numbers by name, (N,) of N replicas, NaN where there is none. Per layer: ``rank``,
        ``rank@ε``, what `lowrank.measure.quantities.TABLE` has and, where given, ``distance``, each
        followed by ``/<layer>``. Over the counted layers, means of those that are averaged:
        ``rank_mean``, ``rank_mean@ε``, ``stable_rank_mean``, …. Over all: ``rank_mean_all``.
        ``collapsed`` is a number of matrices.

    Example:
        >>> layers = [Layer("0", "0.weight", (3, 3)), Layer("2", "2.weight", (1, 3), counted=False)]
        >>> spectra = {"0": np.array([1.0, 0.1, 1e-5]), "2": np.array([1.0])}
        >>> row = measurement_metrics(layers, spectra, epsilons=[1e-3])
        >>> row["rank/0"], row["rank_mean"], row["rank_mean_all"], row["collapsed"]
        (2.0, 2.0, 1.5, 0.0)
    """
    primary, *further = epsilons
    functions = {e.name: e.function for e in TABLE.values() if e.is_logged and e.function}
    row: dict[str, Quantity] = {}
    gone = []
    for layer in layers:
        values = spectra[layer.name]
        named = np.asarray((collapsed or {}).get(layer.name, False))
        gone.append(named | ~np.isfinite(values).all(axis=-1))
        of_layer = {
            "rank": ranks.rank(values, primary, rank_norm),
            **{at("rank", epsilon): ranks.rank(values, epsilon, rank_norm) for epsilon in further},
            **{name: function(values) for name, function in functions.items()},
        }
        for name in of_layer:
            if described(name).is_rank:
                of_layer[name] = np.where(gone[-1], np.nan, of_layer[name])
        if distances is not None and layer.name in distances:
            of_layer["distance"] = distances[layer.name]
        row |= {f"{quantity}/{layer.name}": quantity_of(v) for quantity, v in of_layer.items()}

    def mean(quantity: str, names: Iterable[str]) -> Quantity:
        values = [row[f"{quantity}/{name}"] for name in names]
        return quantity_of(np.mean(np.asarray(values), axis=0)) if values else np.nan

    counted = [layer.name for layer in layers if layer.counted]
    return {
        "rank_mean": mean("rank", counted),
        "rank_mean_all": mean("rank", (layer.name for layer in layers)),
        **{entry.mean: mean(entry.name, counted) for entry in averaged()},
        **{at("rank_mean", epsilon): mean(at("rank", epsilon), counted) for epsilon in further},
        "collapsed": quantity_of(np.sum(gone, axis=0, dtype=np.float64)),
        **row,
    }


def bound_metrics(bounds: Mapping[str, Quantity]) -> dict[str, Quantity]:
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


def spectrum_histogram(s: ArrayLike, rank_norm: str = "frobenius") -> NDArray[np.int64] | None:
    """Counts log10(σ/‖W‖) in 64 equal bins over [-8, 0].

    Args:
        s: Singular values of one matrix, shape (k,), or of that of N replicas, (N, k).
        rank_norm: The norm ‖W‖: ``frobenius`` or ``spectral``.

    Returns:
        Counts, shape (64,), sum k or N·k. Values below 1e-8 ‖W‖, zeros included, are in the first
        bin, σ = ‖W‖ is in the last. None where a matrix is zero or not finite.

    Example:
        >>> counts = spectrum_histogram([1.0, 0.1, 0.0], "spectral")
        >>> [(int(bin), int(counts[bin])) for bin in counts.nonzero()[0]]
        [(0, 1), (56, 1), (63, 1)]
    """
    values = np.asarray(s, dtype=np.float64)
    norm = ranks.spectral_norm(values) if rank_norm == "spectral" else ranks.frobenius_norm(values)
    if not np.all(np.isfinite(norm) & (np.asarray(norm) > 0)):
        return None
    # Rounding may leave a lone σ just above its own norm: clipped, as it belongs in the last bin.
    logs = np.log10(np.clip(values / np.asarray(norm)[..., None], 1e-8, 1.0))
    return np.histogram(logs, HISTOGRAM_EDGES)[0]


def deviation(name: str) -> str:
    """Returns the name of a headline metric's standard deviation over replicas.

    Args:
        name: Of the metric.

    Returns:
        The name.

    Example:
        >>> deviation("rank_mean")
        'rank_mean_std'
    """
    return f"{name}_std"


def over_replicas(row: Mapping[str, Quantity]) -> dict[str, float]:
    """Returns the row of one epoch as it is recorded and logged: a number by each name.

    Of N replicas these are means. A mean over a replica without value has none, so that a collapse
    never looks like low rank. Headline metrics, those that are not of a layer, have their standard
    deviation (of a sample, with N − 1) beside them.

    Args:
        row: Numbers of one network, which stay as they are, or (N,) of N > 1 replicas, by name.

    Returns:
        The row.

    Example:
        >>> over_replicas({"epoch": 1.0, "rank_mean": np.array([7.0, 9.0])})
        {'epoch': 1.0, 'rank_mean': 8.0, 'rank_mean_std': 1.4142135623730951}
    """
    means: dict[str, float] = {}
    for name, value in row.items():
        values = np.asarray(value, dtype=np.float64)
        with np.errstate(invalid="ignore"):  # an infinite loss has no deviation
            means[name] = float(values.mean())
            if values.ndim and "/" not in name:
                means[deviation(name)] = float(values.std(ddof=1))
    return means
