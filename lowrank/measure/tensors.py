"""The tensors of a module that may be weight matrices: which it has in effect, and what each is."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import chain, count
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from lowrank.common.errors import InputError, refuse
from lowrank.common.texts import nearest
from lowrank.measure.effective import dtensor, effective, unusable

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
_OF_ONE_WEIGHT = (nn.Linear, nn.Bilinear, *_CONVOLUTIONS)
_ATTENTION = (nn.MultiheadAttention,)
_RECURRENT = (nn.RNNBase, nn.RNNCellBase)

_QUANTISED = "torch.ao.nn."  # and its descendants, whose weight is a method
_UNKNOWN = "unknown parameter of"

Names = Collection[str]  # or a single string
Split = int | Sequence[str] | Mapping[str, int]
"""Into what a matrix is split: a number of equal blocks of rows, their names, or rows by name."""


@dataclass(frozen=True)
class Found:
    """A tensor that is one or several weight matrices, or is skipped.

    `names` has one layer name for each of its matrices, as `form` says they lie in it: equal blocks
    of ``rows``, those of a ``transposed`` convolution, a ``stack`` along the leading dimensions, or
    with rows and columns ``swapped``; blocks that are not equal have their own `rows`. `reason`
    says why it is no weight matrix and is empty if it is one; `can_be_included` tells whether it
    could be one all the same.
    """

    module: str
    owner: nn.Module
    tensor: str
    shape: tuple[int, ...]
    names: tuple[str, ...]
    reason: str = ""
    form: str = "rows"
    rows: tuple[int, ...] = ()
    can_be_included: bool = True
    is_counted: bool = True

    @property
    def path(self) -> str:
        """Path of the parameter in the model."""
        return _join(self.module, self.tensor)

    @property
    def labels(self) -> tuple[str, ...]:
        """What ``exclude`` and ``include`` may call it."""
        return (*self.names, _layer_name(self.module, self.tensor), self.path, self.module)

    @property
    def is_unknown(self) -> bool:
        """Whether an example of what the model is called with could tell whether it is one."""
        return self.reason.startswith(_UNKNOWN)

    @property
    def is_shortcut(self) -> bool:
        """Whether it is a 1×1 convolution of a shortcut."""
        inside = _SHORTCUTS.intersection(self.module.split("."))
        return (
            isinstance(self.owner, _CONVOLUTIONS)
            and set(self.owner.kernel_size) == {1}
            and bool(inside)
        )

    @torch.no_grad()
    def matrix(self, index: int) -> Tensor:
        """Returns one of its matrices as it is now.

        Of a tensor that is sharded over processes (`torch.distributed.tensor.DTensor`) all of them
        take part in gathering it.

        Args:
            index: Which of `names`.

        Returns:
            Tensor (rows, columns).

        Raises:
            InputError: The values are gone, or no longer those of such a matrix.
        """
        weight = effective(self.owner, self.tensor).detach()
        problem = "on the meta device" if weight.is_meta else unusable(weight)
        if problem or tuple(weight.shape) != self.shape:
            raise InputError(
                f"{self.path} was of shape {self.shape} when it was watched and is now "
                f"{problem or tuple(weight.shape)}: watch the model anew"
            )
        if isinstance(weight, dtensor()):
            weight = weight.full_tensor()
        return self._seen(weight, index)

    def size(self, index: int) -> tuple[int, int]:
        """Returns rows and columns of one of its matrices.

        Args:
            index: Which of `names`.

        Returns:
            The shape, for which nothing is gathered or computed.
        """
        rows, columns = self._seen(torch.empty(self.shape, device="meta"), index).shape
        return rows, columns

    def divided(self, parts: Split) -> Found:
        """Returns it with its one matrix split into blocks of rows.

        Args:
            parts: Which.

        Returns:
            The same tensor, with a layer name for each block.

        Raises:
            InputError: The rows do not make such blocks, or it has several matrices already.
        """
        names = list(range(parts) if isinstance(parts, int) else parts)
        total = 0 if len(self.names) > 1 or self.form == "stack" else self.size(0)[0]
        equal = [total // max(len(names), 1)] * len(names)
        rows = tuple(parts.values() if isinstance(parts, Mapping) else equal)
        if not total or sum(rows) != total or min(rows) < 1:
            raise InputError(
                f"split: {self.path} has {total} rows, got {parts!r}; allowed: a number of equal "
                "blocks of rows, their names, or the rows of each by name"
                if total
                else f"split: {self.path} is {len(self.names)} matrices already"
            )
        return replace(self, names=tuple(f"{self.names[0]}_{name}" for name in names), rows=rows)

    def _seen(self, weight: Tensor, index: int) -> Tensor:
        if self.form == "stack":
            return weight.flatten(0, -3)[index]
        if self.form == "swapped":
            weight = weight.T
        elif self.form == "transposed":
            # (in, out/groups, *k) -> (groups, in/groups, out/groups, k·k) -> output channels first
            weight = weight.flatten(2)
            groups = cast(nn.ConvTranspose2d, self.owner).groups
            weight = weight.reshape(groups, -1, *weight.shape[1:])
            weight = weight.transpose(1, 2).flatten(0, 1)
        weight = weight.flatten(1)
        return (weight.split(self.rows) if self.rows else weight.chunk(len(self.names)))[index]


def sort_tensors(
    model: nn.Module, include: Names, products: Collection[int] | None = None
) -> tuple[list[Found], list[Found]]:
    """Tells what is measured from what is skipped, each tensor once, in registration order.

    Args:
        model: Any module.
        include: What is measured though it is no weight matrix of a known module, and shortcuts
            that are counted.
        products: Identities of the parameters that were seen to enter a matrix product; None where
            that is not known.

    Returns:
        What is measured, and what is skipped.
    """
    tensors: dict[object, Found] = {}
    for module, owner in named_modules(model):
        own = _own(owner)
        for tensor, parameter in own.items():
            _check_has_values(module, owner, parameter)
            weight = effective(owner, tensor)
            if weight.ndim < 2 and not _is_expected(owner, tensor):
                continue
            found = _classify(module, owner, tensor, weight)
            if found.is_unknown and products is not None:
                if id(parameter) in products:
                    found = _as_matrices(replace(found, reason=""))
                else:
                    found = replace(found, reason=f"{found.reason} that enters no matrix product")
            # A tied weight is listed at its first use as weight matrix (not at an embedding).
            if id(parameter) not in tensors or (tensors[id(parameter)].reason and not found.reason):
                tensors.pop(id(parameter), None)
                tensors[id(parameter)] = found
        if lacking := _without_parameter(module, owner, own):
            tensors[id(owner)] = lacking
    every = list(tensors.values())
    wanted = matched("include", include, [f.labels for f in every], "parameter")
    measured, skipped = [], []
    for found, is_wanted in zip(every, wanted, strict=True):
        if not found.reason:
            measured.append(replace(found, is_counted=is_wanted or not found.is_shortcut))
        elif is_wanted and found.can_be_included:
            measured.append(_as_matrices(found))
        else:
            skipped.append(found)
    return measured, skipped


def named_modules(
    module: nn.Module, path: str = "", seen: set[nn.Module] | None = None
) -> Iterator[tuple[str, nn.Module]]:
    """Yields what torch's does, but for parametrisations and the names of wrappers.

    Args:
        module: Any.
        path: What its own is.
        seen: Modules that are left out.

    Yields:
        Path and module.
    """
    seen = set() if seen is None else seen
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
        yield from named_modules(child, path if transparent else _join(path, name), seen)


def _own(module: nn.Module) -> dict[str, Tensor]:
    """Returns a module's effective tensors by name, each with the parameter it comes from."""
    own: dict[str, Tensor] = dict(module.named_parameters(recurse=False))
    for hook in reversed(module._forward_pre_hooks.values()):  # the later acts on the earlier's
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


