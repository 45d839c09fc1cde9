"""Many runs' spectra and norm ratios, of as many runs as the page has room for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from lowrank.runs.find import Run
from lowrank.runs.format import RecordError
from lowrank.runs.lost import NO_RANK
from lowrank.views.report.packing import Floats, Places, pack, spread
from lowrank.views.table.matrices import EVERY, norm_ratios, relative_spectra, usual_layer
from lowrank.views.table.rows import Definition, RunRow, definitions

MATRIX_BYTES = 600_000
"""For all of these tables, before they become text; half is for the spectra."""

MOST_RUNS = 100
"""Runs whose matrices are shown, one of every point before a second of any."""

POINTS = (16, 100)
"""A spectrum is drawn through at least and at most so many of its values."""

RATIOS = (8, 60)
"""Likewise the ratios of one matrix over the epochs."""


def matrices(
    runs: Sequence[Run], rows: Sequence[RunRow], groups: Sequence[int], definition: Definition
) -> tuple[dict[str, Any], dict[int, list[str]]]:
    """Returns σ/‖W‖ of every layer at a run's last epoch, and its norm ratios over k epochs.

    Args:
        runs: The runs.
        rows: What `lowrank.views.table` says of each, in the same order.
        groups: Of each the number of its point: what differs in the seed only has the same.
        definition: Whose norm divides.

    Returns:
        JSON types, as the page's program reads them, and for the place of every run whose spectra
        cannot be read the reason in lines.
    """
    able = [n for n, row in enumerate(rows) if row.epochs.size and row.end not in NO_RANK]
    names = list(dict.fromkeys(layer.name for n in able for layer in runs[n].layers))
    most = int(np.clip(MATRIX_BYTES / 2 / 4 / POINTS[0] / max(1, len(names)), 1, MOST_RUNS))
    chosen = _spread_over_points(able, rows, groups, most)
    per_run = MATRIX_BYTES / 2 / 4 / max(1, len(chosen))
    points = int(np.clip(per_run / max(1, len(names)), *POINTS))
    ends = int(np.clip(per_run / (2 + len(names)), *RATIOS))
    every = _every([rows[n].epochs for n in chosen])
    places: dict[int, Places] = {}
    axes: dict[bytes, int] = {}
    found, unread = {}, {}
    for n in chosen:
        run, row = runs[n], rows[n]
        try:
            spectra = relative_spectra(run, [int(row.epochs[-1])], definition.rank_norm)
            t, ratios, decay = norm_ratios(run, row.epochs, [x.name for x in run.layers], every)
        except RecordError as error:
            unread[n] = [f"no spectra: {line}" for line in error.lines]
            continue
        of_layers: list[list[Any] | None] = [None] * len(names)
        table = np.full((len(names), len(t)), np.nan)
        for layer, of_epochs in zip(run.layers, ratios, strict=True):
            (values,), place = spectra[layer.name], names.index(layer.name)
            shown = places.setdefault(len(values), spread(len(values), points))
            of_layers[place] = [len(values), pack(values[shown])]
            table[place] = of_epochs
        kept = spread(len(t), ends)
        found[str(n)] = {
            "epoch": int(row.epochs[-1]),
            "spectra": of_layers,
            "axis": axes.setdefault(t[kept].astype("<f4").tobytes(), len(axes)),
            "ratios": pack(table[:, kept]),
            "mean": pack(_mean(ratios, run)[kept]),
            "decay": pack(decay[kept]),
        }
    usual = usual_layer(layer for n in chosen for layer in runs[n].layers)
    of_norm = {each for run in runs for each in definitions(run)} | {definition}
    return {
        "layers": names,
        "usual": names.index(usual) if usual else 0,
        "norm": "‖W‖_2" if definition.rank_norm == "spectral" else "‖W‖_F",
        "epsilons": sorted(d.epsilon for d in of_norm if d.rank_norm == definition.rank_norm),
        "indices": {str(k): pack(shown + 1) for k, shown in places.items()},
        "every": every,
        "axes": [pack(np.frombuffer(axis, dtype="<f4")) for axis in axes],
        "able": len(able),
        "runs": found,
    }, unread


def _spread_over_points(
    able: Sequence[int], rows: Sequence[RunRow], groups: Sequence[int], most: int
) -> list[int]:
    """Returns the places of at most so many runs: one of every point before a second of any.

    Of more points than that, those drawn by a fixed seed: evenly spaced ones of a grid would leave
    out values of a setting.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for n in sorted(able, key=lambda n: rows[n].end != "finished"):
        members[groups[n]].append(n)
    drawn = dict(zip(members, np.random.default_rng(0).permutation(len(members)), strict=True))
    ranked = sorted(
        (turn, drawn[group], n) for group, of in members.items() for turn, n in enumerate(of)
    )
    return sorted(n for *_, n in ranked[:most])


def _every(epochs: Sequence[Floats]) -> int:
    """Returns over how many epochs ratios are taken: fewer than `EVERY` where runs are short."""
    longest = max(epochs, key=len, default=np.empty(0))
    gaps = np.diff(longest)
    for every in (EVERY, 5, 2):
        ends = np.intersect1d(longest[longest % every == 0], longest + every)
        if len(ends) > 2:
            return every
    return int(gaps.max(initial=1))


def _mean(ratios: Floats, run: Run) -> Floats:
    """Returns the mean over the counted layers, NaN where one has no ratio."""
    counted = np.array([bool(layer.counted) for layer in run.layers])
    if not counted.any():
        return np.full(ratios.shape[1], np.nan)
    return np.asarray(ratios[counted].mean(axis=0))
