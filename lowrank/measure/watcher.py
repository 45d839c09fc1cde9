"""Spectra and ranks of a module, or of replicas of one side by side, measured again and again."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lowrank.common.errors import InputError
from lowrank.common.texts import nearest
from lowrank.measure.layers import Layer
from lowrank.measure.matrices import describe, weight_matrices
from lowrank.measure.metrics import bound_metrics, measurement_metrics
from lowrank.measure.positions import Applied, ExampleInput, output_positions
from lowrank.measure.ranks import RANK_NORMS, Quantity, frobenius_norm, quantity_of
from lowrank.measure.spectra import singular_values
from lowrank.measure.tensors import dtensor
from lowrank.measure.theory import Theory

COLLAPSE = 1e-6
"""A matrix whose Frobenius norm falls below this multiple of its largest has collapsed."""

_FSDP1 = "torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel"

_IN_RANGE = 1e-280
"""Squares of norms between this and its inverse are sums without over- or underflow to speak of."""

_CHUNK = 2**18  # entries of which distances are computed at a time, so that they stay in the cache


@dataclass(frozen=True)
class Measurement:
    """What one look at the weights found.

    Attributes:
        metrics: Every per-layer quantity and mean by its W&B name, (N,) of N replicas; NaN where it
            has no value.
        spectra: Singular values (min(rows, columns),) of each layer, or (N, …) of that of N
            replicas, descending, float64.
    """

    metrics: dict[str, Quantity]
    spectra: dict[str, np.ndarray]


class Watcher:
    """Measures the weight matrices of one module again and again.

    Nothing is hooked into the module and nothing costs between two measurements. In a distributed
    training only rank 0 measures and logs; where parameters are sharded (FSDP2, tensor
    parallelism), every process takes part in gathering one matrix after the other.

    Args:
        model: Any module; wrapped by ``torch.compile`` or ``DistributedDataParallel`` or not. Or
            N > 1 replicas of one, measured side by side.
        epsilons: Thresholds of the rank, each in [0, 1); the first is primary.
        rank_norm: ``frobenius`` or ``spectral``: the norm that thresholds refer to.
        exclude: Matrices that do not count in the means, beside the last and shortcuts.
        include: Further parameters to measure, and shortcuts to count.
        example_input: What the model is called with. One forward pass tells at how many positions
            each matrix is applied, which rank bounds need, and one which parameters of modules that
            are not torch's own are weight matrices.
        theory: Options of `lowrank.measure.theory.Theory` but ``layers`` and ``epsilon``:
            ``optimizer`` (its name), ``weight_decay``, ``momentum``, ``batch_size`` and
            ``train_size``. With them and an example input, ``rank_bound/<layer>`` is logged where
            it is not vacuous.

    Attributes:
        layers: What is measured, in network order.
        theory: The theory of this training; None if its options or the example are missing.

    Raises:
        InputError: The model is no module or has no weight matrix, an option is none of those
            allowed, or a name in ``exclude`` or ``include`` matches nothing.
    """

    def __init__(
        self,
        model: nn.Module | Sequence[nn.Module],
        *,
        epsilons: Sequence[float] = (1e-3, 1e-2),
        rank_norm: str = "frobenius",
        exclude: Collection[str] = (),
        include: Collection[str] = (),
        example_input: ExampleInput | None = None,
        theory: Mapping[str, Any] | None = None,
    ) -> None:
        self.epsilons = tuple(float(epsilon) for epsilon in epsilons)
        self.rank_norm = rank_norm
        _check(self.epsilons, rank_norm)
        networks = [model] if isinstance(model, nn.Module) else model
        _check_modules(networks)
        self._networks = networks
        self._count = len(networks)
        self._shape = () if isinstance(model, nn.Module) else (self._count,)
        options: dict[str, Any] = {"include": include, "example_input": example_input}
        of_each = [weight_matrices(one, exclude=exclude, **options) for one in networks]
        self._matrices = of_each[0]
        if not self._matrices:
            skipped = describe(networks[0], **options).splitlines()[2:]
            raise InputError(["the module has no weight matrix to measure", *skipped])
        self._of_layers = {of[0].name: of for of in zip(*of_each, strict=True)}
        applied: Mapping[str, Applied | None] = {}
        if example_input is not None:
            applied = output_positions(networks[0], self._matrices, example_input)
        self.layers = []
        for matrix in self._matrices:
            use = applied.get(matrix.name)
            positions, groups = (use.positions, use.groups) if use else (None, 1)
            self.layers.append(
                Layer(matrix.name, matrix.path, matrix.shape, positions, matrix.counted, groups)
            )
        self.theory: Theory | None = None
        if theory is not None and example_input is not None:
            self.theory = Theory(self.layers, epsilon=self.epsilons[0], **theory)
        self._largest_norms: dict[str, Quantity] = {}
        self._norms: dict[int, dict[str, Quantity]] = {}
        self._previous: dict[str, Tensor] = {}

    def measure(self, epoch: int, rates: Sequence[float] = ()) -> Measurement:
        """Measures the present weights.

        Distances refer to the weights at the last call of ``advance`` and are NaN before it.
        Collapse refers to the largest norm that a matrix has had since epoch 0 was last measured.

        Args:
            epoch: Number of epochs trained; 0 is initialisation.
            rates: Learning rate of each epoch 1 … ``epoch``, for the rank bounds.

        Returns:
            All quantities and spectra.
        """
        return self._measured(self._weights(), epoch, rates)

    def advance(self) -> None:
        """Makes the present weights those that the next distances refer to."""
        self._keep(self._weights())

    def _measured(
        self, weights: Mapping[str, Tensor], epoch: int, rates: Sequence[float]
    ) -> Measurement:
        views = [view for w in weights.values() for view in w.reshape(-1, *w.shape[-2:])]
        values = singular_values(views, epsilons=self.epsilons, rank_norm=self.rank_norm)
        spectra: dict[str, np.ndarray] = {}
        norms: dict[str, Quantity] = {}
        for index, name in enumerate(weights):
            found = values[index * self._count : (index + 1) * self._count]
            spectra[name] = np.reshape(found, (*self._shape, found[0].size))
            norms[name] = self._each([frobenius_norm(s) for s in found])
        if not epoch:
            self._largest_norms = {}
        self._note_norms(norms)
        absent = self._each([np.nan] * self._count)
        metrics = measurement_metrics(
            self.layers,
            spectra,
            epsilons=self.epsilons,
            rank_norm=self.rank_norm,
            collapsed={n: norm < COLLAPSE * self._largest_norms[n] for n, norm in norms.items()},
            distances={
                name: _distance(weight, self._previous[name]) if self._previous else absent
                for name, weight in weights.items()
            },
        )
        if self.theory is not None and len(rates) == epoch:
            kind = f"{self.rank_norm}_norm"
            self._norms[epoch] = {name: metrics[f"{kind}/{name}"] for name in weights}
            metrics |= bound_metrics(self._bounds(self.theory, rates))
        return Measurement(metrics, spectra)

    def state_dict(self) -> dict[str, Any]:
        """Returns what a checkpoint must keep: tensors and numbers."""
        return {
            "largest_norms": _plain(self._largest_norms),
            "norms": {epoch: _plain(norms) for epoch, norms in self._norms.items()},
            "previous": dict(self._previous),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from a state that ``state_dict`` gave.

        Args:
            state: Of a watcher of the same module.
        """
        # Earlier versions kept the norms at epoch 0 only.
        self._largest_norms = _quantities(state.get("largest_norms") or state["first_norms"])
        self._norms = {epoch: _quantities(norms) for epoch, norms in state["norms"].items()}
        self._previous = dict(state["previous"])

    def _keep(self, weights: Mapping[str, Tensor]) -> None:
        self._previous = {name: weight.clone() for name, weight in weights.items()}

    @property
    def _is_sharded(self) -> bool:
        """Whether parameters are in shards, which every process must help to gather."""
        parameters = (p for network in self._networks for p in network.parameters())
        return any(isinstance(parameter, dtensor()) for parameter in parameters)

    def _help_to_gather(self) -> None:
        """Takes part in gathering each matrix, one at a time, and keeps none."""
        for matrices in self._of_layers.values() if self._is_sharded else ():
            for matrix in matrices:
                matrix.view()

    def _weights(self) -> dict[str, Tensor]:
        """Returns the present matrices by layer, those of replicas stacked (N, rows, columns).

        Raises:
            InputError: One is no longer what it was.
        """
        present = {id(module) for network in self._networks for module in network.modules()}
        for matrices in self._of_layers.values():
            for matrix in matrices:
                if id(matrix._owner) not in present:
                    raise InputError(
                        f"{matrix.path}: the model no longer has the module that it had when it "
                        "was watched: watch the model anew"
                    )
        is_sharded = self._is_sharded  # then this device may have no room for all of them
        views = {
            name: [m.view().cpu() if is_sharded else m.view() for m in of_layer]
            for name, of_layer in self._of_layers.items()
        }
        return {name: torch.stack(v) if self._shape else v[0] for name, v in views.items()}

    def _each(self, values: Sequence[Any]) -> Quantity:
        """Returns the replicas' numbers (N,), or the number of the one network."""
        return quantity_of(np.reshape(values, self._shape))

    def _bounds(self, theory: Theory, rates: Sequence[float]) -> dict[str, Quantity]:
        """Returns the bounds of layers where every replica has one: only then is their mean one."""
        norms = [self._norms.get(epoch, {}) for epoch in range(len(rates) + 1)]
        absent = self._each([np.nan] * self._count)
        history = {
            name: np.reshape([of.get(name, absent) for of in norms], (len(norms), -1)).T.tolist()
            for name in self._of_layers
        }
        found = [
            theory.bounds(rates, {name: of_each[index] for name, of_each in history.items()})
            for index in range(self._count)
        ]
        return {
            name: self._each([bounds[name] for bounds in found])
            for name in found[0]
            if all(name in bounds for bounds in found)
        }

    def _note_norms(self, norms: Mapping[str, Quantity]) -> None:
        """Keeps the largest finite norm that each matrix has had."""
        for name, norm in norms.items():
            present = np.where(np.isfinite(norm), norm, 0.0)
            self._largest_norms[name] = quantity_of(
                np.maximum(self._largest_norms.get(name, 0.0), present)
            )


