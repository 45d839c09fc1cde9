"""The tensors of a module that may be weight matrices: which it has in effect, and what each is."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import chain, compress, count
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from lowrank.common.errors import InputError
from lowrank.common.texts import nearest

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)
_NORMALISATIONS = (
    nn.modules.batchnorm._NormBase,  # the base of every batch and instance normalisation
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)
_PROJECTIONS = {
    "in_proj_weight": ("q", "k", "v"),
    "q_proj_weight": ("q",),
    "k_proj_weight": ("k",),
    "v_proj_weight": ("v",),
}
_GATES = {3: "rzn", 4: "ifgo"}  # GRU and LSTM, in torch's order of rows
_SHORTCUTS = {"downsample", "shortcut"}

Names = Collection[str]  # or a single string


@dataclass(frozen=True)
class Found:
    """A tensor of two or more dimensions, owned by a module of a model.

    `names` has one layer name for each of the equal blocks of rows that are matrices of their own;
    `reason` says why it is no weight matrix and is empty if it is one.
    """

    module: str
    owner: nn.Module
    tensor: str
    shape: tuple[int, ...]
    names: tuple[str, ...]
    reason: str

    @property
    def path(self) -> str:
        """Path of the parameter in the model."""
        return _join(self.module, self.tensor)

    @property
    def labels(self) -> tuple[str, ...]:
        """What ``exclude`` and ``include`` may call it."""
        return (*self.names, self.path, self.module)

    @property
    def is_shortcut(self) -> bool:
        """Whether it is a convolution of a shortcut."""
        inside = _SHORTCUTS.intersection(self.module.split("."))
        return isinstance(self.owner, _CONVOLUTIONS) and bool(inside)

    @torch.no_grad()
    def matrix(self, index: int) -> Tensor:
        """Returns one of its matrices as it is now.

        Args:
            index: Which of `names`.

        Returns:
            Tensor (rows, columns).
        """
        weight = _effective(self.owner, self.tensor).detach()
        if self.reason:
            while weight.ndim > 2 and weight.shape[0] == 1:
                weight = weight[0]
        elif isinstance(self.owner, _TRANSPOSED):
            # (in, out/groups, *k) -> (groups, in/groups, out/groups, k·k) -> output channels first
            weight = weight.flatten(2)
            weight = weight.reshape(self.owner.groups, -1, *weight.shape[1:])
            weight = weight.transpose(1, 2).flatten(0, 1)
        return weight.flatten(1).chunk(len(self.names))[index]


def sort_tensors(model: nn.Module, include: Names) -> tuple[list[Found], list[Found]]:
    """Tells what is measured from what is skipped, each tensor once, in registration order.

    Args:
        model: Any module.
        include: What is measured though it is no weight matrix of a known module.

    Returns:
        What is measured, and what is skipped.
    """
    tensors: dict[int, Found] = {}
    for module, owner in _modules(model, "", set()):
        for tensor, parameter in _own(owner).items():
            _check_has_values(module, owner, parameter)
            weight = _effective(owner, tensor)
            if weight.ndim < 2:
                continue
            names, reason = _classify(module, owner, tensor, weight)
            # A tied weight is listed at its first use as weight matrix (not at an embedding).
            if id(parameter) not in tensors or (tensors[id(parameter)].reason and not reason):
                tensors.pop(id(parameter), None)
                tensors[id(parameter)] = Found(
                    module, owner, tensor, tuple(weight.shape), names, reason
                )
    found = list(tensors.values())
    wanted = matched("include", include, [f.labels for f in found], "parameter")
    measured = [not f.reason or w for f, w in zip(found, wanted, strict=True)]
    return list(compress(found, measured)), list(compress(found, [not m for m in measured]))


def _modules(module: nn.Module, path: str, seen: set[nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    """Yields what `named_modules` does, but for parametrisations and the names of wrappers."""
    if module in seen:
        return
    seen.add(module)
    yield path, module
    wrapper = isinstance(module, (nn.parallel.DistributedDataParallel, nn.DataParallel))
    for name, child in module.named_children():
        if name == "parametrizations" and is_parametrized(module):
            continue
        # `_orig_mod` is the child of what torch.compile returns
        transparent = name == "_orig_mod" or (wrapper and name == "module")
        yield from _modules(child, path if transparent else _join(path, name), seen)


def _own(module: nn.Module) -> dict[str, Tensor]:
    """Returns a module's effective tensors by name, each with the parameter it comes from."""
    own: dict[str, Tensor] = dict(module.named_parameters(recurse=False))
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm):
            del own[f"{hook.name}_g"]
            own[hook.name] = own.pop(f"{hook.name}_v")
        elif isinstance(hook, SpectralNorm):
            own[hook.name] = own.pop(f"{hook.name}_orig")
        elif isinstance(hook, BasePruningMethod):
            own[hook._tensor_name] = own.pop(f"{hook._tensor_name}_orig")
    if is_parametrized(module):
        for name, steps in cast(nn.ModuleDict, module.parametrizations).items():
            originals = list(steps.parameters(recurse=False))
            if originals:  # none where a buffer is parametrised
                own[name] = originals[0]
    return own


