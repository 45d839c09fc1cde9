"""Spectra and ranks of a module, measured again and again; of several, at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lowrank.common.errors import InputError
from lowrank.measure.attention import in_double
from lowrank.measure.checks import check_module, check_options, check_real, check_theory
from lowrank.measure.derived import Derived
from lowrank.measure.directions import Directions
from lowrank.measure.distance import distance
from lowrank.measure.effective import dtensor
from lowrank.measure.layers import Layer
from lowrank.measure.matrices import describe, weight_matrices
from lowrank.measure.metrics import bound_metrics, direction_metrics, measurement_metrics
from lowrank.measure.order import matrices_before
from lowrank.measure.positions import Applied, ExampleInput, output_positions
from lowrank.measure.quantities import chosen
from lowrank.measure.ranks import frobenius_norm
from lowrank.measure.spectra import singular_values
from lowrank.measure.tensors import Split
from lowrank.measure.theory import Theory
from lowrank.measure.vectors import leading_directions

COLLAPSE = 1e-6
"""A matrix whose Frobenius norm falls below this multiple of its largest has collapsed."""


@dataclass(frozen=True)
class Measurement:
    """What one look at the weights found.

    Attributes:
        metrics: Every per-layer quantity and mean by its W&B name; NaN where it has no value.
        spectra: Singular values (min(rows, columns),) of each layer, descending, float64.
        directions: Leading singular vectors of each layer; empty unless asked for.
    """

    metrics: dict[str, float]
    spectra: dict[str, np.ndarray]
    directions: dict[str, Directions]


class Watcher:
    """Measures the weight matrices of one module again and again.

    Nothing is hooked into the module and nothing costs between two measurements. In a distributed
    training only rank 0 measures and logs; where parameters are sharded (FSDP2, tensor
    parallelism), every process takes part in gathering one matrix after the other.

    Args:
        model: Any module; wrapped by ``torch.compile`` or ``DistributedDataParallel`` or not.
        epsilons: Thresholds of the rank, each in [0, 1); the first is primary.
        rank_norm: ``frobenius`` or ``spectral``: the norm that thresholds refer to.
        exclude: Matrices that do not count in the means, beside the last and shortcuts.
        include: Further parameters to measure, and shortcuts to count.
        example_input: What the model is called with. One forward pass tells at how many positions
            each matrix is applied, which rank bounds need, and one which parameters of modules that
            are not torch's own are weight matrices.
        parts: Submodules whose counted matrices are averaged by themselves too, as
            ``rank_mean/<part>``.
        split: Matrices that are several, one below the other, as `weight_matrices` takes them: a
            fused ``qkv`` of a plain Linear is three with ``split={"*.qkv": "qkv"}``.
        theory: Options of `lowrank.measure.theory.Theory` but ``layers`` and ``epsilon``:
            ``optimizer`` (its name), ``weight_decay``, ``momentum``, ``batch_size``,
            ``train_size`` and ``precision``. Sizes are those of all processes together. With them,
            an example input and one learning rate in each epoch, ``rank_bound/<layer>`` is logged
            where it is not vacuous.
        quantities: Further quantities to measure: names of `lowrank.common.quantities.FURTHER`,
            or a mapping that also has functions by names of one's own (None for those of ours).
            Such a function takes the singular values of one matrix, float64 (k,), descending, and
            returns a number; it is logged as ``<name>/<layer>`` and ``<name>_mean``, and is NaN
            where a matrix has collapsed.
        directions: How many leading singular vectors of each matrix are kept at each measurement,
            all of one that has fewer: ``overlap_left/<layer>`` and ``overlap_right/<layer>`` with
            those of the previous measurement are logged, and, with an example input,
            ``alignment/<layer>`` with the matrix before. None for none.
        attention_products: Whether the products W_Qᵀ W_K and W_O W_V of every head are measured
            too (`lowrank.measure.attention`), as ``<attention>_qk_<head>`` and
            ``<attention>_ov_<head>``.
        spectra_of: ``change`` measures W − W_0 too, as ``<layer>_change``: the difference from what
            epoch 0 had, which is kept. ``update`` and ``gradient`` take what only train.py knows.

    Attributes:
        layers: The weight matrices, in network order.
        derived: What is measured beside them.
        theory: The theory of this training; None if its options or the example are missing.
        directions: As given.

    Raises:
        InputError: The model is no module or has no weight matrix, an option is none of those
            allowed, a name in ``exclude``, ``include`` or ``split`` matches nothing, or a matrix
            has no such blocks.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        epsilons: Sequence[float] = (1e-3, 1e-2),
        rank_norm: str = "frobenius",
        exclude: Collection[str] = (),
        include: Collection[str] = (),
        example_input: ExampleInput | None = None,
        parts: Sequence[str] = (),
        split: Mapping[str, Split] | None = None,
        theory: Mapping[str, Any] | None = None,
        quantities: Collection[str] | Mapping[str, Callable[[np.ndarray], float] | None] = (),
        directions: int | None = None,
        attention_products: bool = False,
        spectra_of: Collection[str] = (),
    ) -> None:
        check_options(epsilons, rank_norm, directions, quantities=quantities, spectra_of=spectra_of)
        self.epsilons = tuple(float(epsilon) for epsilon in epsilons)
        self.rank_norm = rank_norm
        self.directions = directions
        self._quantities = chosen(quantities)
        check_module(model)
        self._model = model
        options: dict[str, Any] = {"include": include, "example_input": example_input}
        self._matrices = weight_matrices(
            model, exclude=exclude, parts=parts, split=split, **options
        )
        if not self._matrices:
            skipped = describe(model, **options).splitlines()[2:]
            raise InputError(["the module has no weight matrix to measure", *skipped])
        applied: Mapping[str, Applied | None] = {}
        if example_input is not None:
            applied = output_positions(model, self._matrices, example_input)
        self.layers = []
        for matrix in self._matrices:
            use = applied.get(matrix.name)
            positions, groups = (use.positions, use.groups) if use else (None, 1)
            self.layers.append(
                Layer(
                    matrix.name,
                    matrix.path,
                    matrix.shape,
                    positions,
                    matrix.counted,
                    groups,
                    matrix.part,
                )
            )
        self.derived = Derived(
            model,
            self._matrices,
            attention_products=attention_products,
            spectra_of=spectra_of,
        )
        self.theory: Theory | None = None
        if theory is not None:
            check_theory(theory, model)
        if theory is not None and example_input is not None:
            self.theory = Theory(self.layers, epsilon=self.epsilons[0], **theory)
        self._before: Mapping[str, str] = {}
        if directions is not None:
            check_real(self._matrices)
            if example_input is not None:
                self._before = matrices_before(model, self._matrices, example_input)
        self._largest_norms: dict[str, float] = {}
        self._norms: dict[int, dict[str, float]] = {}
        self._previous: dict[str, Tensor] = {}
        self._previous_directions: dict[str, Directions] = {}

    def weights(self) -> dict[str, Tensor]:
        """Returns the present matrices by layer: views of the parameters where these are matrices.

        Returns:
            Tensors (rows, columns). A snapshot is their clones.

        Raises:
            InputError: One is no longer what it was.
        """
        present = {id(module) for module in self._model.modules()}
        for matrix in self._matrices:
            if id(matrix._owner) not in present:
                raise InputError(
                    f"{matrix.path}: the model no longer has the module that it had when it "
                    "was watched: watch the model anew"
                )
        is_sharded = self._is_sharded  # then this device may have no room for all of them
        return {m.name: m.view().cpu() if is_sharded else m.view() for m in self._matrices}

    def measure(
        self,
        epoch: int,
        rates: Sequence[float] = (),
        weights: Mapping[str, Tensor] | None = None,
    ) -> Measurement:
        """Measures the present weights, or a snapshot of earlier ones.

        Distances refer to the weights at the last call of ``advance`` and are NaN before it.
        Collapse refers to the largest norm that a matrix has had since epoch 0 was last measured.

        Args:
            epoch: Number of epochs trained; 0 is initialisation.
            rates: Learning rate of each epoch 1 … ``epoch``, for the rank bounds.
            weights: Such as ``weights`` gave at that epoch; None takes the present ones. They may
                hold what ``derived.named`` gives, too.

        Returns:
            All quantities and spectra.
        """
        present = self.weights() if weights is None else weights
        return measure_all([self], [present], [epoch], [rates])[0]

    def advance(
        self,
        weights: Mapping[str, Tensor] | None = None,
        directions: Mapping[str, Directions] | None = None,
    ) -> None:
        """Makes the present weights, or a snapshot, what the next distances and overlaps refer to.

        Args:
            weights: A snapshot, which is kept as it is; None clones the present weights.
            directions: Of these weights, as a measurement found them; None computes them.
        """
        if weights is None:
            weights = {name: weight.clone() for name, weight in self.weights().items()}
        self._previous = {layer.name: weights[layer.name] for layer in self.layers}
        if directions is None and self.directions is not None:
            found = leading_directions(list(self._previous.values()), self.directions)
            norms = [float(in_double(w).norm()) for w in self._previous.values()]
            directions = {
                name: each.unknown() if self._is_nothing(name, norm) else each
                for name, each, norm in zip(self._previous, found, norms, strict=True)
            }
        self._previous_directions = dict(directions or {})

    def _all(self, weights: Mapping[str, Tensor], epoch: int) -> dict[str, Tensor]:
        """Returns the matrices of a snapshot with those derived from them."""
        if not epoch:
            self.derived.begin(weights)
        own = {layer.name: weights[layer.name] for layer in self.layers}
        return own | self.derived.matrices(weights)

    def _measured(
        self,
        weights: Mapping[str, Tensor],
        spectra: dict[str, np.ndarray],
        directions: dict[str, Directions],
        epoch: int,
        rates: Sequence[float],
    ) -> Measurement:
        names = [layer.name for layer in self.layers]
        if not epoch:
            self._largest_norms = {}
        for name in names:
            self._note_norm(name, float(frobenius_norm(spectra[name])))
        collapsed = self._collapsed(spectra)
        metrics = self._metrics_of(
            weights,
            spectra,
            [*self.layers, *self.derived.layers],
            collapsed | self.derived.collapsed(collapsed),
        )
        if self.theory is not None and len(rates) == epoch:
            self._norms[epoch] = {name: metrics[f"spectral_norm/{name}"] for name in names}
            history = {
                name: [self._norms.get(e, {}).get(name, math.nan) for e in range(epoch + 1)]
                for name in names
            }
            sizes = {name: metrics[f"{self.rank_norm}_norm/{name}"] for name in names}
            metrics |= bound_metrics(self.theory.bounds(rates, history, sizes))
        if directions:
            directions = {
                name: each.unknown() if collapsed[name] else each
                for name, each in directions.items()
            }
            metrics |= direction_metrics(
                self.layers, directions, self._previous_directions, self._before
            )
        return Measurement(metrics, spectra, directions)

    def _metrics_of(
        self,
        weights: Mapping[str, Tensor],
        spectra: Mapping[str, np.ndarray],
        layers: Sequence[Layer],
        collapsed: Mapping[str, bool],
    ) -> dict[str, float]:
        """Returns the metrics that no epoch's number or rate has to do with."""
        return measurement_metrics(
            layers,
            spectra,
            epsilons=self.epsilons,
            rank_norm=self.rank_norm,
            collapsed=collapsed,
            distances={
                layer.name: distance(weights[layer.name], self._previous[layer.name])
                if self._previous
                else math.nan
                for layer in self.layers
            },
            quantities=self._quantities,
        )

    def _collapsed(self, spectra: Mapping[str, np.ndarray]) -> dict[str, bool]:
        """Returns which matrices have collapsed."""
        return {
            layer.name: self._is_nothing(layer.name, float(frobenius_norm(spectra[layer.name])))
            for layer in self.layers
        }

    def _is_nothing(self, name: str, norm: float) -> bool:
        """Returns whether a matrix of a norm is nothing beside what it has been."""
        return norm < COLLAPSE * self._largest_norms.get(name, 0.0)

    def state_dict(self) -> dict[str, Any]:
        """Returns what a checkpoint must keep: tensors and numbers."""
        return {
            "largest_norms": dict(self._largest_norms),
            "norms": {epoch: dict(norms) for epoch, norms in self._norms.items()},
            "previous": dict(self._previous),
            "previous_directions": {
                name: [torch.from_numpy(side) for side in found]
                for name, found in self._previous_directions.items()
            },
            **self.derived.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from a state that ``state_dict`` gave.

        Args:
            state: Of a watcher of the same module.
        """
        # Earlier versions kept the largest norms at epoch 0 only, and for the bounds those of the
        # rank, which are no smaller than the spectral ones.
        self._largest_norms = dict(state.get("largest_norms") or state["first_norms"])
        self._norms = {epoch: dict(norms) for epoch, norms in state["norms"].items()}
        self._previous = dict(state["previous"])
        self._previous_directions = {
            name: Directions(*(side.cpu().numpy() for side in found))
            for name, found in state.get("previous_directions", {}).items()
        }
        self.derived.load_state_dict(state)

    def _note_norm(self, name: str, norm: float) -> None:
        """Keeps the largest finite norm that a matrix has had."""
        largest = self._largest_norms.get(name, 0.0)
        self._largest_norms[name] = max(largest, norm if math.isfinite(norm) else 0.0)

    @property
    def _is_sharded(self) -> bool:
        """Whether parameters are in shards, which every process must help to gather."""
        return any(isinstance(parameter, dtensor()) for parameter in self._model.parameters())

    def _help_to_gather(self) -> None:
        """Takes part in gathering each matrix, one at a time, and keeps none."""
        for matrix in self._matrices if self._is_sharded else ():
            matrix.view()


def measure_all(
    watchers: Sequence[Watcher],
    weights: Sequence[Mapping[str, Tensor]],
    epochs: Sequence[int],
    rates: Sequence[Sequence[float]],
) -> list[Measurement]:
    """Measures several networks at once: as each ``Watcher.measure``, with one call of the solver.

    On a CPU every number is bitwise that of the network measured alone; on a GPU, which solves
    matrices of equal shape in one batch, up to rounding errors.

    Args:
        watchers: Of the networks, with the same ``epsilons``, ``rank_norm`` and ``directions``.
        weights: Of each, such as ``Watcher.weights`` gave at that epoch.
        epochs: Of each, as for ``Watcher.measure``.
        rates: Of each.

    Returns:
        What was found of each.
    """
    if not watchers:
        return []
    every = [
        watcher._all(given, epoch)
        for watcher, given, epoch in zip(watchers, weights, epochs, strict=True)
    ]
    matrices = [matrix for of_one in every for matrix in of_one.values()]
    epsilons, rank_norm = watchers[0].epsilons, watchers[0].rank_norm
    values = iter(singular_values(matrices, epsilons=epsilons, rank_norm=rank_norm))
    count = watchers[0].directions
    own = [each[layer.name] for w, each in zip(watchers, every, strict=True) for layer in w.layers]
    vectors = iter([] if count is None else leading_directions(own, count))
    return [
        watcher._measured(
            present,
            {name: next(values) for name in present},
            {layer.name: found for layer, found in zip(watcher.layers, vectors, strict=False)},
            epoch,
            of_one,
        )
        for watcher, present, epoch, of_one in zip(watchers, every, epochs, rates, strict=True)
    ]


def measure_within(
    watchers: Sequence[Watcher], weights: Sequence[Mapping[str, Tensor]]
) -> list[dict[str, float]]:
    """Measures several networks between two epochs, as `measure_all`, and leaves no trace in them.

    Args:
        watchers: Of the networks, with the same ``epsilons`` and ``rank_norm``.
        weights: Of each, such as ``Watcher.weights`` gave.

    Returns:
        Of each the metrics of its weight matrices, but no bounds and directions. Distances are
        those from the last epoch measured.
    """
    every = [
        {layer.name: given[layer.name] for layer in watcher.layers}
        for watcher, given in zip(watchers, weights, strict=True)
    ]
    values = iter(
        singular_values(
            [matrix for of_one in every for matrix in of_one.values()],
            epsilons=watchers[0].epsilons,
            rank_norm=watchers[0].rank_norm,
        )
    )
    found = []
    for watcher, present in zip(watchers, every, strict=True):
        spectra = {name: next(values) for name in present}
        collapsed = watcher._collapsed(spectra)
        found.append(watcher._metrics_of(present, spectra, watcher.layers, collapsed))
    return found
