"""Which runs may train as one batched computation, a pack, and why one can only train alone."""

from __future__ import annotations

from collections.abc import Hashable

from lowrank.config.optimizers import OPTIMIZERS
from lowrank.config.settings import Config, with_role

_NAMES = set(with_role("identity", "tracking")) - {"checkpoint_every"}

OWN = (
    *("lr", "schedule", "milestones", "gamma", "warmup_epochs", "momentum", "weight_decay", "seed"),
    *("output_dir", *sorted(_NAMES)),
)
"""Fields in which the members of a pack may differ: numbers of a step, and what names a run."""


def unpackable(config: Config) -> str | None:
    """Says why a run can only train alone.

    Args:
        config: Of the run.

    Returns:
        The reason in words; None if it may be a member of a pack.

    Example:
        >>> unpackable(Config(model="vgg11", dataset="cifar10", dropout=0.5))
        'dropout=0.5: masks of a pack would not be those that each run draws alone'
    """
    if config.dropout > 0:
        return (
            f"dropout={config.dropout}: masks of a pack would not be those that each run draws "
            "alone"
        )
    if config.augment:
        return "augment=True: crops and flips are drawn and cut for one network at a time"
    if config.precision == "bf16":
        return (
            "precision=bf16: autocast does not reach batched operations, which would compute in "
            "float32"
        )
    if not OPTIMIZERS[config.optimizer].elementwise:
        return (
            f"optimizer={config.optimizer}: its step does not treat each entry of a parameter for "
            "itself"
        )
    return None


def pack_key(config: Config) -> Hashable:
    """Returns what the members of a pack must have in common.

    Args:
        config: Of a run.

    Returns:
        Equal for two runs that may be members of one pack, unless either is `unpackable`.

    Example:
        >>> pack_key(Config(lr=0.1, seed=1)) == pack_key(Config(lr=0.2, seed=2, name="faster"))
        True
        >>> pack_key(Config(batch_size=8)) == pack_key(Config(batch_size=16))
        False
    """
    return tuple(value for name, value in config if name not in OWN)
