"""One run as the tables behind its section of the page: every layer over the epochs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lowrank.common.quantities import TABLE
from lowrank.common.secrets import redact
from lowrank.measure.layers import Layer
from lowrank.measure.metrics import at
from lowrank.measure.theory import Theory
from lowrank.measure.truncation import LADDER
from lowrank.runs.find import Run
from lowrank.views.report.many import further_metrics
from lowrank.views.report.packing import Floats, Places, pack, spread
from lowrank.views.table.matrices import relative_spectra
from lowrank.views.table.rows import ACCURACIES, definitions
from lowrank.views.table.truncated import truncated

SECTION_BYTES = 3_200_000
"""For all sections together, before their arrays become text; a third is for the spectra."""

CURVE_EPOCHS = 200
SLIDER_EPOCHS = 60
FEWEST_EPOCHS = 6
SPECTRUM_POINTS = 100
"""A spectrum is drawn through so many of its values: all of them up to full rank 100."""

TRUNCATED_EPOCHS = 9
"""Epochs of which accuracies at lower ranks are drawn."""

SCALARS = (*ACCURACIES, "train_loss", "test_loss")


def section(run: Run, sections: int) -> dict[str, Any]:
    """Returns the tables of one run.

    Args:
        run: The run.
        sections: How many share the page: the more, the fewer epochs of each are shown.

    Returns:
        JSON types, as the page's program reads them.
    """
    own = definitions(run)
    ranks = {
        "rank" if definition == own[0] else at("rank", definition.epsilon): f"rank at {definition}"
        for definition in own
    } or {"rank": "rank"}
    others = [
        e
        for e in TABLE.values()
        if e.in_report and e.name != "rank" and (e.told == "always" or e.mean in run.metrics)
    ]
    of_layers = ranks | {entry.name: entry.meaning for entry in others}
    groups = _groups(run)
    names = [layer.name for layers in groups.values() for layer in layers]
    quantities = [*of_layers, "rank_bound"]
    means = {name: name.replace("rank", "rank_mean", 1) for name in ranks}
    means |= {entry.name: entry.mean for entry in others if entry.mean}
    wanted = [f"{quantity}/{name}" for quantity in quantities for name in names]
    further = further_metrics(run)
    run.preload([*wanted, *means.values(), *SCALARS, "collapsed"])
    measured = _measured(run)
    budget = SECTION_BYTES / sections / 4
    per_epoch = max(1, len(names) * len(quantities))
    count = int(np.clip(2 * budget / 3 / per_epoch, FEWEST_EPOCHS, CURVE_EPOCHS))
    times = np.flatnonzero(np.isin(run.times, [*run.epochs[measured], *run.within.epochs]))
    shown = times[spread(len(times), count)]
    bounds = _table(run, "rank_bound", run.layers, shown)
    spectra = _spectra(run, groups, measured, budget / 3)
    found = [
        {
            "layers": [
                {"name": x.name, "path": x.path, "shape": x.shape, "counted": x.counted}
                for x in layers
            ],
            **_tables(run, layers, of_layers, shown),
            "spectra": spectra[kind],
        }
        for kind, layers in groups.items()
    ]
    for of in found:
        of["ranks"] = [q for q in ranks if q in of["tables"]]
        of["shapes"] = [e.name for e in others if e.kind == "shape" and e.name in of["tables"]]
        of["sizes"] = [e.name for e in others if e.kind == "size" and e.name in of["tables"]]
    columns = {name: run.metrics[name] for name in SCALARS if name in run.metrics}
    every_epoch = spread(len(run.epochs), CURVE_EPOCHS)
    return {
        "id": run.id,
        "state": run.state,
        "sessions": len(run.sessions),
        "config": [[name, _words(value)] for name, value in run.config.items()],
        "environment": _environment(run.environment),
        **found[0],
        "beside": [
            {"kind": kind, **of}
            for kind, of in zip(groups, found, strict=True)
            if of is not found[0]
        ],
        "epsilons": [definition.epsilon for definition in own],
        "norm": "‖W‖_2" if own and own[0].rank_norm == "spectral" else "‖W‖_F",
        "epochs": pack(run.times[shown]),
        "of_epochs": len(times),
        "means": {
            q: pack(run.over_time(name)[shown])
            for q, name in means.items()
            if q in found[0]["tables"] and name in run.metrics
        },
        "bound": None if np.isnan(bounds).all() else pack(bounds),
        "bound_words": _bound_words(run, bounds),
        "scalar_epochs": pack(run.epochs[every_epoch]),
        "scalars": {name: pack(values[every_epoch]) for name, values in columns.items()},
        "further": {
            name: pack(run.metrics[name][every_epoch]) for name in further if name not in SCALARS
        },
        "truncated": _truncated(run),
    }


def _truncated(run: Run) -> dict[str, Any] | None:
    """Returns the accuracies of the network at lower ranks; None where it was not so tested."""
    found = truncated(run)
    if found is None:
        return None
    shown = found.places[spread(len(found.places), TRUNCATED_EPOCHS)]
    return {
        "epochs": pack(run.epochs[shown]),
        "names": [str(kept).replace("_", " ") for kept in LADDER],
        "ranks": pack(found.ranks[:, shown].T),
        "accuracies": pack(found.accuracies[:, shown].T),
        "full": found.full,
    }


def _measured(run: Run) -> Places:
    """Returns the places of the measured epochs among the run's."""
    has_spectra = np.isin(run.epochs, run.measured)
    if "collapsed" not in run.metrics:
        return np.flatnonzero(has_spectra)
    return np.flatnonzero(has_spectra & np.isfinite(run.metrics["collapsed"]))