def _check(epsilons: Sequence[float], rank_norm: str) -> None:
    lines = []
    if not epsilons or not all(0 <= epsilon < 1 for epsilon in epsilons):
        told = ", ".join(f"{epsilon:g}" for epsilon in epsilons) or "none"
        lines.append(f"epsilons: got {told}; allowed: one or more numbers from 0 to below 1")
    if rank_norm not in RANK_NORMS:
        allowed = " or ".join(RANK_NORMS)
        near = nearest(str(rank_norm), RANK_NORMS)
        lines.append(f"rank_norm: got {rank_norm!r}; allowed: {allowed}{near}")
    if lines:
        raise InputError(lines)


def _check_modules(networks: Sequence[nn.Module]) -> None:
    """Refuses what is no module, and what hides its parameters from everyone.

    Raises:
        InputError: With a line that says what was got.
    """
    if isinstance(networks, Mapping):
        raise InputError(
            "the model must be a torch.nn.Module, got a state dict or another mapping: load it "
            "into its module, or measure its file with lowrank spectra"
        )
    for network in networks:
        if not isinstance(network, nn.Module):
            raise InputError(f"the model must be a torch.nn.Module, got {type(network).__name__}")
        kinds = {f"{type(m).__module__}.{type(m).__name__}" for m in network.modules()}
        if _FSDP1 in kinds:
            raise InputError(
                "the parameters of FullyShardedDataParallel (FSDP1) are in flat shards that are no "
                "matrices: use torch.distributed.fsdp.fully_shard (FSDP2), or watch the module "
                "before it is wrapped"
            )


