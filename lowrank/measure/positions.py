"""How often a module applies each of its weight matrices to one sample, from one forward pass.

A matrix applied at m positions receives from one sample a gradient of rank at most m: a sum of m
products of a column and a row (`lowrank.measure.bounds.gradient_rank_bound`). Positions are

===============================  ============================================================
Linear                           vectors it is given: 1, or tokens, or pixels
convolution, also transposed     output positions
MultiheadAttention               ``_q`` and ``out_proj`` query length; ``_k``, ``_v`` key length
RNN, LSTM, GRU                   time steps; their cells and Bilinear 1 per call
Embedding (of a tied weight)     tokens looked up
===============================  ============================================================

They are counted where torch's functions receive the parameter itself, not where modules are called:
attention and Swin's windows use a Linear's weight without calling the Linear.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from lowrank.common.errors import InputError
from lowrank.measure.effective import unusable
from lowrank.measure.layers import Layer

_Note = Callable[[Callable[..., Any], Sequence[Any], Mapping[str, Any], Any], None]

ExampleInput = Tensor | Sequence[Tensor] | Mapping[str, Tensor]

_CONVOLUTIONS = {functional.conv1d, functional.conv2d, functional.conv3d}
_TRANSPOSED = {
    functional.conv_transpose1d,
    functional.conv_transpose2d,
    functional.conv_transpose3d,
}
_ROW_BY_ROW = {  # apply their weights to every vector of the first argument
    functional.linear,
    functional.bilinear,
    torch.lstm,
    torch.gru,
    torch.rnn_tanh,
    torch.rnn_relu,
    torch.lstm_cell,
    torch.gru_cell,
    torch.rnn_tanh_cell,
    torch.rnn_relu_cell,
}
_VALUELESS = {  # read type and device of a weight, not its values
    Tensor.new_empty,
    Tensor.new_full,
    Tensor.new_ones,
    Tensor.new_tensor,
    Tensor.new_zeros,
}
_OF_AN_INPUT = {  # whose first argument is multiplied, not a weight
    "linear",
    *(f"conv{transposed}{dims}d" for transposed in ("", "_transpose") for dims in (1, 2, 3)),
}
PRODUCTS = {
    *_OF_AN_INPUT,
    *("matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "mv", "einsum", "tensordot", "inner"),
    *("addmm", "addmv", "addbmm", "baddbmm", "chain_matmul", "multi_dot"),
    *("_grouped_mm", "grouped_mm"),
}
_ATTENTION = inspect.signature(functional.multi_head_attention_forward)


@dataclass(frozen=True)
class Applied:
    """How a weight matrix is applied to one sample.

    Attributes:
        positions: Number of positions m, 1 or more, over all its uses.
        groups: Groups g of a grouped convolution, else 1.
    """

    positions: int
    groups: int = 1


def output_positions(
    model: nn.Module,
    matrices: Sequence[Layer],
    example_input: ExampleInput,
    *,
    batch_dim: int | None = 0,
) -> dict[str, Applied | None]:
    """Counts the positions at which each weight matrix is applied to one sample.

    One forward pass of the first sample alone, in evaluation mode, without gradients and without
    `torch.compile`. So windows folded into the batch and tables shared by all samples are counted
    right. Flags, buffers, gradients and random generators are left as they were, also on an error.

    Args:
        model: The module.
        matrices: All of `lowrank.measure.matrices.weight_matrices(model)`.
        example_input: What the module is called with: a tensor, several, or a mapping of keyword
            arguments. Of any batch size; each tensor as long as the first along `batch_dim` is cut
            to one sample, so give a batch of one where that would cut a wrong one.
        batch_dim: Dimension of the batch, 1 for a recurrent module or attention without
            ``batch_first``; None if the input is a single sample without a batch dimension.

    Returns:
        Positions and groups by layer name. None where nothing can be said: not applied in the pass
        (an auxiliary head), not the parameter itself (parametrised, weight-normalised, pruned), or
        used in a way that is not in the table above.

    Raises:
        InputError: `example_input` is no tensors, or has no sample along `batch_dim`.

    Example:
        >>> from lowrank.measure.matrices import weight_matrices
        >>> model = nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.Flatten(), nn.Linear(144, 10))
        >>> output_positions(model, weight_matrices(model), torch.zeros(16, 2, 8, 8))
        {'0': Applied(positions=36, groups=2), '2': Applied(positions=1, groups=1)}
    """
    model = unwrapped(model)
    counter = _Counter(names_by_parameter(model, matrices))
    noted_pass(model, example_input, batch_dim, counter.note)
    return {matrix.name: counter.applied.get(matrix.name) for matrix in matrices}


def parameters_in_products(model: nn.Module, example_input: ExampleInput) -> set[int]:
    """Tells which parameters multiply something as a matrix, from one forward pass.

    The pass is that of `output_positions`. A parameter counts also through a view of it: a block,
    one of a stack, transposed.

    Args:
        model: The module.
        example_input: What it is called with.

    Returns:
        The identities of the parameters.
    """
    model = unwrapped(model)
    usable = (p for p in model.parameters() if p.numel() and not unusable(p))
    owners = {p.untyped_storage().data_ptr(): id(p) for p in usable}
    found: set[int] = set()

    def note(
        func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], _result: Any
    ) -> None:
        name = getattr(func, "__name__", "")
        if name not in PRODUCTS:
            return
        has_input = name in _OF_AN_INPUT
        others = {"bias", "input"} if has_input else {"bias"}
        named = [value for name, value in kwargs.items() if name not in others]
        for tensor in tensors_in([args[1:] if has_input else args, named]):
            if tensor.ndim > 1 and not unusable(tensor):
                owner = owners.get(tensor.untyped_storage().data_ptr())
                if owner is not None:
                    found.add(owner)

    noted_pass(model, example_input, 0, note)
    return found


def noted_pass(
    model: nn.Module, example_input: ExampleInput, batch_dim: int | None, note: _Note
) -> None:
    """Calls a module as `output_positions` does, and tells of each call of a function of torch.

    Args:
        model: The module, unwrapped.
        example_input: What it is called with.
        batch_dim: As for `output_positions`.
        note: Takes the function, its arguments, its keyword arguments and what it returned.
    """
    args, kwargs = _one_sample(example_input, batch_dim)
    with _left_as_it_was(model), _eagerly(), torch.no_grad(), _Noting(note):
        model(*args, **kwargs)


class _Noting(TorchFunctionMode):
    """Tells, while active, of each call of a function of torch.

    An active mode also keeps attention and transformer layers off their fused inference path, which
    would hide what they apply.

    Args:
        note: Takes the function, its arguments, its keyword arguments and what it returned.
    """

    def __init__(self, note: _Note) -> None:
        super().__init__()
        self._note = note

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Calls a function of torch, and notes what is to be noted of it.

        Args:
            func: The function.
            types: Of overriding arguments; not needed.
            args: Its arguments.
            kwargs: Its keyword arguments.

        Returns:
            What the function returns.
        """
        result = func(*args, **(kwargs or {}))
        self._note(func, args, kwargs or {}, result)
        return result


