"""A run's network as its checkpoint has it, with the data that it learned from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lowrank.common.errors import InputError, out_of_memory
from lowrank.common.files import expanded
from lowrank.common.texts import printable
from lowrank.config import load, replace
from lowrank.data import load_dataset
from lowrank.runs import checkpoints
from lowrank.runs.directory import CHECKPOINT_NAME, CONFIG_NAME, check_origin, check_text
from lowrank.runs.format import RECORD_NAME
from lowrank.training import pack, steps
from lowrank.training.learner import Learner


@dataclass(frozen=True)
class Trained:
    """What a run has learned so far.

    Attributes:
        path: The run's directory.
        learner: The network as a pack of one, and the data on the device, as in training.
        epoch: Epochs that it has completed.
    """

    path: Path
    learner: Learner
    epoch: int


def load_trained(path: str, data_dir: str | None = None) -> Trained:
    """Builds a run's network with the weights of its checkpoint, and loads its data set.

    Args:
        path: The run's directory.
        data_dir: Where the data set is here; None takes the run's own.

    Returns:
        The network, ready to be evaluated with the run's precision and threads.

    Raises:
        InputError: There is no such run, no checkpoint of it, or its data set is not here.
        Failure: If memory is exhausted.
    """
    directory, where = expanded(path), printable(path, 200)
    file, stored = directory / CHECKPOINT_NAME, directory / CONFIG_NAME
    if not stored.is_file():
        what = "there is no such directory" if not directory.exists() else f"has no {CONFIG_NAME}"
        raise InputError(f"{where}: {what}; allowed: the directory of a run of train.py")
    if not file.exists():
        raise InputError(
            f"{where}: the run has no {CHECKPOINT_NAME} (keep_checkpoint=none leaves none), and "
            "its record holds no weights"
        )
    config = load(stored)
    if data_dir is not None:
        config = replace(config, data_dir=data_dir)
    if config.device.startswith("cuda"):  # it may have been that of another machine
        config = replace(config, device="auto")
    device = steps.configure_torch(config)
    with out_of_memory(f"{where} does not fit; a machine with more memory is needed"):
        state = checkpoints.load(file, map_location=device)
        check_origin(file, state.get("config"), config)
        dataset = load_dataset(**config.data_request, device=device)
        check_text(directory / RECORD_NAME, dataset.name, dataset.text)
        networks = pack.build([config], dataset.image_shape, dataset.num_classes, device)
        try:
            networks.networks[0].load_state_dict(state["model"])
        except RuntimeError as error:  # the same settings, but other images or classes
            raise InputError(
                f"{where}: its network does not take these images: "
                f"data_dir={printable(config.data_dir, 200)} holds others than those of the run"
            ) from error
        learner = Learner([config], dataset, networks)
    return Trained(directory, learner, state["epoch"])
