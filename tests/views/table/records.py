"""Run records and rows made for tests: few layers, ranks in closed form, and no training.

A hidden layer of rank r has r singular values of 1 and 16 - r of 1e-5, so its Frobenius norm is
√r to ten digits: its rank is r at any ε from 1e-5 to 0.24, and 16 at ε = 1e-6.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lowrank.config import Config
from lowrank.measure.layers import Layer
from lowrank.measure.metrics import measurement_metrics
from lowrank.runs.format import RECORD_NAME
from lowrank.runs.writer import Record
from lowrank.views.table.rows import RunRow

SIZE = 16
LAYERS = (
    Layer("linear1", "linear1", (SIZE, 64), 1, True),
    Layer("linear2", "linear2", (SIZE, SIZE), 1, True),
    Layer("head", "head", (10, SIZE), 1, False),
)
SMALL = 1e-5


def spectrum(rank, size=SIZE):
    return np.where(np.arange(size) < rank, 1.0, SMALL)


def begun(directory: Path, config: Config, layers=LAYERS) -> Record:
    """A record without an epoch, in a new directory."""
    directory.mkdir(parents=True)
    recorded = config.recorded()
    place = directory / RECORD_NAME
    return Record.create(
        place, run_id=directory.name, config=recorded, environment={}, layers=layers
    )


def make_run(
    directory: Path,
    ranks,
    *,
    accuracy=0.9,
    collapsed_from=None,
    dead_from=None,
    state="finished",
    config=None,
    environment=None,
    measure_every=1,
    **fields,
):
    """Writes a run whose two hidden layers have the ranks given, one number per epoch.

    `fields` are the configuration's; from the epoch `collapsed_from` on, matrices are zero.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if config is None:
        fields = {"epochs": len(ranks) - 1, "measure_every": measure_every, **fields}
        config = Config(**fields).recorded()
    run_id = fields.get("run_id", directory.name)
    with Record.create(
        directory / RECORD_NAME,
        run_id=run_id,
        config=config,
        environment=environment or {},
        layers=LAYERS,
    ) as record:
        for epoch, rank in enumerate(ranks):
            gone = collapsed_from is not None and epoch >= collapsed_from
            spectra = {
                layer.name: (0.0 if gone else 1.0) * spectrum(min(rank, k), k)
                for layer in LAYERS
                for k in [min(layer.shape)]
            }
            row = {"epoch": float(epoch)}
            if accuracy is not None:
                share = 1 - np.exp(-epoch / 5)
                right = 0.1 if gone else 0.1 + (accuracy - 0.1) * share
                row |= {"train_accuracy": min(1.0, right + 0.05 * share), "test_accuracy": right}
            is_measured = epoch % measure_every == 0 or epoch == len(ranks) - 1
            if is_measured:
                row |= measurement_metrics(
                    LAYERS,
                    spectra,
                    epsilons=config.get("epsilons", [1e-3, 1e-2]),
                    rank_norm=config.get("rank_norm", "frobenius"),
                    collapsed={layer.name: gone for layer in LAYERS},
                )
                row["dead"] = float(dead_from is not None and epoch >= dead_from)
            record.append(epoch, row, spectra if is_measured else None)
        record.set_state(state)
    return directory


def make_row(run_id="a", ranks=(16, 9, 4), *, state="finished", end=None, accuracy=0.9, **fields):
    """A row without a record: `ranks` are (E,), NaN where there is none."""
    ranks = np.asarray(ranks, dtype=np.float64)
    epochs = np.arange(len(ranks), dtype=np.float64)
    rising = accuracy * (1 - 0.5 ** (epochs + 1))
    return RunRow(
        id=run_id,
        path=Path("runs", run_id, RECORD_NAME),
        state=state,
        created=f"2026-01-01T00:00:00 {run_id}",
        config=Config(**{"epochs": 2, **fields}).recorded(),
        epochs=epochs,
        ranks=ranks,
        end=end or state,
        train_accuracy=rising + 0.05,
        test_accuracy=rising,
        full_rank=float(SIZE),
    )