def _check_has_values(path: str, module: nn.Module, parameter: Tensor) -> None:
    where = f"module {path!r} ({type(module).__name__})" if path else type(module).__name__
    if is_lazy(parameter):
        raise InputError(f"{where} is lazy and not initialised: run one forward pass first")
    if parameter.is_meta:
        raise InputError(f"{where} is on the meta device and has no weights: load them first")


def _is_expected(owner: nn.Module, tensor: str) -> bool:
    """Returns whether a tensor of that name should be weight matrices of a known module."""
    return (
        (isinstance(owner, _OF_ONE_WEIGHT) and tensor == "weight")
        or (isinstance(owner, _ATTENTION) and tensor in _PROJECTIONS)
        or (isinstance(owner, _RECURRENT) and tensor.startswith("weight_"))
    )


def _without_parameter(path: str, owner: nn.Module, own: Mapping[str, Tensor]) -> Found | None:
    """Returns what is to be said of a linear or convolutional module whose weight is no parameter.

    Returns:
        What is skipped; None where nothing is.
    """
    quantised = type(owner).__module__.startswith(_QUANTISED) and hasattr(owner, "weight")
    if "weight" in own or not (isinstance(owner, _OF_ONE_WEIGHT) or quantised):
        return None
    weight = owner.weight
    names = (_layer_name(path, "weight"),)
    if isinstance(weight, Tensor):
        reason = "a buffer" if "weight" in owner._buffers else "computed or taken from elsewhere"
        usable = weight.ndim == 2 and not weight.is_meta and not unusable(weight)
        shape, reason = tuple(weight.shape), f"{reason}, not a parameter of its {_kind(owner)}"
        return Found(path, owner, "weight", shape, names, reason, can_be_included=usable)
    sizes = [getattr(owner, name, 0) for name in ("out_features", "in_features")]
    shape = tuple(sizes) if all(isinstance(n, int) and n for n in sizes) else ()
    reason = "quantised" if quantised else f"its {_kind(owner)} has no weight"
    return Found(path, owner, "weight", shape, names, reason, can_be_included=False)


