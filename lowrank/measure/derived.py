"""What is measured beside the weight matrices of a module: matrices derived from them."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lowrank.common.errors import InputError, refuse
from lowrank.common.quantities import CHANGES
from lowrank.common.texts import nearest
from lowrank.measure.attention import attention_products, in_double
from lowrank.measure.layers import Layer
from lowrank.measure.matrices import WeightMatrix
from lowrank.measure.tensors import unused_name


class Derived:
    """The derived matrices of one module, which are measured as weight matrices are.

    They count in no mean over weight matrices and in no number of collapsed ones, have no distance
    and no bound. One that is zero has rank 0, and is no collapse: W − W_0 is so at initialisation.
    A product of a matrix that has collapsed has no rank.

    Args:
        model: Any module.
        matrices: Its weight matrices.
        attention_products: Whether those of `lowrank.measure.attention` are measured.
        spectra_of: Of `CHANGES`: those of every weight matrix.

    Attributes:
        layers: What is measured so, in network order, kind by kind.

    Raises:
        InputError: If there is no such kind, or products are asked for of a module without an
            attention that is known.
    """

    def __init__(
        self,
        model: nn.Module,
        matrices: Sequence[WeightMatrix],
        *,
        attention_products: bool,
        spectra_of: Collection[str],
    ) -> None:
        spectra_of = [spectra_of] if isinstance(spectra_of, str) else list(spectra_of)
        refuse(
            f"spectra_of: got {kind!r}; allowed: {', '.join(CHANGES)}{nearest(str(kind), CHANGES)}"
            for kind in spectra_of
            if kind not in CHANGES
        )
        self._products = _products(model, matrices) if attention_products else []
        self._of = {
            kind: {matrix.name: _layer(matrix, kind, names) for matrix in matrices}
            for names in [{matrix.name for matrix in matrices}]
            for kind in CHANGES
            if kind in spectra_of
        }
        self.layers = [
            *(product.layer for product in self._products),
            *(layer for of_kind in self._of.values() for layer in of_kind.values()),
        ]
        self._start: dict[str, Tensor] = {}

    def begin(self, weights: Mapping[str, Tensor]) -> None:
        """Keeps the weights that all changes refer to, if any is measured.

        Args:
            weights: By layer, at epoch 0.
        """
        if "change" in self._of:
            self._start = {name: weights[name].clone() for name in self._of["change"]}

    def named(self, kind: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns what training knows of each weight matrix under the names of the derived ones.

        Args:
            kind: ``update`` or ``gradient``.
            tensors: By the name of the weight matrix; none where there are none yet.

        Returns:
            Those of a kind that is measured.
        """
        of_kind = self._of.get(kind, {})
        return {layer.name: tensors[n] for n, layer in of_kind.items() if n in tensors}

    def matrices(self, present: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns the derived matrices of a snapshot.

        Args:
            present: The weight matrices by name, and what training knows by the names of `named`.

        Returns:
            Tensors by name, in the order of `layers`; NaN where there is none at this time.
        """
        found = {product.layer.name: product.core(present) for product in self._products}
        for kind, of_kind in self._of.items():
            for name, layer in of_kind.items():
                if kind == "change" and name in self._start:
                    found[layer.name] = difference(present[name], self._start[name])
                else:
                    nothing = torch.full(layer.shape, torch.nan)
                    found[layer.name] = present.get(layer.name, nothing)
        return found

    def collapsed(self, weights: Mapping[str, bool]) -> dict[str, bool]:
        """Returns which products have collapsed: those with a factor that has.

        Args:
            weights: Whether a weight matrix has, by name.
        """
        return {
            product.layer.name: any(weights[name] for name in product.factors)
            for product in self._products
        }

    def state_dict(self) -> dict[str, Any]:
        """Returns what a checkpoint must keep: the weights at epoch 0, if they are needed."""
        return {"start": dict(self._start)} if self._start else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from a state that ``state_dict`` gave.

        Args:
            state: Of the same module.
        """
        self._start = dict(state.get("start", {}))


def difference(after: Tensor, before: Tensor) -> Tensor:
    """Returns the difference of two matrices in double precision, in which it is hardly rounded.

    Args:
        after: Tensor (rows, columns).
        before: Likewise, on any device.
    """
    end = in_double(after)
    return end - in_double(before).to(end.device)


def _products(model: nn.Module, matrices: Sequence[WeightMatrix]) -> list[Any]:
    products, problems = attention_products(model, matrices)
    if not products:
        raise InputError(
            [
                "attention_products: the module has no attention that is known; allowed: "
                "torch.nn.MultiheadAttention, and modules with q_proj, k_proj, v_proj and o_proj, "
                "with qkv and proj, with c_attn and c_proj, or as BERT's",
                *problems,
            ]
        )
    for problem in problems:
        warnings.warn(problem, stacklevel=5)
    return products


def _layer(matrix: WeightMatrix, kind: str, names: set[str]) -> Layer:
    name = unused_name(f"{matrix.name}_{kind}", names)
    return Layer(name, matrix.path, matrix.shape, counted=False, kind=kind)
