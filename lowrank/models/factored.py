"""Networks whose layers are products of two: fewer parameters and operations at a low rank.

A factored layer is an `nn.Sequential` of two: of a Linear, Linear to r units without bias and
Linear from them; of a convolution, one of the same kernel to r channels without bias and a 1×1
convolution from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from lowrank.measure.truncation import Factors


def plain(network: nn.Module) -> nn.Module:
    """Makes every parametrised weight an ordinary one of the same value.

    Args:
        network: Changed in place.

    Returns:
        The network.
    """
    for module in network.modules():
        if parametrize.is_parametrized(module):
            # A copy of a module shares its class, of which torch removes the weight's property.
            own = type(module)
            module.__class__ = type(own.__name__, own.__bases__, dict(own.__dict__))
            for name in list(module.parametrizations):  # type: ignore[arg-type]
                with torch.enable_grad():  # without, the weight would be no parameter
                    parametrize.remove_parametrizations(module, name)
    return network


def unfactorable(network: nn.Module, path: str) -> str:
    """Says why a module cannot be a product of two.

    Args:
        network: That it is part of.
        path: Of the module.

    Returns:
        The reason in words; empty if it can.

    Example:
        >>> unfactorable(nn.Sequential(nn.Conv2d(4, 4, 3, groups=2)), "0")
        'a convolution in groups'
    """
    module = network.get_submodule(path)
    parent = network.get_submodule(path.rpartition(".")[0])
    if isinstance(module, nn.MultiheadAttention) or isinstance(parent, nn.MultiheadAttention):
        return "within attention, which computes with its parameters itself"
    if type(module) is nn.Conv2d:
        return "a convolution in groups" if module.groups > 1 else ""
    return "" if type(module) is nn.Linear else f"a module of type {type(module).__name__}"


def factored_size(shape: tuple[int, int], rank: int) -> int:
    """Returns the entries of the two factors of a matrix.

    Args:
        shape: (rows, columns) of the matrix.
        rank: Of the factors.

    Example:
        >>> factored_size((100, 64), 10)
        1640
    """
    return rank * sum(shape)


def split_layers(network: nn.Module, ranks: Mapping[str, int]) -> nn.Module:
    """Puts two layers in the place of each of some.

    Args:
        network: Changed in place; without parametrised weights.
        ranks: By path of the module: those that `unfactorable` has nothing against.

    Returns:
        The network, in which those layers have no weights yet.
    """
    for path, rank in ranks.items():
        network.set_submodule(path, _pair(network.get_submodule(path), rank), strict=True)
    return network


def factor(network: nn.Module, ranks: Mapping[str, int]) -> nn.Module:
    """Writes layers as products of two, the best approximations of their ranks.

    Args:
        network: Changed in place; without parametrised weights.
        ranks: As for `split_layers`.

    Returns:
        The network.

    Example:
        >>> network = factor(nn.Sequential(nn.Linear(8, 6)), {"0": 2})
        >>> [tuple(parameter.shape) for parameter in network.parameters()]
        [(2, 8), (6, 2), (6,)]
    """
    whole = {path: network.get_submodule(path) for path in ranks}
    split_layers(network, ranks)
    with torch.no_grad():
        for path, module in whole.items():
            assert isinstance(module, nn.Linear | nn.Conv2d)
            left, right = Factors(module.weight.flatten(1)).of_rank(ranks[path])
            pair = network.get_submodule(path).children()
            first, second = (dict(layer.named_parameters()) for layer in pair)
            first["weight"].copy_(right.view_as(first["weight"]))
            second["weight"].copy_(left.view_as(second["weight"]))
            if module.bias is not None:
                second["bias"].copy_(module.bias)
    return network


def _pair(module: nn.Module, rank: int) -> nn.Sequential:
    """Returns the two layers in the place of one, on its device and of its type."""
    assert isinstance(module, nn.Linear | nn.Conv2d)
    has_bias = module.bias is not None
    if isinstance(module, nn.Linear):
        first: nn.Module = nn.Linear(module.in_features, rank, bias=False)
        second: nn.Module = nn.Linear(rank, module.out_features, bias=has_bias)
    else:
        kernel: Any = {
            name: getattr(module, name)
            for name in ("kernel_size", "stride", "padding", "dilation", "padding_mode")
        }
        first = nn.Conv2d(module.in_channels, rank, bias=False, **kernel)
        second = nn.Conv2d(rank, module.out_channels, 1, bias=has_bias)
    return nn.Sequential(first, second).to(module.weight).train(module.training)