def _groups(run: Run) -> dict[str, list[Layer]]:
    """Returns the weight matrices, and what is measured beside them, by kind."""
    groups: dict[str, list[Layer]] = {"weight": list(run.layers)}
    for layer in run.derived:
        groups.setdefault(layer.kind, []).append(layer)
    return groups


def _tables(
    run: Run, layers: Sequence[Layer], words: Mapping[str, str], shown: Places
) -> dict[str, dict[str, Any]]:
    """Returns those quantities that layers have, in words and as tables."""
    tables = {quantity: _table(run, quantity, layers, shown) for quantity in words}
    present = {quantity: t for quantity, t in tables.items() if not np.isnan(t).all()}
    return {
        "quantities": {quantity: words[quantity] for quantity in present},
        "tables": {quantity: pack(table) for quantity, table in present.items()},
    }


def _table(run: Run, quantity: str, layers: Sequence[Layer], shown: Places) -> Floats:
    """Returns a quantity of layers at places of the run's times (L, E); NaN without one."""
    absent = np.full(len(shown), np.nan)
    names = [f"{quantity}/{layer.name}" for layer in layers]
    rows = [run.over_time(n)[shown] if n in run.metrics else absent for n in names]
    return np.array(rows).reshape(len(names), len(shown))


def _spectra(
    run: Run, groups: Mapping[str, Sequence[Layer]], measured: Places, budget: float
) -> dict[str, dict[str, Any]]:
    """Returns the normalised spectra of each group at as many epochs as the budget allows."""
    every = [layer for layers in groups.values() for layer in layers]
    places = {layer.name: spread(min(layer.shape), SPECTRUM_POINTS) for layer in every}
    per_epoch = max(1, sum(map(len, places.values())))
    count = int(np.clip(budget / per_epoch, FEWEST_EPOCHS, SLIDER_EPOCHS))
    epochs = run.epochs[measured[spread(len(measured), count)]]
    found = relative_spectra(run, epochs, run.config.get("rank_norm", "frobenius"))
    at = np.searchsorted(run.epochs, epochs)

    def of_layers(names: Sequence[str]) -> dict[str, Any]:
        # A matrix that has collapsed has no rank at any ε, whatever its singular values are.
        ranks = [run.metrics.get(f"rank/{name}") for name in names]
        return {
            "epochs": pack(epochs),
            "layers": [
                {"indices": pack(places[n] + 1), "values": pack(found[n][:, places[n]])}
                for n in names
            ],
            "gone": {
                str(place): lost.tolist()
                for place, rank in enumerate(ranks)
                if rank is not None and (lost := np.flatnonzero(np.isnan(rank[at]))).size
            },
        }

    return {kind: of_layers([layer.name for layer in of]) for kind, of in groups.items()}


def _bound_words(run: Run, bounds: Floats) -> str:
    """Returns of how many layers there is a rank bound, or what is known of there being none."""
    total = len(run.layers)
    bounded = int(np.isfinite(bounds).any(axis=1).sum()) if bounds.size else 0
    if bounded:
        words = f"Dotted: the rank bound, recorded for {bounded} of {total} layers"
        if bounded < total:
            words += f"; for the other {total - bounded} it is vacuous or nothing is claimed"
        return f"{words}."
    told = run.environment.get("theory")
    if isinstance(told, list) and told:  # what train.py said at the start
        return " ".join(f"{line[:1].upper()}{line[1:]}." for line in map(_words, told))
    config = run.config
    try:
        theory = Theory(
            [],
            optimizer=str(config["optimizer"]),
            weight_decay=float(config["weight_decay"]),
            batch_size=int(config["batch_size"]),
            train_size=int(config["batch_size"]),
            epsilon=float(config["epsilons"][0]),
        )
    except (LookupError, TypeError, ValueError):  # the record of another loop
        return "Rank bound: none was recorded."
    if theory.no_claim:
        return f"Rank bound: no claim, as {theory.no_claim}."
    return "Rank bound: vacuous for every layer, it is not below full rank."


def _environment(environment: Mapping[str, Any]) -> list[list[str]]:
    """Returns names and texts; of a changed working tree only how much it differs."""
    found = []
    for name, value in environment.items():
        if name == "diff":
            lines = len(str(value).splitlines()) if value else 0
            told = (
                f"{lines} lines of difference from the commit, in the record" if lines else "none"
            )
            found.append([name, told])
        elif name == "untracked":
            found.append([name, f"{len(value)} files" if isinstance(value, list) else "none"])
        elif name == "theory":
            continue  # said where bounds are
        elif name == "commit" and re.fullmatch("[0-9a-f]{40}", str(value)):
            found.append([name, str(value)])  # looks like a key of W&B, which `redact` would hide
        else:
            found.append([name, _words(value)])
    return found


def _words(value: Any) -> str:
    """Returns a value of JSON's types as text, without what looks like a secret."""
    if isinstance(value, dict):
        told = ", ".join(f"{name} {each}" for name, each in value.items())
    elif isinstance(value, str):
        told = value
    else:
        told = json.dumps(value, ensure_ascii=False)
    return redact(told)[:2000]
