"""What a training loads, loaded beforehand in the server that `tests.running` forks from."""

from __future__ import annotations

import importlib

import torch

MODULES = (
    *("train", "wandb", "matplotlib.figure", "matplotlib.backends.backend_agg", "PIL.Image"),
    *(
        "lowrank.training.trainer",
        "lowrank.tracking.tracker",
        "lowrank.training.learner",
        "lowrank.models.mlp",
    ),
    *("lowrank.views.figures.one_run", "lowrank.views.figures.spectrum"),
)

for name in MODULES:
    importlib.import_module(name)
torch.use_deterministic_algorithms(False)  # loads more of torch than one thinks
