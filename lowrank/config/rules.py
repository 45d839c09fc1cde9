"""What the fields of a configuration must not say against each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lowrank.common.texts import one_of
from lowrank.config.datasets import DATASETS
from lowrank.config.families import FAMILIES, Conflicts, divisor
from lowrank.config.optimizers import FORMULAS, OPTIMIZERS

LARGEST_SEED = 2**32 - 1  # numpy's legacy seeds, the narrowest of the generators
LARGEST_IMAGE = 4096
LARGEST_CONTEXT = 65_536

_TABLES: dict[str, Mapping[str, Any]] = {"model": FAMILIES, "optimizer": OPTIMIZERS}
_WITH_ATTENTION = tuple(
    name for name, entry in FAMILIES.items() if any(f.endswith("_heads") for f in entry.fields)
)
_TEXTS = tuple(name for name, source in DATASETS.items() if source.text)
_IMAGES = tuple(name for name in DATASETS if name not in _TEXTS)
# (field, the field that decides whether it is used, the values with which it is)
_USED_WITH = (
    *(
        (field, decider, tuple(name for name, entry in table.items() if field in entry.fields))
        for decider, table in _TABLES.items()
        for field in dict.fromkeys(field for entry in table.values() for field in entry.fields)
    ),
    ("attention_products", "model", _WITH_ATTENTION),
    ("milestones", "schedule", ("milestones",)),
    ("gamma", "schedule", ("milestones",)),
    ("context", "dataset", _TEXTS),
    ("image_size", "dataset", _IMAGES),
    ("augment", "dataset", _IMAGES),
)


def unused(config: Any, defaults: Mapping[str, Any]) -> Conflicts:
    """Yields the settings without effect.

    Args:
        config: Has every field as an attribute, with a value that is allowed by itself.
        defaults: Of every field.

    Yields:
        The field and that which decides, and a sentence about them.
    """
    for name, decider, users in _USED_WITH:
        value, chosen = getattr(config, name), getattr(config, decider)
        if chosen not in users and value != defaults[name]:
            yield (
                (name, decider),
                f"{name}={_shown(value)} has no effect with {decider}={chosen}, "
                f"only with {decider}={one_of(users)}",
            )
    if config.schedule == "milestones":
        if not config.milestones and config.gamma != defaults["gamma"]:
            yield ("gamma", "milestones"), f"gamma={config.gamma} has no effect without milestones"
        if config.milestones and 0 < config.epochs < config.milestones[0]:
            yield (
                ("milestones", "epochs"),
                f"milestones={_shown(config.milestones)} has no effect with "
                f"epochs={config.epochs}, only with epochs={config.milestones[0]} or more",
            )


def has_effect(name: str, config: Mapping[str, Any]) -> bool:
    """Returns whether a setting decides anything beside the others.

    Args:
        name: The setting.
        config: All of them.

    Example:
        >>> [has_effect("momentum", {"optimizer": name}) for name in ("sgd", "adam")]
        [True, False]
    """
    if name == "gamma" and not config.get("milestones"):
        return False
    return all(config.get(decider) in users for n, decider, users in _USED_WITH if n == name)


def _shown(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def conflicts(config: Any, defaults: Mapping[str, Any]) -> Conflicts:
    """Yields what the fields of a configuration say against each other.

    A setting without effect is a conflict, as ignoring it would answer another
    question than the one asked.

    Args:
        config: Has every field as an attribute, with a value that is allowed by itself.
        defaults: Of every field.

    Yields:
        The fields concerned and a sentence about them.
    """
    for fields, text in unused(config, defaults):
        yield fields, f"{text}; leave it out" if " only " in text else text
    decay = config.lr * config.weight_decay
    if OPTIMIZERS[config.optimizer].shrinks and decay >= 1:
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
    source, family = DATASETS[config.dataset], FAMILIES[config.model]
    size = source.train_size
    if size and config.train_size and config.train_size > size:
        yield (
            ("train_size", "dataset"),
            f"train_size={config.train_size} is more than the {size} training examples of "
            f"{config.dataset}",
        )
    side = config.resolved_image_size or source.native
    if side and source.padded and side < (source.native or 0):
        yield (
            ("image_size", "dataset"),
            f"image_size={side} is less than the {source.native} of {config.dataset}, "
            "whose images are padded",
        )
    elif side and (problem := size_problem(config, side, side)):
        yield ("model", "dataset", "image_size", *filter(None, [family.patch])), problem
    if family.text and not source.text:
        yield (
            ("model", "dataset"),
            f"model={config.model} reads text, which dataset={config.dataset} does not hold; "
            f"dataset={one_of(_TEXTS)} works",
        )
    if source.text and not family.text:
        readers = [name for name, entry in FAMILIES.items() if entry.text]
        yield (
            ("model", "dataset"),
            f"model={config.model} reads images, which dataset={config.dataset} does not hold; "
            f"model={one_of(readers)} reads text",
        )
    if source.text and config.loss == "mse":
        yield (
            ("loss", "dataset"),
            f"loss=mse: averaged over the 256 possible bytes, it hardly depends on the one that is "
            f"right; allowed with dataset={config.dataset}: loss=cross_entropy",
        )
    yield from family.conflicts(config)
    if config.compile and not OPTIMIZERS[config.optimizer].formula:
        yield (
            ("compile", "optimizer"),
            f"compile=True, but a compiled step has optimizer={one_of(FORMULAS)} only, not "
            f"{config.optimizer}",
        )
    if config.truncation_every and config.truncation_every % config.measure_every:
        yield (
            ("truncation_every", "measure_every"),
            f"truncation_every={config.truncation_every}: its epochs are measured too; allowed: "
            f"multiples of measure_every={config.measure_every}",
        )
    if OPTIMIZERS[config.optimizer].of_matrices and config.weight_norm:
        yield (
            ("optimizer", "weight_norm"),
            f"optimizer={config.optimizer} steps weight matrices, which weight_norm=True makes of "
            "other parameters; allowed: weight_norm=False",
        )
    if config.precision == "tf32" and config.device == "cpu":
        yield ("precision", "device"), "precision=tf32 exists on CUDA only, not with device=cpu"
    if config.resume == "must" and config.run_id is None:
        yield ("resume", "run_id"), "resume=must needs the run_id of the run to continue"


def size_problem(config: Any, height: int, width: int) -> str:
    """Says why the configured model cannot take images of a size.

    Args:
        config: Reads `model` and its `patch`, and `dataset` and `image_size` for the words.
        height: Of the images, in pixels.
        width: Likewise.

    Returns:
        A sentence that names a size that works; empty if the model takes them.

    Example:
        >>> from lowrank.config import Config
        >>> size_problem(Config(model="vgg16", dataset="imagefolder"), 24, 48)
        '24 x 48 images of imagefolder: too small for model=vgg16; image_size=32 or more works'
    """
    images = f"{height} x {width} images of {config.dataset}"
    if config.image_size is not None:
        images = f"image_size={config.image_size}"
    family = FAMILIES[config.model]
    if min(height, width) < family.smallest:
        works = f"image_size={family.smallest} or more works"
        return f"{images}: too small for model={config.model}; {works}"
    if not family.patch:
        return ""
    patch, longer = getattr(config, family.patch), max(height, width)
    if height == width and height % patch == 0:
        return ""
    near = min(longer, LARGEST_IMAGE)
    above = -(-near // patch) * patch
    fits = above if above <= LARGEST_IMAGE else near // patch * patch
    if height != width:
        return f"{images}: not square, as model={config.model} needs them; image_size={fits} works"
    return (
        f"{images}: {family.patch}={patch} does not divide {height}; "
        f"{family.patch}={divisor(height, patch)} or image_size={fits} works"
    )
