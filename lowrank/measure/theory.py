"""The theory of `lowrank.measure.bounds` beside one run: its schedule and the norms it records."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from lowrank.measure.bounds import (
    check_counts,
    check_decay,
    check_epsilon,
    check_momentum,
    decays_of,
    forgetting_efolds,
    is_oscillating,
    memory_window,
    rank_bound,
)
from lowrank.measure.layers import Layer
from lowrank.measure.windows import exact_window, settled_window

VISIBLE = 5.0
"""Forgetting e-folds below which no lower rank was seen at ε = 1e-3, in own measurements."""


class Theory:
    """The bounds of one run, from its schedule and the norms it records.

    Args:
        layers: The weight matrices; of one whose positions are not known nothing is claimed.
        optimizer: Its name. Only ``sgd`` takes steps of the form (1): without Nesterov's variant or
            dampening, its buffer empty at epoch 0.
        weight_decay: wd of the optimiser, the same for all layers, 0 or more.
        momentum: β in [0, 1).
        batch_size: Samples B per step of the optimiser: of all processes together, and of all
            gradients that one step accumulates.
        train_size: Samples per epoch, of all processes together. The last batch of an epoch has the
            remainder.
        epsilon: Threshold ε of the rank, in (0, 1).
        precision: What gradients are computed in: ``bf16`` rounds them to full rank.

    Attributes:
        no_claim: Why nothing can be said of any layer; empty if something can.
        steps: Steps per epoch.

    Raises:
        ValueError: A number is out of range.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        *,
        optimizer: str,
        weight_decay: float,
        momentum: float = 0.0,
        batch_size: int,
        train_size: int,
        epsilon: float,
        precision: str = "fp32",
    ) -> None:
        check_counts(batch_size=batch_size, train_size=train_size)
        check_decay(weight_decay)
        check_epsilon(epsilon)
        check_momentum(momentum)
        self.layers = tuple(layers)
        self.optimizer = optimizer
        self.weight_decay = weight_decay
        self.momentum = momentum
        self.batch_size = min(batch_size, train_size)
        self.train_size = train_size
        self.epsilon = epsilon
        self.steps = -(-train_size // batch_size)
        self.no_claim = ""
        if optimizer != "sgd":
            self.no_claim = f"optimizer={optimizer} does not take the steps of sgd"
        elif weight_decay == 0:
            self.no_claim = "weight_decay is 0"
        elif precision == "bf16":
            self.no_claim = "precision=bf16 rounds gradients, which have full rank then"

    def efolds(self, rates: Sequence[float]) -> float:
        """Returns the forgetting e-folds of epochs with these rates, `forgetting_efolds`.

        Args:
            rates: Learning rate of each epoch.

        Returns:
            The e-folds, NaN for another optimiser than SGD.
        """
        if self.optimizer != "sgd":
            return math.nan
        return forgetting_efolds(rates, self.steps, self.weight_decay, self.momentum)

    def bounds(
        self,
        rates: Sequence[float],
        norms: Mapping[str, Sequence[float]],
        sizes: Mapping[str, float],
    ) -> dict[str, float]:
        """Bounds the rank at ε of each layer after T epochs, with the rates and norms so far.

        The lower of two forms of (4), where they apply:

        - `exact_window`: whole epochs and recorded norms, a theorem;
        - `settled_window`: fewer steps where an epoch is long, on the assumption it states.

        Args:
            rates: Learning rate of each epoch 1 … T, the same in all its steps.
            norms: ‖W‖_2 of each layer at epochs 0 … T, NaN where not measured.
            sizes: ‖W_T‖ of each layer, in the norm of the rank: Frobenius or spectral.

        Returns:
            The bounds by layer name, without layers where it is vacuous or nothing is claimed.

        Raises:
            ValueError: A rate is negative or not finite, or a layer has not T + 1 norms.
        """
        decays = decays_of(rates, self.weight_decay)
        if self.no_claim or not all(decay < 1 for decay in decays):
            return {}
        found = {}
        for layer in self.layers:
            if layer.positions is None:
                continue
            # Longer windows would be vacuous; an epoch has one batch at most that is not full.
            usable = min(layer.shape) // (layer.positions * layer.groups)
            epochs = usable // self.train_size
            of_run = (decays, norms[layer.name], self.steps, self.epsilon)
            size, longest = sizes[layer.name], usable // self.batch_size + epochs + 1
            exact = exact_window(*of_run, size=size, momentum=self.momentum, most=epochs)
            settled = settled_window(*of_run, size=size, momentum=self.momentum, most=longest)
            windows = [] if exact is None else [exact * self.train_size]
            windows += [] if settled is None else [self._examples(settled)]
            if windows:
                bound = rank_bound(layer.shape, layer.positions, min(windows), layer.groups)
                if bound is not None:
                    found[layer.name] = float(bound)
        return found

    def summary(self, rates: Sequence[float]) -> list[str]:
        r"""Says at the start of a run what the theory has to say of it, at its largest rate.

        Args:
            rates: Learning rate of each epoch planned.

        Returns:
            Lines of text.

        Raises:
            ValueError: There are no rates, or one is negative or not finite.

        Example:
            >>> layers = [Layer(f"linear{i}", "", (100, 100), positions=1) for i in range(5)]
            >>> theory = Theory(
            ...     layers, optimizer="sgd", weight_decay=0.02, batch_size=16, train_size=1440,
            ...     epsilon=1e-3,
            ... )
            >>> print(*theory.summary([0.1] * 50), sep="\n")
            rank bound: vacuous for 5 of 5 layers at B=16, lr·wd=0.002
            memory window: 3,797 steps
            forgetting e-folds over the run: 9
        """
        if not rates:
            raise ValueError("rates must be one for each epoch, got none")
        decay = max(decays_of(rates, self.weight_decay))
        reason = self.no_claim
        if not reason and not 0 < decay < 1:
            reason = f"lr·wd must be in (0, 1), got {decay:g}"
        if reason:
            return [f"rank bound: no claim, as {reason}"]
        window = memory_window(decay, self.epsilon, momentum=self.momentum)
        known = [layer for layer in self.layers if layer.positions is not None]
        lines, vacuous = [], 0
        for layer in known:
            bound = rank_bound(
                layer.shape, layer.positions or 1, self.batch_size * window, layer.groups
            )
            vacuous += bound is None
            if bound is not None:
                full = min(layer.shape)
                lines.append(f"rank bound: {layer.name} {bound:,} of {full:,} once norms settle")
        total = len(self.layers)
        at = f"B={self.batch_size}, lr·wd={decay:g}"
        at += f", momentum={self.momentum:g}" if self.momentum else ""
        if known:
            first = f"rank bound: vacuous for {vacuous} of {total} layers at {at}"
            memory = f"memory window: {window:,} steps"
            if is_oscillating(decay, self.momentum):
                least = math.sqrt(self.momentum)
                memory += f", as with this momentum no step leaves less than {least:.3g}"
            lines = [first, memory, *lines]
        if len(known) < total:
            lines.append(
                f"rank bound: no claim for {total - len(known)} of {total} layers, parametrised or "
                "not applied"
            )
        efolds = self.efolds(rates)
        hint = f", below {VISIBLE:g}: hardly a rank will fall" if efolds < VISIBLE else ""
        lines.append(f"forgetting e-folds over the run: {efolds:.3g}{hint}")
        return lines

    def _examples(self, steps: int) -> int:
        """Returns the samples in the last batches of the epochs so far."""
        epochs, rest = divmod(steps, self.steps)
        short = self.train_size - (self.steps - 1) * self.batch_size
        return epochs * self.train_size + (short + (rest - 1) * self.batch_size if rest else 0)
