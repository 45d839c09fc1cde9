"""``lowrank data``: downloads or decodes a data set, so that training finds it ready."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from lowrank.common.errors import InputError
from lowrank.config import Config
from lowrank.config.arguments import parse
from lowrank.config.datasets import DATASETS
from lowrank.config.families import FAMILIES
from lowrank.config.options import Options, option


class Data(Options):
    """What ``lowrank data`` is asked for."""

    config: Config = option(Config())

    @classmethod
    def read(cls, argv: Sequence[str]) -> Self:
        """Reads the data set's name, then the words of ``train.py``.

        Args:
            argv: The words.

        Returns:
            A configuration with the data set in it.

        Raises:
            InputError: If no data set is named, or something is wrong with the flags.
        """
        if not argv or argv[0].startswith("-"):
            raise InputError("which data set? for example: lowrank data cifar10 --data_dir=data")
        name, *flags = argv
        if name in DATASETS and DATASETS[name].text:
            reader = next(model for model, family in FAMILIES.items() if family.text)
            is_said = any(word.partition("=")[0] == "--model" for word in flags)
            flags = flags if is_said else [f"--model={reader}", *flags]
        return cls(config=parse([f"--dataset={name}", *flags]))


def run(options: Data) -> int:
    """Makes the data set ready and says what is there.

    Args:
        options: Of the configuration, the data fields are read.

    Returns:
        The exit code 0.
    """
    from lowrank.data import describe, load_dataset

    config = options.config
    dataset = load_dataset(**config.data_request | {"image_size": config.image_size})
    print(describe(dataset))
    return 0
