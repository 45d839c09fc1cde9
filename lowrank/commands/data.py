"""``lowrank data``: downloads or decodes a data set, so that training finds it ready."""

from __future__ import annotations

from collections.abc import Sequence

from lowrank.common.errors import InputError
from lowrank.config import Config
from lowrank.config.arguments import parse as parse_config


def parse(arguments: Sequence[str]) -> Config:
    """Reads the command line of ``lowrank data``.

    Args:
        arguments: The words after the subcommand: the data set, then flags of ``train.py``.

    Returns:
        A configuration with the data set in it.

    Raises:
        InputError: If no data set is named, or something is wrong with the flags.
    """
    if not arguments or arguments[0].startswith("-"):
        raise InputError("which data set? for example: lowrank data cifar10 --data_dir=data")
    return parse_config([f"--dataset={arguments[0]}", *arguments[1:]])


def run(config: Config) -> int:
    """Makes the data set ready and says what is there.

    Args:
        config: Its data fields are read.

    Returns:
        The exit code 0.
    """
    from lowrank.data import describe, load_dataset

    dataset = load_dataset(
        config.dataset,
        data_dir=config.data_dir,
        download=config.download,
        train_size=config.train_size,
        image_size=config.image_size,
    )
    print(describe(dataset))
    return 0
