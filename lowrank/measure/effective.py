"""What a module's tensors are in effect, and whether their values are those of a matrix."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm


def effective(module: nn.Module, name: str) -> Tensor:
    """Returns a tensor as the forward pass uses it, without the side effects of a forward pass.

    Args:
        module: Whose it is.
        name: Its attribute, which may be parametrised, normalised or pruned.
    """
    if is_parametrized(module, name):
        steps = cast(ParametrizationList, cast(nn.ModuleDict, module.parametrizations)[name])
        with _evaluating(steps):  # in training mode a spectral norm updates its buffers
            return cast(Tensor, steps())
    for hook in module._forward_pre_hooks.values():
        # These write the attribute at each forward pass only; after a step it is out of date.
        if isinstance(hook, WeightNorm) and hook.name == name:
            direction, norm = (effective(module, f"{name}_{part}") for part in "vg")
            return torch._weight_norm(direction, norm, hook.dim)
        if isinstance(hook, SpectralNorm) and hook.name == name:
            return hook.compute_weight(module, do_power_iteration=False)
        if isinstance(hook, BasePruningMethod) and hook._tensor_name == name:
            return cast(Tensor, hook.apply_mask(module))
    return cast(Tensor, getattr(module, name))


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    training = [m for m in module.modules() if m.training]
    for m in training:
        m.training = False
    try:
        yield
    finally:
        for m in training:
            m.training = True


def unusable(weight: Tensor) -> str:
    """Says whether a tensor's values are those of a matrix.

    Args:
        weight: Any tensor.

    Returns:
        Why they are not; empty if they are.
    """
    if weight.layout != torch.strided:
        return "sparse"
    kind = type(weight)
    if kind.__torch_dispatch__ is not Tensor.__torch_dispatch__ and kind is not dtensor():
        return f"values in a {kind.__name__}"  # which may be quantised, in a layout of its own
    if not (weight.is_floating_point() or weight.is_complex()) or weight.itemsize == 1:
        # Of one byte: quantised, with a scale of their own.
        return f"values of type {str(weight.dtype).removeprefix('torch.')}"
    return ""


def dtensor() -> type[Any]:
    """Finds the class of tensors that are sharded over processes, without importing it.

    Returns:
        The class; one without instances where nothing can be sharded.
    """
    loaded = sys.modules.get("torch.distributed.tensor")
    return cast("type[Any]", getattr(loaded, "DTensor", _NoTensor))


class _NoTensor:
    """A class without instances."""