class _Counter:
    """Counts what torch's functions do with the parameters it was given.

    Args:
        names: By the identity of a parameter: the names of its matrices, blocks of its rows.
    """

    def __init__(self, names: Mapping[int, Sequence[str]]) -> None:
        self._names = names
        self.applied: dict[str, Applied | None] = {}

    def note(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], result: Any
    ) -> None:
        """Notes which matrices a function applied, and at how many positions."""
        weights = [t for t in tensors_in([args, kwargs]) if id(t) in self._names]
        if not weights:
            return
        if func is functional.multi_head_attention_forward:
            self._note_attention(_ATTENTION.bind(*args, **kwargs).arguments)
            return
        if func in _VALUELESS or not any(True for _ in tensors_in([result])):
            return
        given = args[0] if args else kwargs.get("input")
        for weight in weights:
            if not isinstance(given, Tensor) or given is weight:
                self._add(weight, None)
            elif func in _ROW_BY_ROW:
                self._add(weight, Applied(_rows(given)))
            elif func is functional.embedding:
                self._add(weight, Applied(given.numel()))
            elif func in _CONVOLUTIONS or func in _TRANSPOSED:
                channel_dim = 1 - weight.ndim  # counted from the end: a batch dimension is optional
                grouped = result if func in _TRANSPOSED else given
                groups = grouped.shape[channel_dim] // weight.shape[1]
                self._add(weight, Applied(result.numel() // result.shape[channel_dim], groups))
            else:
                self._add(weight, None)

    def _note_attention(self, arguments: Mapping[str, Any]) -> None:
        rows = [Applied(_rows(arguments[name])) for name in ("query", "key", "value")]
        projections = [arguments.get(f"{part}_proj_weight") for part in "qkv"]
        self._add(arguments["in_proj_weight"], *rows)
        self._add(arguments["out_proj_weight"], rows[0])
        for projection, applied in zip(projections, rows, strict=True):
            self._add(projection, applied)

    def _add(self, weight: Tensor | None, *uses: Applied | None) -> None:
        """Adds a use of all blocks of a parameter, or one for each."""
        names = self._names.get(id(weight), ())
        each = uses * len(names) if len(uses) == 1 else uses
        for name, use in zip(names, each, strict=bool(names)):
            before = self.applied.get(name, Applied(0))
            self.applied[name] = None
            if before and use:
                self.applied[name] = Applied(
                    before.positions + use.positions, max(before.groups, use.groups)
                )


def _rows(vectors: Tensor) -> int:
    return vectors.numel() // vectors.shape[-1]


def tensors_in(values: Any) -> Iterator[Tensor]:
    """Yields the tensors in nested sequences and mappings.

    Args:
        values: Of any type.

    Yields:
        Each tensor.
    """
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (tuple, list, Mapping)):
        for value in values.values() if isinstance(values, Mapping) else values:
            yield from tensors_in(value)


def _one_sample(
    example_input: ExampleInput, batch_dim: int | None
) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Returns positional and keyword arguments of a batch of one.

    Raises:
        InputError: As `output_positions`.
    """
    given = [example_input] if isinstance(example_input, Tensor) else example_input
    named: dict[Any, Any] = dict(given if isinstance(given, Mapping) else enumerate(given))
    if not named or not all(isinstance(value, Tensor) for value in named.values()):
        kinds = ", ".join(type(value).__name__ for value in named.values()) or "none"
        raise InputError(f"example_input must be one or more tensors, got {kinds}")
    if batch_dim is not None:
        first = next(iter(named.values()))
        if not 0 <= batch_dim < first.ndim or not first.shape[batch_dim]:
            raise InputError(
                f"example_input must have samples along dimension {batch_dim}, "
                f"got the shape {tuple(first.shape)}"
            )
        for name, value in named.items():
            if value.ndim > batch_dim and value.shape[batch_dim] == first.shape[batch_dim]:
                named[name] = value.narrow(batch_dim, 0, 1)
    return ((), named) if isinstance(given, Mapping) else (tuple(named.values()), {})


def unwrapped(model: nn.Module) -> nn.Module:
    """Returns the module inside wrappers for several devices, whose forward passes communicate.

    Args:
        model: The module.
    """
    while True:
        if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            model = model.module
        elif isinstance(compiled := getattr(model, "_orig_mod", None), nn.Module):
            model = compiled
        else:
            return model


def names_by_parameter(model: nn.Module, matrices: Sequence[Layer]) -> dict[int, list[str]]:
    """Returns the matrices of each parameter; those of no parameter (parametrised) are missing.

    Args:
        model: The module, unwrapped.
        matrices: All of `lowrank.measure.matrices.weight_matrices(model)`.

    Returns:
        By the identity of a parameter the names of its matrices, blocks of its rows.
    """
    parameters = {
        ".".join(part for part in path.split(".") if part != "_orig_mod"): parameter
        for path, parameter in model.named_parameters(remove_duplicate=False)
    }
    names: dict[int, list[str]] = {}
    for matrix in matrices:
        if matrix.path in parameters:
            names.setdefault(id(parameters[matrix.path]), []).append(matrix.name)
    return names


@contextlib.contextmanager
def _left_as_it_was(model: nn.Module) -> Iterator[None]:
    """Puts a module into evaluation mode; at the end restores flags, buffers and generators."""
    flags = [(module, module.training) for module in model.modules()]
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices):
        for module, _ in flags:
            module.training = False
        try:
            yield
        finally:
            for module, training in flags:
                module.training = training
            with torch.no_grad():
                for module, name, buffer, values in buffers:
                    setattr(module, name, buffer.copy_(values))


def _eagerly() -> contextlib.AbstractContextManager[object]:
    """Returns the context in which nothing compiled runs: a compiled pass would hide its calls."""
    if "torch._dynamo" not in sys.modules:  # then nothing is compiled, and importing it takes 2 s
        return contextlib.nullcontext()
    stance: contextlib.AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return stance
