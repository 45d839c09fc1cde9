"""The table of models: a new one is a line here and a file in ``lowrank/models/``."""

from __future__ import annotations

from typing import NamedTuple


class Family(NamedTuple):
    """What the configuration and `lowrank.models` need to know of a model.

    Attributes:
        file: The module of ``lowrank.models`` whose ``build`` makes it.
        fields: The fields of the group ``model`` that it reads; others are refused beside it.
        smallest: Height and width of the smallest image it takes, in pixels.
        convolutional: Whether the digits are padded to 32 × 32 for it.
    """

    file: str
    fields: tuple[str, ...]
    smallest: int = 1
    convolutional: bool = False


_VIT = ("dropout", "vit_patch", "vit_depth", "vit_heads", "vit_width", "vit_mlp_width")

FAMILIES = {
    "mlp": Family("mlp", ("depth", "width", "activation", "batch_norm", "weight_norm")),
    "resmlp": Family("resmlp", ("depth", "width", "activation")),
    "convnet": Family("convnet", ("depth", "width", "activation"), 4, True),
    "resnet18": Family("resnet", ("activation",), 1, True),
    "resnet34": Family("resnet", ("activation",), 1, True),
    "resnet50": Family("resnet", ("activation",), 1, True),
    "vgg11": Family("vgg", ("activation", "dropout"), 32, True),
    "vgg13": Family("vgg", ("activation", "dropout"), 32, True),
    "vgg16": Family("vgg", ("activation", "dropout"), 32, True),
    "vgg19": Family("vgg", ("activation", "dropout"), 32, True),
    "vit": Family("vit", _VIT),
}
"""Name of a model → its line. Each registers its classifier last and keeps a shortcut's convolution
in a submodule ``downsample``, so that ``rank_mean`` counts the paper's layers: all others."""
