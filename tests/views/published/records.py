"""Records of runs that have the settings of a published point, with spectra in closed form."""

from __future__ import annotations

import numpy as np

from lowrank.config import Config
from lowrank.measure.layers import Layer
from lowrank.measure.metrics import measurement_metrics
from lowrank.runs.format import RECORD_NAME
from lowrank.runs.writer import Record

SIZE = 100
LAYERS = [Layer(f"linear{k + 1}", f"linear{k + 1}", (SIZE, SIZE)) for k in range(10)]
LAYERS.append(Layer("classifier", "classifier", (10, SIZE), counted=False))


def config_of(point, **fields):
    """The configuration of a run that stands for a point, recorded at another ε."""
    free = {"image_size": None, "epsilons": [1e-3], "measure_every": 10}
    return Config(**{**point.settings, **free, **fields}).recorded()


def make(directory, config, ranks, *, gone=False, state="finished"):
    """Writes a run; `ranks` has by epoch the rank at ε = 0.01 … 0.05 of each hidden matrix.

    The rank r at these ε is that of r values of 1 and all others of 1e-3·√r: at ε = 1e-3·(1 - 1e-9)
    and below, nearly all count.
    """
    directory.mkdir(parents=True)
    with Record.create(
        directory / RECORD_NAME, run_id=directory.name, config=config, environment={},
        layers=LAYERS,
    ) as record:  # fmt: skip
        for epoch, of_layers in ranks.items():
            spectra = {"classifier": np.ones(10)}
            for layer, rank in zip(LAYERS, of_layers, strict=False):
                values = np.where(np.arange(SIZE) < rank, 1.0, 2e-3 * np.sqrt(rank))
                spectra[layer.name] = values * (0.0 if gone and epoch else 1.0)
            collapsed = {layer.name: gone and epoch > 0 for layer in LAYERS}
            row = {"train_accuracy": 0.75 if epoch == 490 else 0.5}
            row |= {"test_accuracy": 0.5, "dead": 0.0}
            row |= measurement_metrics(
                LAYERS, spectra, epsilons=config["epsilons"], collapsed=collapsed
            )
            record.append(epoch, row, spectra)
        record.set_state(state)
    return directory
