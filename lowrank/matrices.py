"""The weight matrices of any module: which there are, their names, and each as a 2-D view.

A weight matrix is a parameter that multiplies activations, seen as (rows, columns):

==============================  =============================================================
Linear                          (out, in)
Conv1d, 2d, 3d                  (out, in/groups·k·k)
ConvTranspose1d, 2d, 3d         (out, in/groups·k·k): output channels as rows here too
Bilinear                        (out, in1·in2): the form is linear in the products x1_i·x2_j
MultiheadAttention              three of (embedding, ·): ``_q``, ``_k``, ``_v``; and ``out_proj``
RNN, LSTM, GRU and their cells  one per weight and gate: ``_weight_ih_l0_i`` (hidden, in), …
==============================  =============================================================

Modules are known by their base class. Of a parametrised, weight-normalised, spectrally normalised
or pruned module the *effective* weight is meant; a weight shared by several modules is listed once.
Any other parameter with two or more dimensions is skipped, with a reason, unless ``include`` names
it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
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

from lowrank.errors import InputError, nearest

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
class WeightMatrix:
    """One weight matrix of a module. It follows the module: `view` reads the present weight.

    Attributes:
        name: ``<layer>`` in the names of metrics, unique in its model: ``layer1_0_conv1``.
        path: Path of the parameter, before any parametrisation: ``layer1.0.conv1.weight``.
        shape: Rows and columns.
        counted: Whether ``rank_mean`` includes it.
        module: Path of the owning module, ``layer1.0.conv1``; empty for the root.
    """

    name: str
    path: str
    shape: tuple[int, int]
    counted: bool
    module: str
    _source: _Found = field(repr=False, compare=False)
    _index: int = field(repr=False, compare=False)

    def view(self) -> Tensor:
        """Returns the present effective weight, leaving the module as it is.

        Returns:
            Tensor (rows, columns) with the weight's own type and device, detached. It shares the
            parameter's memory unless it has to be computed or reordered (parametrised modules,
            transposed convolutions): treat it as read-only and clone it to keep it.
        """
        return self._source.matrix(self._index)


@dataclass(frozen=True)
class Skipped:
    """A parameter of two or more dimensions that is not measured.

    Attributes:
        path: Path of the parameter; ``include`` takes it.
        shape: Its shape.
        reason: Why it is no weight matrix.
    """

    path: str
    shape: tuple[int, ...]
    reason: str


def weight_matrices(
    model: nn.Module, *, exclude: Names = (), include: Names = ()
) -> list[WeightMatrix]:
    """Lists the weight matrices of a module in the order of registration.

    ``counted`` holds for all but the last one and but convolutions inside a submodule called
    ``downsample`` or ``shortcut``. The wrappers of ``torch.compile``, ``DistributedDataParallel``
    and ``DataParallel`` do not show in names.

    Args:
        model: Any module.
        exclude: Matrices that are measured but not counted. Each entry is a layer name, the path of
            a parameter or a module, or a glob over these.
        include: Skipped parameters to measure, named in the same way. More than two dimensions
            become (first, all others), once leading dimensions of size one are dropped.

    Returns:
        The matrices. Names that collide get ``_2``, ``_3``.

    Raises:
        InputError: An entry of ``exclude`` or ``include`` matches nothing, or a module is lazy and
            not initialised, or on the meta device.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> [(m.name, m.shape, m.counted) for m in weight_matrices(model)]
        [('0', (4, 8), True), ('2', (2, 4), False)]
    """
    matrices: list[WeightMatrix] = []
    names: set[str] = set()
    for found in _sort(model, include)[0]:
        for index, plain in enumerate(found.names):
            rows, columns = found.matrix(index).shape
            name = unused_name(plain, names)
            matrices.append(
                WeightMatrix(
                    name=name,
                    path=found.path,
                    shape=(rows, columns),
                    counted=not found.is_shortcut,
                    module=found.module,
                    _source=found,
                    _index=index,
                )
            )
    labels = [(m.name, m.path, m.module) for m in matrices]
    out = _matched("exclude", exclude, labels, "weight matrix")
    return [
        replace(m, counted=m.counted and m is not matrices[-1] and not excluded)
        for m, excluded in zip(matrices, out, strict=True)
    ]


def skipped_parameters(model: nn.Module, *, include: Names = ()) -> list[Skipped]:
    """Lists the parameters of two or more dimensions that are not measured.

    Args:
        model: Any module.
        include: As for `weight_matrices`.

    Returns:
        The parameters in the order of registration, each with the reason.

    Example:
        >>> skipped_parameters(nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 2)))
        [Skipped(path='0.weight', shape=(10, 4), reason='embedding')]
    """
    return [Skipped(f.path, f.shape, f.reason) for f in _sort(model, include)[1]]


def describe(model: nn.Module, *, exclude: Names = (), include: Names = ()) -> str:
    """Says what is measured, what ``rank_mean`` counts, and what is skipped and why.

    Args:
        model: Any module.
        exclude: As for `weight_matrices`.
        include: As for `weight_matrices`.

    Returns:
        A table as text, at most 80 columns wide where names allow.

    Example:
        >>> print(describe(nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 4), nn.Linear(4, 2))))
        weight matrix  shape  full rank  rank_mean
        1              4 × 8          4  counted
        2              2 × 4          2  -
        2 weight matrices of mean full rank 3, 1 of them counted: 4
        <BLANKLINE>
        skipped   shape  reason
        0.weight  9 × 8  embedding
        1 skipped; biases and other vectors are not listed
    """
    matrices = weight_matrices(model, exclude=exclude, include=include)
    skipped = skipped_parameters(model, include=include)
    full = [min(m.shape) for m in matrices]
    counted = [min(m.shape) for m in matrices if m.counted]
    lines = _table(
        ("weight matrix", "shape", "full rank", "rank_mean"),
        [
            (m.name, _size(m.shape), str(min(m.shape)), "counted" if m.counted else "-")
            for m in matrices
        ],
    )
    lines.append(f"{len(full)} weight matri{'x' if len(full) == 1 else 'ces'}")
    if full:
        lines[-1] += f" of mean full rank {_mean(full)}, {len(counted)} of them counted"
    if counted:
        lines[-1] += f": {_mean(counted)}"
    if skipped:
        rows = [(s.path, _size(s.shape), s.reason) for s in skipped]
        lines += ["", *_table(("skipped", "shape", "reason"), rows)]
    lines.append(f"{len(skipped)} skipped; biases and other vectors are not listed")
    return "\n".join(lines)


@dataclass(frozen=True)
class _Found:
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
        return _join(self.module, self.tensor)

    @property
    def labels(self) -> tuple[str, ...]:
        return (*self.names, self.path, self.module)

    @property
    def is_shortcut(self) -> bool:
        inside = _SHORTCUTS.intersection(self.module.split("."))
        return isinstance(self.owner, _CONVOLUTIONS) and bool(inside)

    @torch.no_grad()
    def matrix(self, index: int) -> Tensor:
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


def _sort(model: nn.Module, include: Names) -> tuple[list[_Found], list[_Found]]:
    """Returns what is measured and what is skipped, each tensor once, in registration order."""
    tensors: dict[int, _Found] = {}
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
                tensors[id(parameter)] = _Found(
                    module, owner, tensor, tuple(weight.shape), names, reason
                )
    found = list(tensors.values())
    wanted = _matched("include", include, [f.labels for f in found], "parameter")
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


def _matched(
    option: str, patterns: Names, labels: Sequence[tuple[str, ...]], kind: str
) -> list[bool]:
    """Returns for each item, given by its labels, whether a pattern names it.

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


def _size(shape: Iterable[int]) -> str:
    return " × ".join(map(str, shape))


def _mean(values: Sequence[int]) -> str:
    return f"{sum(values) / len(values):.2f}".rstrip("0").rstrip(".")


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Returns aligned lines: columns of numbers to the right, all others to the left."""
    columns = list(zip(head, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numbers = [all(cell.isdigit() for cell in column[1:]) for column in columns]
    numbers[0] = False  # a layer may be called 0
    return [
        "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(row, widths, numbers, strict=True)
        ).rstrip()
        for row in zip(*columns, strict=True)
    ]