def _effective(module: nn.Module, name: str) -> Tensor:
    """Returns a tensor as the forward pass uses it, without the side effects of a forward pass."""
    if is_parametrized(module, name):
        steps = cast(ParametrizationList, cast(nn.ModuleDict, module.parametrizations)[name])
        with _evaluating(steps):  # in training mode a spectral norm updates its buffers
            return cast(Tensor, steps())
    for hook in module._forward_pre_hooks.values():
        # These write the attribute at each forward pass only; after a step it is out of date.
        if isinstance(hook, WeightNorm) and hook.name == name:
            return cast(Tensor, hook.compute_weight(module))
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


def _check_has_values(path: str, module: nn.Module, parameter: Tensor) -> None:
    where = f"module {path!r} ({type(module).__name__})" if path else type(module).__name__
    if is_lazy(parameter):
        raise InputError(f"{where} is lazy and not initialised: run one forward pass first")
    if parameter.is_meta:
        raise InputError(f"{where} is on the meta device and has no weights: load them first")


def _classify(
    path: str, module: nn.Module, tensor: str, weight: Tensor
) -> tuple[tuple[str, ...], str]:
    """Returns the layer names of a tensor's matrices, and why it is none (empty if it is)."""
    plain = path.replace(".", "_")
    whole = plain if tensor == "weight" and plain else _join(plain, tensor, "_")
    if not (weight.is_floating_point() or weight.is_complex()):
        return (whole,), f"values of type {str(weight.dtype).removeprefix('torch.')}"
    if not weight.numel():
        return (whole,), "has no elements"
    if isinstance(module, (nn.Linear, nn.Bilinear, *_CONVOLUTIONS)) and tensor == "weight":
        return (whole,), ""
    if isinstance(module, nn.MultiheadAttention) and tensor in _PROJECTIONS:
        return tuple(_join(plain, part, "_") for part in _PROJECTIONS[tensor]), ""
    if isinstance(module, (nn.RNNBase, nn.RNNCellBase)) and tensor.startswith("weight_"):
        gates = _GATES.get(weight.shape[0] // module.hidden_size, "")
        if tensor.startswith("weight_hr") or not gates:  # LSTM's projection, or a plain RNN
            return (whole,), ""
        return tuple(f"{whole}_{gate}" for gate in gates), ""
    return (whole,), _reason(module, tensor, weight)


def _reason(module: nn.Module, tensor: str, weight: Tensor) -> str:
    """Returns what a tensor is that is no weight matrix of a known module."""
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return "embedding"
    if isinstance(module, _NORMALISATIONS):
        return "normalisation"
    if "pos" in tensor:
        return "position embedding"
    if "token" in tensor:
        return "token"
    if max(weight.shape) == weight.numel():
        return "vector"
    return f"unknown parameter of {type(module).__name__}"


def matched(
    option: str, patterns: Names, labels: Sequence[tuple[str, ...]], kind: str
) -> list[bool]:
    """Tells which items are named by a pattern.

    Args:
        option: What the patterns were given as, for the message.
        patterns: Names, paths or globs; or a single one.
        labels: Of each item, what it may be called.
        kind: What the items are, for the message.

    Returns:
        Whether it is, for each item.

    Raises:
        InputError: A pattern names no item.
    """
    patterns = [patterns] if isinstance(patterns, str) else patterns
    known = {label for item in labels for label in item if label}
    unknown = [p for p in patterns if not any(fnmatchcase(label, p) for label in known)]
    if unknown:
        raise InputError(
            f"{option}: {p!r} is the name, path or glob of no {kind}{nearest(p, sorted(known))}"
            for p in unknown
        )
    return [any(fnmatchcase(label, p) for p in patterns for label in item) for item in labels]


def _join(start: str, end: str, separator: str = ".") -> str:
    return f"{start}{separator}{end}" if start else end


def unused_name(name: str, used: set[str]) -> str:
    """Takes a layer name that is free.

    Args:
        name: The one wanted.
        used: Those taken; the one returned is added.

    Returns:
        ``name``, or ``name_2``, ``name_3``, … if it is taken.
    """
    unused = next(n for n in chain([name], (f"{name}_{i}" for i in count(2))) if n not in used)
    used.add(unused)
    return unused
