"""Which weight matrix follows which: whose input is the output of a single other one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from lowrank.measure.layers import Layer
from lowrank.measure.positions import (
    PRODUCTS,
    ExampleInput,
    names_by_parameter,
    noted_pass,
    tensors_in,
    unwrapped,
)

_UNKNOWN = ""  # stands for a matrix that is none of those measured


def matrices_before(
    model: nn.Module, matrices: Sequence[Layer], example_input: ExampleInput
) -> dict[str, str]:
    """Tells from which matrix the input of each comes, from one forward pass.

    One matrix follows another if its input is computed from the output of that one alone, through
    anything without a weight matrix, such as an activation, a normalisation, pooling or a
    flattening, and if it has a whole number of columns for each row of it. So no matrix follows a
    sum of a residual network, attention, a gate of an RNN, or a parametrised weight.

    Args:
        model: The module.
        matrices: All of `lowrank.measure.matrices.weight_matrices(model)`.
        example_input: As for `lowrank.measure.positions.output_positions`.

    Returns:
        By the name of a matrix the name of the one before it, where there is one.

    Example:
        >>> import torch
        >>> from lowrank.measure.matrices import weight_matrices
        >>> model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
        >>> matrices_before(model, weight_matrices(model), torch.zeros(1, 2, 8, 8))
        {'3': '0'}
    """
    model = unwrapped(model)
    tracer = _Tracer(names_by_parameter(model, matrices))
    noted_pass(model, example_input, 0, tracer.note)
    shapes = {matrix.name: matrix.shape for matrix in matrices}
    is_whole = {matrix.name: matrix.groups == 1 for matrix in matrices}
    return {
        name: before
        for name, sources in tracer.before.items()
        if len(sources) == 1
        and (before := next(iter(sources))) != _UNKNOWN
        and is_whole[name]
        and shapes[name][1] % shapes[before][0] == 0
    }


class _Tracer:
    """Follows tensors through a forward pass.

    Args:
        names: By the identity of a parameter: the names of its matrices, blocks of its rows.
    """

    def __init__(self, names: Mapping[int, Sequence[str]]) -> None:
        self._names = names
        self._sources: dict[int, frozenset[str]] = {}
        self._alive: list[Tensor] = []  # an identity is that of one tensor as long as it lives
        self.before: dict[str, frozenset[str]] = {}

    def note(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], result: Any
    ) -> None:
        """Notes of what the results of a function are made."""
        given = list(tensors_in([args, kwargs]))
        names = [name for tensor in given for name in self._names.get(id(tensor), ())]
        sources = frozenset[str]().union(*(self._sources.get(id(t), ()) for t in given))
        name = getattr(func, "__name__", "")
        made = given[:1] if name == "__setitem__" else list(tensors_in([result]))
        if names and made:
            known = sources if len(names) == 1 and sources else {_UNKNOWN}
            for matrix in names:
                self.before[matrix] = self.before.get(matrix, frozenset()) | known
            sources = frozenset(names)
        elif name in PRODUCTS:
            sources = frozenset([_UNKNOWN])
        for tensor in made:
            self._sources[id(tensor)] = sources
        self._alive += made