def _classify(path: str, module: nn.Module, tensor: str, weight: Tensor) -> Found:
    """Returns what a tensor is: the layer names of its matrices, or why it is none."""
    whole = _layer_name(path, tensor)
    found = Found(path, module, tensor, tuple(weight.shape), (whole,))
    if weight.ndim < 2:  # of a module that should have one, where others keep its values
        shape = getattr(getattr(module, tensor), "ds_shape", weight.shape)
        by = "by ZeRO-3" if hasattr(getattr(module, tensor), "ds_shape") else "elsewhere, or flat"
        reason = f"has no values of a matrix here: sharded {by}"
        return replace(found, shape=tuple(shape), reason=reason, can_be_included=False)
    if reason := unusable(weight):
        return replace(found, reason=reason, can_be_included=False)
    if not weight.numel():
        return replace(found, reason="has no elements")
    if isinstance(module, _OF_ONE_WEIGHT) and tensor == "weight":
        return replace(found, form="transposed" if isinstance(module, _TRANSPOSED) else "rows")
    if isinstance(module, _ATTENTION) and tensor in _PROJECTIONS:
        parts = _PROJECTIONS[tensor]
        return replace(found, names=tuple(_layer_name(path, part) for part in parts))
    if isinstance(module, _RECURRENT) and tensor.startswith("weight_"):
        gates = _GATES.get(weight.shape[0] // module.hidden_size, "")
        if tensor.startswith("weight_hr") or not gates:  # LSTM's projection, or a plain RNN
            return found
        return replace(found, names=tuple(f"{whole}_{gate}" for gate in gates))
    if _kind(module) == "Conv1D" and tensor == "weight" and weight.ndim == 2:  # GPT-2's
        return replace(found, form="swapped")
    if weight.ndim == 3 and "Experts" in _kind(module) and "bias" not in tensor:
        return _as_matrices(found)
    if weight.ndim == 2 and _kind(module).endswith("Router") and tensor == "weight":
        return found
    return replace(found, reason=_reason(module, tensor, weight))


def _as_matrices(found: Found) -> Found:
    """Returns a tensor seen as matrices: its last two dimensions, or those of a convolution."""
    count = math.prod(found.shape[:-2])
    if len(found.shape) == 2 or "conv" in _kind(found.owner).lower():
        return found
    (whole,) = found.names
    names = tuple(f"{whole}_{index}" for index in range(count)) if count > 1 else (whole,)
    return replace(found, form="stack", names=names)


def _layer_name(path: str, tensor: str) -> str:
    plain = path.replace(".", "_")
    return plain if tensor == "weight" and plain else _join(plain, tensor, "_")


def _kind(module: nn.Module) -> str:
    return type(module).__name__


def _reason(module: nn.Module, tensor: str, weight: Tensor) -> str:
    """Returns what a tensor is that is no weight matrix of a known module."""
    words = set(re.split(r"[^a-z]+", tensor.lower()))
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return "embedding"
    if isinstance(module, _NORMALISATIONS):
        return "normalisation"
    if words & {"pos", "position", "positions", "positional"}:
        return "position embedding"
    if words & {"token", "tokens"}:
        return "token"
    if max(weight.shape) == weight.numel():
        return "vector"
    return f"{_UNKNOWN} {_kind(module)}"


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
    refuse(
        f"{option}: {p!r} is the name, path or glob of no {kind}{nearest(p, sorted(known))}"
        for p in patterns
        if not any(fnmatchcase(label, p) for label in known)
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
