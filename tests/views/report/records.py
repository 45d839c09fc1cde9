"""Synthetic run records whose every number has a closed form.

The spectrum of layer l (of L, full rank k) after epoch e is geometric, σ_i = exp(−a·i) for
i = 0 … k−1, where a grows with the epoch, with depth and with the run's weight decay. Records are
written by `lowrank.runs.writer.Record`, as training does.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowrank.config import Config
from lowrank.measure import ranks
from lowrank.measure.layers import Layer
from lowrank.runs.format import RECORD_NAME, text_crc
from lowrank.runs.writer import Record

Floats = NDArray[np.float64]
EPSILONS = (1e-3, 1e-2)
ENVIRONMENT = {
    "commit": "c0ffee" * 6 + "c0ff",
    "diff": "",
    "versions": {"python": "3.11.9", "torch": "2.14.1", "lowrank": "0.1.0"},
    "device": "cpu",
    "device_name": "a processor",
    "threads": 1,
    "command": "train.py --lr=0.1",
    "host": "host",
}


def layers_of(sizes: Sequence[int], name: str = "linear") -> tuple[Layer, ...]:
    """Returns square hidden layers of these sizes and a classifier of ten rows."""
    hidden = [
        Layer(f"{name}{i + 1}", f"{name}{i + 1}", (k, k), 1, True) for i, k in enumerate(sizes)
    ]
    return (*hidden, Layer("classifier", "classifier", (10, sizes[-1]), 1, False))


def spectra_of(layers: Sequence[Layer], epochs: int, decay: float) -> dict[str, Floats]:
    """Returns σ (epochs + 1, k) by layer: flat without decay, the steeper the later and deeper."""
    found = {}
    for depth, layer in enumerate(layers):
        k = min(layer.shape)
        slope = 0.5 / k + decay * (1 + depth) * np.arange(epochs + 1) / max(1, epochs)
        found[layer.name] = np.exp(-np.outer(slope, np.arange(k)))
    return found


def rows_of(
    layers: Sequence[Layer], spectra: Mapping[str, Floats], collapse_at: int | None
) -> dict[str, Floats]:
    """Returns every metric (epochs + 1,) by name; from `collapse_at` on, no layer has a rank."""
    count = len(next(iter(spectra.values())))
    at = np.arange(count)
    gone = np.zeros(count, bool) if collapse_at is None else at >= collapse_at
    columns: dict[str, Any] = {}
    quantities = {
        "rank": lambda s: ranks.rank(s, EPSILONS[0]),
        "rank@0.01": lambda s: ranks.rank(s, EPSILONS[1]),
        "stable_rank": ranks.stable_rank,
        "effective_rank": ranks.effective_rank,
    }
    for quantity, function in quantities.items():
        for layer in layers:
            values = np.where(gone, np.nan, function(spectra[layer.name]))
            columns[f"{quantity}/{layer.name}"] = values
    for layer in layers:
        s = spectra[layer.name]
        columns[f"spectral_norm/{layer.name}"] = ranks.spectral_norm(s)
        columns[f"frobenius_norm/{layer.name}"] = ranks.frobenius_norm(s)
        columns[f"distance/{layer.name}"] = np.where(at == 0, np.nan, 1 / (1 + at))
    counted = [layer.name for layer in layers if layer.counted]
    for quantity, mean in (
        ("rank", "rank_mean"),
        ("rank@0.01", "rank_mean@0.01"),
        ("stable_rank", "stable_rank_mean"),
        ("effective_rank", "effective_rank_mean"),
    ):
        columns[mean] = np.mean([columns[f"{quantity}/{name}"] for name in counted], axis=0)
    columns["rank_mean_all"] = np.mean([columns[f"rank/{layer.name}"] for layer in layers], axis=0)
    learnt = 0.9 * (1 - np.exp(-at / 10))
    columns["train_accuracy"] = np.where(gone, 0.1, 0.1 + learnt)
    columns["test_accuracy"] = np.where(gone, 0.1, 0.1 + 0.95 * learnt)
    columns["train_loss"] = 2.3 * np.exp(-at / 10)
    columns["test_loss"] = 0.1 + 2.2 * np.exp(-at / 10)
    columns["collapsed"] = np.where(gone, float(len(layers)), 0.0)
    columns["dead"] = np.where(gone, 1.0, 0.0)
    columns["lr_now"] = np.full(count, 0.1)
    columns["time/train"] = np.full(count, 1.5)
    return columns


def write(
    directory: Path,
    *,
    sizes: Sequence[int] = (16, 32, 32),
    layers: Sequence[Layer] | None = None,
    epochs: int = 20,
    state: str = "finished",
    collapse_at: int | None = None,
    recorded: int | None = None,
    more: Mapping[str, Floats] | None = None,
    decay: float | None = None,
    environment: Mapping[str, Any] = ENVIRONMENT,
    run_id: str | None = None,
    changed: Mapping[str, Any] | None = None,
    **config: Any,
) -> Path:
    """Writes one run's record.

    Args:
        directory: The run's directory, named like the run unless `run_id` is given.
        sizes: Of the hidden layers, unless `layers` are given.
        layers: What was measured.
        epochs: Number of the last epoch planned.
        state: In which it ended.
        collapse_at: The first epoch at which every layer has collapsed.
        recorded: How many epochs are in the record; by default all, epoch 0 included.
        more: Further metrics.
        decay: How fast spectra fall; by default the weight decay.
        environment: Of its one session.
        run_id: The run's id.
        changed: Fields of the recorded configuration that nobody validated.
        **config: Fields of the configuration.

    Returns:
        The record.
    """
    layers = tuple(layers) if layers is not None else layers_of(sizes)
    values = Config(epochs=epochs, epsilons=EPSILONS).recorded() | config
    spectra = spectra_of(layers, epochs, values["weight_decay"] if decay is None else decay)
    columns = rows_of(layers, spectra, collapse_at) | dict(more or {})
    directory.mkdir(parents=True, exist_ok=True)
    with Record.create(
        directory / RECORD_NAME,
        run_id=run_id or directory.name,
        config=values | dict(changed or {}),
        environment=environment,
        layers=layers,
    ) as record:
        record._database.execute("PRAGMA synchronous=OFF")  # no power cut is tested here
        for epoch in range(epochs + 1 if recorded is None else recorded):
            row = {name: float(column[epoch]) for name, column in columns.items()}
            measured = {name: s[epoch] for name, s in spectra.items()}
            record.append(epoch, row, measured)
        record.set_state(state)
    return record.path


def copy(source: Path, directory: Path, **config: Any) -> Path:
    """Copies a record as that of another run; a thousand are made in seconds this way.

    Args:
        source: A record.
        directory: The new run's directory.
        **config: Fields of the configuration that differ.

    Returns:
        The new record.
    """
    directory.mkdir(parents=True, exist_ok=True)
    target = directory / RECORD_NAME
    shutil.copyfile(source, target)
    with closing(sqlite3.connect(target, isolation_level=None)) as database:
        database.execute("PRAGMA synchronous=OFF")
        (text,) = database.execute("SELECT value FROM meta WHERE key = 'config'").fetchone()
        for key, value in (("run_id", directory.name), ("config", json.loads(text) | config)):
            new = json.dumps(value)
            database.execute(
                "UPDATE meta SET value = ?, crc = ? WHERE key = ?", (new, text_crc(key, new), key)
            )
    return target
