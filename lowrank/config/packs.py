"""Which runs may train as one batched computation, a pack, and why one can only train alone."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from lowrank.common.errors import refuse
from lowrank.common.texts import one_of
from lowrank.config.optimizers import FORMULAS, OPTIMIZERS
from lowrank.config.settings import Config, with_role

_NAMES = set(with_role("identity", "tracking")) - {"checkpoint_every"}

LARGEST = 4096
"""Members of a pack, at most."""

OF_A_STEP = (
    *("lr", "schedule", "milestones", "gamma", "warmup_epochs"),
    *("momentum", "weight_decay", "seed"),
)
"""Fields that are numbers of a step, in which the members of a pack may differ."""

OWN = (*OF_A_STEP, "output_dir", *sorted(_NAMES))
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
    if not OPTIMIZERS[config.optimizer].formula:
        return f"optimizer={config.optimizer}: networks are stacked for {one_of(FORMULAS)} only"
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


def check_pack(configs: Sequence[Config]) -> None:
    """Makes sure that runs can train as one pack.

    Args:
        configs: Of the runs; of one there is nothing to check.

    Raises:
        InputError: If one can only train alone, or they differ in more than a pack's members may.

    Example:
        >>> check_pack([Config(lr=0.1), Config(lr=0.2)])
        >>> check_pack([Config(batch_size=8), Config(batch_size=16)])
        Traceback (most recent call last):
        lowrank.common.errors.InputError: the runs of a pack differ in batch_size: 8, 16; allowed...
    """
    if len(configs) == 1:
        return
    lines = [f"cannot train in a pack: {reason}" for c in configs if (reason := unpackable(c))]
    for name in (name for name in Config.model_fields if name not in OWN):
        values = dict.fromkeys(str(getattr(config, name)) for config in configs)
        if len(values) > 1:
            lines.append(
                f"the runs of a pack differ in {name}: {', '.join(values)}; allowed are "
                f"differences in {', '.join(OF_A_STEP)}"
            )
    refuse(dict.fromkeys(lines))
