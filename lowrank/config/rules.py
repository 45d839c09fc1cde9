"""What the fields of a configuration must not say against each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lowrank.errors import one_of

if TYPE_CHECKING:
    from lowrank.config.model import Config

TRAIN_SIZES = {
    "digits": 1440,
    "cifar10": 50_000,
    "cifar100": 50_000,
    "mnist": 60_000,
    "fashion_mnist": 60_000,
    "svhn": 73_257,
    "stl10": 5_000,
}
PADDED_SIZES = {"digits": 8, "mnist": 28, "fashion_mnist": 28}  # padding cannot shrink an image

# (field, the field that decides whether it is used, the values with which it is)
_USED_WITH = (
    ("depth", "model", ("mlp",)),
    ("width", "model", ("mlp",)),
    ("batch_norm", "model", ("mlp",)),
    ("momentum", "optimizer", ("sgd",)),
    ("milestones", "schedule", ("milestones",)),
    ("gamma", "schedule", ("milestones",)),
)


def conflicts(config: Config) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yields what the fields of a configuration say against each other.

    A setting without effect is a conflict, as ignoring it would answer another
    question than the one asked.

    Args:
        config: Made of values that are each allowed.

    Yields:
        The fields concerned and a sentence about them.
    """
    for name, decider, users in _USED_WITH:
        value, chosen = getattr(config, name), getattr(config, decider)
        if chosen not in users and value != type(config).model_fields[name].default:
            shown = list(value) if isinstance(value, tuple) else value
            yield (
                (name, decider),
                f"{name}={shown} has no effect with {decider}={chosen}, "
                f"only with {decider}={one_of(users)}; leave it out",
            )
    if (
        config.schedule == "milestones"
        and not config.milestones
        and config.gamma != type(config).model_fields["gamma"].default
    ):
        yield ("gamma", "milestones"), f"gamma={config.gamma} has no effect without milestones"
    decay = config.lr * config.weight_decay
    if config.optimizer != "adam" and decay >= 1:
        yield (
            ("lr", "weight_decay", "optimizer"),
            f"lr x weight_decay is {decay:g}; allowed: below 1, because a step multiplies the "
            "weights by 1 - lr x weight_decay",
        )
    if config.warmup_epochs > config.epochs:
        yield (
            ("warmup_epochs", "epochs"),
            f"warmup_epochs={config.warmup_epochs} is more than epochs={config.epochs}",
        )
    size = TRAIN_SIZES.get(config.dataset)
    if size and config.train_size and config.train_size > size:
        yield (
            ("train_size", "dataset"),
            f"train_size={config.train_size} is more than the {size} training examples of "
            f"{config.dataset}",
        )
    native = PADDED_SIZES.get(config.dataset)
    if native and config.image_size and config.image_size < native:
        yield (
            ("image_size", "dataset"),
            f"image_size={config.image_size} is less than the {native} of {config.dataset}, "
            "whose images are padded",
        )
    if config.precision == "tf32" and config.device == "cpu":
        yield ("precision", "device"), "precision=tf32 exists on CUDA only, not with device=cpu"
    if config.resume == "must" and config.run_id is None:
        yield ("resume", "run_id"), "resume=must needs the run_id of the run to continue"
