"""The table of models: a new one is a line here and a file in ``lowrank/models/``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

Conflicts = Iterator[tuple[tuple[str, ...], str]]
"""The fields concerned and a sentence about them, each time."""

NARROW = 256
"""Width up to which one thread trains an MLP at least as fast as two."""


def divisor(number: int, largest: int) -> int:
    """Returns the largest divisor of a number that is at most another.

    Args:
        number: At least 1.
        largest: Likewise.

    Returns:
        The divisor.

    Example:
        >>> divisor(192, 5)
        4
    """
    return next(d for d in range(min(number, largest), 0, -1) if number % d == 0)


def _of_mlp(fields: Any) -> Conflicts:
    if fields.weight_norm and fields.batch_norm:
        yield (
            ("weight_norm", "batch_norm"),
            "weight_norm=True, but with batch_norm=True BatchNorm undoes the gain of each matrix; "
            "the paper's weight-normalised mlp has batch_norm=False",
        )


def _of_transformer(fields: Any, prefix: str) -> Conflicts:
    names = f"{prefix}_heads", f"{prefix}_width"
    heads, width = (getattr(fields, name) for name in names)
    if width % heads:
        yield (
            names,
            f"{prefix}_heads={heads} does not divide {prefix}_width={width}; "
            f"{prefix}_heads={divisor(width, heads)} works",
        )


class Family(NamedTuple):
    """What the configuration and `lowrank.models` need to know of a model.

    Attributes:
        file: The module of ``lowrank.models`` whose ``build`` makes it.
        fields: The fields of the group ``model`` that it reads; others are refused beside it.
        smallest: Height and width of the smallest image it takes, in pixels.
        convolutional: Whether the digits are padded to 32 × 32 for it.
        patch: The field that must divide height and width, which must be equal; empty without one.
        parts: Submodules whose counted matrices are averaged by themselves too, as
            ``rank_mean/<part>``.
        one_thread: The ``width`` up to which more than one thread only slows it down.
        text: Whether it reads text, else images.
        conflicts: What its fields, read from their attributes, must not say against each other.
    """

    file: str
    fields: tuple[str, ...]
    smallest: int = 1
    convolutional: bool = False
    patch: str = ""
    parts: tuple[str, ...] = ()
    one_thread: int = 0
    text: bool = False
    conflicts: Callable[[Any], Conflicts] = lambda _: iter(())


_MLP = ("depth", "width", "activation")
_VIT = ("dropout", "vit_patch", "vit_depth", "vit_heads", "vit_width", "vit_mlp_width")
_GPT = ("dropout", "gpt_depth", "gpt_heads", "gpt_width")

FAMILIES = {
    "mlp": Family(
        "mlp", (*_MLP, "batch_norm", "weight_norm"), one_thread=NARROW, conflicts=_of_mlp
    ),
    "resmlp": Family("resmlp", _MLP, one_thread=NARROW),
    "convnet": Family("convnet", ("depth", "width", "activation"), 4, True),
    "mixed": Family("mixed", _MLP, 1, True, parts=("convolutions", "linears")),
    "resnet18": Family("resnet", ("activation",), 1, True),
    "resnet34": Family("resnet", ("activation",), 1, True),
    "resnet50": Family("resnet", ("activation",), 1, True),
    "vgg11": Family("vgg", ("activation", "dropout"), 32, True),
    "vgg13": Family("vgg", ("activation", "dropout"), 32, True),
    "vgg16": Family("vgg", ("activation", "dropout"), 32, True),
    "vgg19": Family("vgg", ("activation", "dropout"), 32, True),
    "vit": Family("vit", _VIT, patch="vit_patch", conflicts=partial(_of_transformer, prefix="vit")),
    "gpt": Family("gpt", _GPT, text=True, conflicts=partial(_of_transformer, prefix="gpt")),
}
"""Name of a model → its line. Each registers its classifier last and keeps a shortcut's convolution
in a submodule ``downsample``, so that ``rank_mean`` counts the paper's layers: all others."""