def _plain(quantities: Mapping[str, Quantity]) -> dict[str, Any]:
    """Returns numbers and lists of numbers, which a checkpoint takes."""
    return {name: np.asarray(value).tolist() for name, value in quantities.items()}


def _quantities(plain: Mapping[str, Any]) -> dict[str, Quantity]:
    return {name: quantity_of(value) for name, value in plain.items()}


def _distance(present: Tensor, previous: Tensor) -> Quantity:
    """Returns ‖W/‖W‖_F − V/‖V‖_F‖_F in [0, 2], in float64, of each matrix."""
    pairs = zip(*(w.reshape(-1, *w.shape[-2:]) for w in (present, previous)), strict=True)
    return quantity_of(np.reshape([_distance_of_two(w, v) for w, v in pairs], present.shape[:-2]))


def _distance_of_two(w: Tensor, v: Tensor) -> float:
    # With D = W − V and s = ‖W‖/‖V‖, the square is ‖D − (s − 1)V‖²/‖W‖²: one pass over both gives
    # the three products it needs. The error is some 1e-8 of |s − 1|, and rounding without stretch.
    changed, along, before = _products(w, v, (0, 0))
    after = before + 2 * along + changed
    is_safe = _IN_RANGE < before < 1 / _IN_RANGE and 2**-16 < after / before < 2**16
    if not is_safe:  # squares out of range, or all digits of W lost beside V
        peaks = [float(torch.linalg.vector_norm(x, torch.inf)) for x in (w, v)]
        if not all(0 < peak < math.inf for peak in peaks):
            return math.nan
        ends = [math.frexp(peak)[1] for peak in peaks]
        if abs(ends[0] - ends[1]) < 4:  # two powers would be a stretch that there is not
            ends[1] = ends[0]
        changed, along, before = _products(w, v, ends)
        after = before + 2 * along + changed
    stretch = math.sqrt(after / before) - 1
    square = changed - 2 * stretch * along + stretch**2 * before
    return math.sqrt(max(0.0, square) / after)


def _products(w: Tensor, v: Tensor, powers: Sequence[int]) -> list[float]:
    """Returns ‖D‖², ⟨D, V⟩ and ‖V‖² with D = W − V, each first divided by its power of two."""
    dtype = torch.complex128 if w.is_complex() else torch.float64
    length = max(1, w.numel()) if w.is_cuda else _CHUNK
    sums = np.zeros(3)
    for parts in zip(w.flatten().split(length), v.flatten().split(length), strict=True):
        # Only these kinds of device have float64; the module may have moved since.
        device = w.device if w.device.type in ("cpu", "cuda") else torch.device("cpu")
        end, start = (part.to(device, dtype) for part in parts)
        if any(powers):  # in two steps, as 2^-power itself may be out of range
            end, start = (
                part * 2.0 ** -(power // 2) * 2.0 ** (power // 2 - power)
                for part, power in zip((end, start), powers, strict=True)
            )
        change = end - start
        dots = [torch.vdot(*of) for of in ((change, change), (change, start), (start, start))]
        sums += torch.stack(dots).real.cpu().numpy()
    return [float(value) for value in sums]
