"""Compressed models on disk: weights of factored layers, and all that is needed to use them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowrank.common.errors import InputError
from lowrank.config import Config, of_stored
from lowrank.models import build_model
from lowrank.models.factored import plain, split_layers
from lowrank.runs import checkpoints

if TYPE_CHECKING:
    from torch import nn

    from lowrank.data import Dataset


def save_compressed(
    path: str | Path,
    network: nn.Module,
    ranks: Mapping[str, int],
    *,
    config: Config,
    dataset: Dataset,
    origin: str,
) -> None:
    """Writes a network with factored layers; ``torch.load`` reads it without running any code.

    Args:
        path: The file.
        network: As `lowrank.models.factored.factor` left it.
        ranks: By path of the module: the layers that are two.
        config: Of the run.
        dataset: What it was trained on.
        origin: Which run and epoch it is of, in words.

    Raises:
        CheckpointWriteError: If it cannot be written.
    """
    checkpoints.save(
        path,
        {
            "compressed": 1,
            "origin": origin,
            "config": config.recorded(),
            "ranks": dict(ranks),
            "image_shape": list(dataset.image_shape),
            "classes": list(dataset.classes),
            "mean": list(dataset.mean),
            "std": list(dataset.std),
            "model": {name: tensor.cpu() for name, tensor in network.state_dict().items()},
        },
    )


def load_compressed(path: str | Path) -> nn.Module:
    """Builds the network that ``lowrank compress`` wrote.

    Args:
        path: The file.

    Returns:
        The network on the CPU, in evaluation mode: from images (B, C, H, W), scaled to 0 … 1 and
        normalised by the file's ``mean`` and ``std``, to logits (B, classes).

    Raises:
        CheckpointError: If the file is missing, damaged, or none that was written here.
        InputError: If it is no compressed model.
    """
    state: dict[str, Any] = checkpoints.load(path)
    if state.get("compressed") != 1:
        raise InputError(f"{path}: is no compressed model; allowed: what lowrank compress wrote")
    config = of_stored(state["config"], str(path))
    network = build_model(config, tuple(state["image_shape"]), len(state["classes"]))
    split_layers(plain(network), state["ranks"])
    network.load_state_dict(state["model"])
    return network.eval()
