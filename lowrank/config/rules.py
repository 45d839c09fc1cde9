"""What the fields of a configuration must not say against each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lowrank.common.texts import one_of
from lowrank.config.families import FAMILIES

if TYPE_CHECKING:
    from lowrank.config.settings import Config

TRAIN_SIZES = {
    "digits": 1440,
    "cifar10": 50_000,
    "cifar100": 50_000,
    "mnist": 60_000,
    "fashion_mnist": 60_000,
    "svhn": 73_257,
    "stl10": 5_000,
}
LARGEST_SEED = 2**32 - 1  # numpy's legacy seeds, the narrowest of the generators
PADDED_SIZES = {"digits": 8, "mnist": 28, "fashion_mnist": 28}  # padding cannot shrink an image
LARGEST_IMAGE = 4096
NATIVE_SIZES = {
    **PADDED_SIZES,
    **dict.fromkeys(("cifar10", "cifar100", "svhn", "synthetic"), 32),
    "stl10": 96,
}

# (field, the field that decides whether it is used, the values with which it is)
_USED_WITH = (
    *(
        (field, "model", tuple(name for name, f in FAMILIES.items() if field in f.fields))
        for field in dict.fromkeys(field for f in FAMILIES.values() for field in f.fields)
    ),
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
    side = config.resolved_image_size or NATIVE_SIZES.get(config.dataset)
    if native and config.image_size and config.image_size < native:
        yield (
            ("image_size", "dataset"),
            f"image_size={config.image_size} is less than the {native} of {config.dataset}, "
            "whose images are padded",
        )
    elif side and (problem := size_problem(config, side, side)):
        yield ("model", "dataset", "image_size", "vit_patch"), problem
    if config.model == "vit" and config.vit_width % config.vit_heads:
        works = _divisor(config.vit_width, config.vit_heads)
        yield (
            ("vit_heads", "vit_width"),
            f"vit_heads={config.vit_heads} does not divide vit_width={config.vit_width}; "
            f"vit_heads={works} works",
        )
    if config.weight_norm and config.batch_norm and config.model == "mlp":
        yield (
            ("weight_norm", "batch_norm"),
            "weight_norm=True, but with batch_norm=True BatchNorm undoes the gain of each matrix; "
            "the paper's weight-normalised mlp has batch_norm=False",
        )
    if config.replicas > 1:
        yield from _not_batched(config)
    if config.precision == "tf32" and config.device == "cpu":
        yield ("precision", "device"), "precision=tf32 exists on CUDA only, not with device=cpu"
    if config.resume == "must" and config.run_id is None:
        yield ("resume", "run_id"), "resume=must needs the run_id of the run to continue"


def size_problem(config: Config, height: int, width: int) -> str:
    """Says why the configured model cannot take images of a size.

    Args:
        config: Reads `model` and `vit_patch`, and `dataset` and `image_size` for the words.
        height: Of the images, in pixels.
        width: Likewise.

    Returns:
        A sentence that names a size that works; empty if the model takes them.

    Example:
        >>> from lowrank.config import Config
        >>> size_problem(Config(model="vgg16", dataset="imagefolder"), 24, 48)
        '24 x 48 images of imagefolder: too small for model=vgg16; image_size=32 or more works'
    """
    shown = f"{height} x {width} images of {config.dataset}"
    if config.image_size is not None:
        shown = f"image_size={config.image_size}"
    smallest = FAMILIES[config.model].smallest
    if min(height, width) < smallest:
        return f"{shown}: too small for model={config.model}; image_size={smallest} or more works"
    patch, longer = config.vit_patch, max(height, width)
    if config.model != "vit" or (height == width and height % patch == 0):
        return ""
    near = min(longer, LARGEST_IMAGE)
    above = -(-near // patch) * patch
    fits = above if above <= LARGEST_IMAGE else near // patch * patch
    if height != width:
        return f"{shown}: not square, as model=vit needs them; image_size={fits} works"
    return (
        f"{shown}: vit_patch={patch} does not divide {height}; "
        f"vit_patch={_divisor(height, patch)} or image_size={fits} works"
    )


def _divisor(number: int, largest: int) -> int:
    """Returns the largest divisor of a number that is at most another."""
    return next(d for d in range(min(number, largest), 0, -1) if number % d == 0)


def _not_batched(config: Config) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yields what replicas trained as one batched computation cannot do as each would alone."""
    replicas, remedy = f"replicas={config.replicas}", "or replicas=1"
    if config.dropout > 0:
        yield (
            ("replicas", "dropout"),
            f"{replicas} cannot be batched with dropout={config.dropout}: the masks would not be "
            f"those that each seed draws alone; use dropout=0 {remedy}",
        )
    if config.augment:
        yield (
            ("replicas", "augment"),
            f"{replicas} cannot be batched with augment=True: crops and flips are drawn and cut "
            f"for one network at a time; use augment=False {remedy}",
        )
    if config.precision == "bf16":
        yield (
            ("replicas", "precision"),
            f"{replicas} cannot be batched with precision=bf16: autocast does not reach batched "
            f"operations, which would compute in float32; use precision=fp32 {remedy}",
        )
    last = (config.seed or 0) + config.replicas - 1
    if last > LARGEST_SEED:
        yield (
            ("replicas", "seed"),
            f"{replicas} from seed={config.seed} would need seed {last}; allowed: up to "
            f"{LARGEST_SEED}",
        )
