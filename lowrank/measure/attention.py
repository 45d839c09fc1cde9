"""The products through which attention acts: W_Qᵀ W_K and W_O W_V of every head.

A head compares tokens x and y by xᵀ W_Qᵀ W_K y, up to a factor, and adds W_O W_V y to the output.
Neither depends on the basis of the head's own space, as each of the four matrices does. Both are
products of two factors of width r, the size of a head. With the QR decompositions A = Q R and
Bᵀ = P S, the product A B = Q (R Sᵀ) Pᵀ has the singular values of the r × r core R Sᵀ, and else
zeros: no matrix of the model's width squared is computed.

Biases are left out. Where queries and keys are rotated by position or normalised before they meet,
what acts is more than W_Qᵀ W_K.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lowrank.measure.layers import Layer
from lowrank.measure.matrices import WeightMatrix
from lowrank.measure.tensors import named_modules, unused_name

_OUTPUTS = ("o_proj", "out_proj", "proj")
_HEADS = ("num_heads", "num_attention_heads", "n_head", "n_heads")


class Block(NamedTuple):
    """Rows of a weight: one of the projections of an attention.

    Attributes:
        weights: Layers that are the weight, one below the other.
        start: The first row.
        rows: How many.
        columns: Of the weight.
    """

    weights: tuple[str, ...]
    start: int
    rows: int
    columns: int

    def of(self, present: Mapping[str, Tensor]) -> Tensor:
        """Returns it as it is in a snapshot.

        Args:
            present: The weight matrices by name.

        Returns:
            Tensor (rows, columns).
        """
        found = [present[name] for name in self.weights]
        whole = found[0] if len(found) == 1 else torch.cat(found)
        return whole[self.start : self.start + self.rows]


@dataclass(frozen=True)
class Product:
    """One product of one head.

    Attributes:
        layer: Its entry. The shape is that of the core.
        factors: The matrices that it is made of, by the names of their layers.
    """

    layer: Layer
    factors: tuple[str, ...]
    _left: Block
    _right: Block
    _at: tuple[slice, slice]

    def core(self, present: Mapping[str, Tensor]) -> Tensor:
        """Returns the core, which has the product's singular values.

        Args:
            present: The weight matrices by name.

        Returns:
            Tensor of the layer's shape, float64; NaN if a factor is not finite.
        """
        left, right = (block.of(present) for block in (self._left, self._right))
        of_left, of_right = self._at
        if self.layer.kind == "qk":
            return core(left[of_left].mT, right[of_right])
        return core(left[:, of_left], right[of_right])


def core(left: Tensor, right: Tensor) -> Tensor:
    """Returns a small matrix with the singular values of a product that is not 0 of.

    Args:
        left: Tensor (n, r).
        right: Tensor (r, m).

    Returns:
        Tensor (min(n, r), min(m, r)), float64: its singular values are the largest of the
        product's, whose others are 0. NaN if a factor is not finite.

    Example:
        >>> left, right = torch.tensor([[3.0], [4.0]]), torch.tensor([[0.0, 2.0, 0.0]])
        >>> core(left, right).abs().round(decimals=9)
        tensor([[10.]], dtype=torch.float64)
    """
    factors = [in_double(factor) for factor in (left, right.mT)]
    if not all(bool(torch.isfinite(factor).all()) for factor in factors):
        sizes = [min(factor.shape) for factor in factors]
        return torch.full(sizes, torch.nan, dtype=factors[0].dtype)
    of_left, of_right = (torch.linalg.qr(factor, mode="r")[1] for factor in factors)
    found: Tensor = of_left @ of_right.mT
    return found


def in_double(matrix: Tensor) -> Tensor:
    """Returns a tensor in double precision, where its device has it, else on the CPU."""
    if matrix.device.type not in ("cpu", "cuda"):
        matrix = matrix.cpu()
    return matrix.to(torch.complex128 if matrix.is_complex() else torch.float64)


def attention_products(
    model: nn.Module, matrices: Sequence[WeightMatrix]
) -> tuple[list[Product], list[str]]:
    """Lists the products of every head of every attention that is known.

    Known are `torch.nn.MultiheadAttention` and modules that have, under these names,

    - ``q_proj``, ``k_proj``, ``v_proj`` and ``o_proj``, ``out_proj`` or ``proj`` (Llama and most of
      transformers), with as many or fewer heads of keys and values than of queries;
    - ``qkv`` and ``proj`` (timm), or ``c_attn`` and ``c_proj`` (GPT-2): queries, keys and values
      in one matrix, in this order;
    - ``output.dense`` and a submodule with ``query``, ``key`` and ``value`` (BERT, ViT).

    Args:
        model: Any module.
        matrices: Its weight matrices.

    Returns:
        The products in the order of registration, and a line for each attention that has none
        and why.
    """
    products: list[Product] = []
    problems: list[str] = []
    names = {matrix.name for matrix in matrices}
    for path, module in named_modules(model):
        if (found := _projections(module)) is None:
            continue
        try:
            products += _of_heads(path, _blocks(found, matrices), found, names)
        except ValueError as error:
            where = path or type(module).__name__
            problems.append(f"{where}: no products of this attention: {error}")
    return products, problems


class _Projections(NamedTuple):
    """Where the weights of an attention are: (owner, tensor) of q, k, v, o; and its heads."""

    owners: tuple[tuple[nn.Module, str], ...]
    heads: int | None
    size: int | None


def _projections(module: nn.Module) -> _Projections | None:
    named = (
        getattr(of, n, None) for of in (module, getattr(module, "config", None)) for n in _HEADS
    )
    heads = next((each for each in named if isinstance(each, int)), None)
    size = getattr(module, "head_dim", None)
    size = size if isinstance(size, int) and size > 0 else None
    if isinstance(module, nn.MultiheadAttention):
        fused = [(module, "in_proj_weight")] * 3
        apart = [(module, f"{letter}_proj_weight") for letter in "qkv"]
        into = fused if module._qkv_same_embed_dim else apart
        return _Projections((*into, (module.out_proj, "weight")), heads, size)

    def has(*names: str) -> list[tuple[nn.Module, str]]:
        found = [getattr(module, name, None) for name in names]
        return [(each, "weight") for each in found if isinstance(each, nn.Module)]

    outputs = has(*_OUTPUTS)
    if outputs and len(of_each := has("q_proj", "k_proj", "v_proj")) == 3:
        return _Projections((*of_each, outputs[0]), heads, size)
    for fused_name, output in (("qkv", "proj"), ("c_attn", "c_proj")):
        if heads and has(fused_name) and has(output) and not has("q_attn"):
            return _Projections((*has(fused_name) * 3, *has(output)), heads, size)
    dense = getattr(getattr(module, "output", None), "dense", None)
    if isinstance(dense, nn.Module):
        for inner in module.children():
            of_each = [
                (each, "weight")
                for name in ("query", "key", "value")
                if isinstance(each := getattr(inner, name, None), nn.Module)
            ]
            heads = getattr(inner, "num_attention_heads", heads)
            if len(of_each) == 3:
                return _Projections((*of_each, (dense, "weight")), heads, size)
    return None


def _blocks(found: _Projections, matrices: Sequence[WeightMatrix]) -> list[Block]:
    """Returns query, key, value and output as rows of the layers.

    Raises:
        ValueError: A weight of them is not measured.
    """
    blocks = []
    is_fused = found.owners[0] == found.owners[1]
    for place, (owner, tensor) in enumerate(found.owners):
        own = [
            m
            for m in matrices
            if m.path.rpartition(".")[2] == tensor
            and (m._owner is owner or _same(m._owner, owner, tensor))
        ]
        if not own:
            raise ValueError(f"its {type(owner).__name__}.{tensor} is no weight matrix here")
        rows, columns = sum(m.shape[0] for m in own), own[0].shape[1]
        start = 0
        if is_fused and place < 3:
            if rows % 3:
                raise ValueError(f"{rows} rows are not queries, keys and values")
            start, rows = place * rows // 3, rows // 3
        while start >= own[0].shape[0]:  # those of other projections
            start -= own.pop(0).shape[0]
        while sum(m.shape[0] for m in own[:-1]) >= start + rows:
            own.pop()
        blocks.append(Block(tuple(m.name for m in own), start, rows, columns))
    return blocks


def _same(one: nn.Module | None, other: nn.Module, tensor: str) -> bool:
    """Returns whether two modules share a parameter, which is listed as that of one."""
    mine = getattr(one, "_parameters", {}).get(tensor)
    return mine is not None and mine is other._parameters.get(tensor)


def _of_heads(
    path: str, blocks: Sequence[Block], found: _Projections, names: set[str]
) -> Iterator[Product]:
    """Yields the products of each head.

    Raises:
        ValueError: The sizes are not those of heads.
    """
    query, key, value, output = blocks
    if not (found.heads or found.size):
        raise ValueError("it does not say how many heads it has")
    heads = found.heads or query.rows // (found.size or 1)
    size = query.rows // heads
    groups = key.rows // max(size, 1)  # heads of keys and values
    of_value = value.rows // max(groups, 1)
    fits = size * heads == query.rows and groups * size == key.rows and groups > 0
    if not fits or heads % groups or groups * of_value != value.rows:
        raise ValueError(
            f"{query.rows} rows of queries, {key.rows} of keys and {value.rows} of values are not "
            f"those of {heads} heads"
        )
    if output.columns != heads * of_value:
        raise ValueError(f"{output.columns} columns of the output are not those of {heads} heads")
    prefix = f"{path.replace('.', '_')}_" if path else ""
    for kind, left, right in (("qk", query, key), ("ov", output, value)):
        width = size if kind == "qk" else of_value
        outer = left.columns if kind == "qk" else left.rows
        shape = min(width, outer), min(width, right.columns)
        for head in range(heads):
            group = head // (heads // groups)
            name = unused_name(f"{prefix}{kind}_{head}", names)
            yield Product(
                Layer(name, path, shape, counted=False, kind=kind),
                tuple(dict.fromkeys((*left.weights, *right.weights))),
                left,
                right,
                (_part(width, head), _part(width, group)),
            )


def _part(width: int, head: int) -> slice:
    return slice(width * head, width * (head + 1))
