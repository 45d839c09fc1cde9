"""Optimisers that step every member of a pack at once, each with its own numbers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from lowrank.config.optimizers import OPTIMIZERS
from lowrank.training.matrices import Matrices

if TYPE_CHECKING:
    from lowrank.config import Config

BETAS, EPSILON = (0.9, 0.999), 1e-8
"""Of Adam and AdamW, torch's defaults."""

Numbers = Mapping[str, Tensor]
"""``lr``, ``weight_decay``, ``momentum`` and steps taken, (N,) of N members, () of one network."""

Update = Callable[[Sequence[Tensor], Sequence[Tensor], "State", Numbers], None]
"""(weights, gradients, state, numbers) → None: changes weights and state in place."""

State = Mapping[str, Sequence[Tensor]]
"""What an optimiser keeps of each weight, by torch's names."""


class Optimizer:
    """The optimiser of a pack.

    A single network whose step is not compiled steps by torch's own fused kernel; all else by
    formulas of tensors (`sgd`, `adam`, `adamw`), which a graph can hold and which take a number per
    member. Both keep their state in torch's format.

    Args:
        configs: Of each member: ``optimizer``, ``lr``, ``weight_decay`` and the optimiser's own
            fields are read.
        parameters: Those of the pack's stack.
        fused: Whether to step by torch's own; for a pack of one only.
        hidden: Views of the hidden weight matrices, for an optimiser of matrices.

    Attributes:
        numbers: What the formulas read: ``lr`` and the like, on the parameters' device.
        state: What they keep.
    """

    def __init__(
        self,
        configs: Sequence[Config],
        parameters: Sequence[nn.Parameter],
        *,
        fused: bool,
        hidden: Sequence[Tensor] = (),
    ) -> None:
        config = configs[0]
        entry = OPTIMIZERS[config.optimizer]
        self._name = config.optimizer
        self._parameters = list(parameters)
        self._is_stacked = len(configs) > 1
        self._fused: torch.optim.Optimizer | Matrices | None = None
        settings = {name: getattr(config, name) for name in ("lr", "weight_decay", *entry.fields)}
        if fused:
            if entry.fused:
                settings["fused"] = True
            kind = getattr(torch.optim, entry.torch)
            self._fused = (
                Matrices(kind, self._parameters, hidden, **settings)
                if entry.of_matrices
                else kind(self._parameters, **settings)
            )
        names = {"lr", "weight_decay", *entry.fields}
        self.numbers = {
            name: self._number([float(getattr(config, name)) for config in configs])
            for name in sorted(names)
        }
        self.numbers["step"] = self._number([0.0] * len(configs), torch.float64)
        kept = () if fused else kept_of(configs)
        self.state = {name: [torch.zeros_like(p) for p in self._parameters] for name in kept}

    def set_rates(self, rates: Sequence[float]) -> None:
        """Sets the learning rate of each member; nothing is compiled anew.

        Args:
            rates: One per member.
        """
        if self._fused is not None:
            for group in self._fused.param_groups:
                group["lr"] = rates[0]
        self.numbers["lr"].copy_(self._number(rates))

    def step(self) -> None:
        """Steps by the gradients that the parameters hold."""
        if self._fused is not None:
            self._fused.step()
            return
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        with torch.no_grad():
            self.update(self._parameters, gradients, self.state, self.numbers)

    def update(
        self, weights: Sequence[Tensor], gradients: Sequence[Tensor], state: State, numbers: Numbers
    ) -> None:
        """Steps by formulas, which a graph may hold.

        Args:
            weights: Changed in place.
            gradients: One per weight.
            state: As the attribute, changed in place.
            numbers: As the attribute; the count of steps is changed in place.
        """
        numbers["step"].add_(1)
        FORMULAS[self._name].update(weights, gradients, state, numbers)

    def state_dict(self, member: int) -> dict[str, Any]:
        """Returns a member's state, in torch's format; its tensors go on changing.

        Args:
            member: From 0.

        Returns:
            What `torch.optim.Optimizer.state_dict` of its run alone returns, but for entries of
            ``param_groups`` that are the class's defaults.
        """
        if self._fused is not None:
            return self._fused.state_dict()
        states: dict[int, dict[str, Tensor]] = {}
        for place in range(len(self._parameters)):
            states[place] = {n: self._of(of[place], member) for n, of in self.state.items()}
            if "exp_avg" in self.state:
                states[place]["step"] = self._of(self.numbers["step"], member).float()
        group: dict[str, Any] = {
            name: float(self._of(number, member))
            for name, number in self.numbers.items()
            if name != "step"
        }
        group["params"] = list(range(len(self._parameters)))
        return {"state": states if self.state else {}, "param_groups": [group]}

    def load_state_dict(self, member: int, saved: Mapping[str, Any]) -> None:
        """Takes a member's state from one that ``state_dict`` gave.

        Args:
            member: From 0.
            saved: Of a run with the same optimiser.
        """
        states = saved["state"]
        if self._fused is not None:
            self._fused.load_state_dict(
                {**self._fused.state_dict(), "state": copy.deepcopy(states)}
            )
            return
        for place, state in states.items():
            for name, kept in self.state.items():
                if state.get(name) is not None:
                    self._of(kept[place], member).copy_(state[name])
            if "step" in state:
                self._of(self.numbers["step"], member).copy_(state["step"])

    def _number(self, values: Sequence[float], dtype: torch.dtype | None = None) -> Tensor:
        first = self._parameters[0]
        shaped = list(values) if self._is_stacked else values[0]
        return torch.tensor(shaped, dtype=dtype or first.dtype, device=first.device)

    def _of(self, tensor: Tensor, member: int) -> Tensor:
        return tensor[member] if self._is_stacked else tensor


def sgd(
    weights: Sequence[Tensor], gradients: Sequence[Tensor], state: State, numbers: Numbers
) -> None:
    """Steps by SGD: v ← μ v + (g + λ w), w ← w − η v, with v = g + λ w where no momentum is kept.

    Args:
        weights: (N, …), or (…) of one network.
        gradients: Likewise.
        state: ``momentum_buffer`` or nothing.
        numbers: ``lr`` η, ``weight_decay`` λ, ``momentum`` μ.
    """
    buffers = state.get("momentum_buffer")
    # A difference: a matrix product plus a tensor is compiled to a kernel that copies the tensor.
    for place, (weight, gradient) in enumerate(zip(weights, gradients, strict=True)):
        direction = gradient - _for(-numbers["weight_decay"], weight) * weight
        if buffers:
            direction = buffers[place].mul_(_for(numbers["momentum"], weight)).add_(direction)
        weight.sub_(_for(numbers["lr"], weight) * direction)


def adam(
    weights: Sequence[Tensor], gradients: Sequence[Tensor], state: State, numbers: Numbers
) -> None:
    """Steps by Adam (Kingma and Ba), its decay added to the gradient.

    Args:
        weights: (N, …), or (…) of one network.
        gradients: Likewise.
        state: ``exp_avg`` and ``exp_avg_sq``.
        numbers: ``lr``, ``weight_decay`` and ``step``, this one included.
    """
    _adam(weights, gradients, state, numbers, decoupled=False)


def adamw(
    weights: Sequence[Tensor], gradients: Sequence[Tensor], state: State, numbers: Numbers
) -> None:
    """Steps by AdamW (Loshchilov and Hutter): weights decay by 1 − lr · weight_decay first.

    Args:
        weights: As in `adam`.
        gradients: Likewise.
        state: Likewise.
        numbers: Likewise.
    """
    _adam(weights, gradients, state, numbers, decoupled=True)


def _adam(
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor],
    state: State,
    numbers: Numbers,
    *,
    decoupled: bool,
) -> None:
    of_first, of_second = BETAS
    dtype = weights[0].dtype
    size = (numbers["lr"].double() / (1 - of_first ** numbers["step"])).to(dtype)
    root = ((1 - of_second ** numbers["step"]) ** 0.5).to(dtype)
    for place, (weight, gradient) in enumerate(zip(weights, gradients, strict=True)):
        decay = _for(numbers["weight_decay"], weight)
        if decoupled:
            weight.mul_(1 - _for(numbers["lr"], weight) * decay)
        direction = gradient if decoupled else gradient - -decay * weight
        mean = state["exp_avg"][place].lerp_(direction, 1 - of_first)
        square = state["exp_avg_sq"][place]
        square.mul_(of_second).add_(direction * direction * (1 - of_second))
        spread = square.sqrt() / _for(root, weight) + EPSILON
        weight.sub_(_for(size, weight) * mean / spread)


def _for(number: Tensor, weight: Tensor) -> Tensor:
    """Returns a number per member in a shape that meets the members' weights."""
    return number.reshape(number.shape + (1,) * (weight.ndim - number.ndim))


class Formula(NamedTuple):
    """An optimiser as formulas.

    Attributes:
        update: Its step.
        kept: What it keeps of a weight.
    """

    update: Update
    kept: tuple[str, ...]


FORMULAS = {
    "sgd": Formula(sgd, ("momentum_buffer",)),
    "adam": Formula(adam, ("exp_avg", "exp_avg_sq")),
    "adamw": Formula(adamw, ("exp_avg", "exp_avg_sq")),
}
"""Optimisers that can step a pack, or within a compiled step: those that the table of
`lowrank.config.optimizers` says so of."""


def kept_of(configs: Sequence[Config]) -> tuple[str, ...]:
    """Returns what the formula of an optimiser keeps of a weight, by torch's names.

    Args:
        configs: Of the members of a pack.

    Returns:
        Names; none of SGD without momentum, and of an optimiser without a formula.

    Example:
        >>> from lowrank.config import Config
        >>> kept_of([Config(), Config(momentum=0.9)]), kept_of([Config()])
        (('momentum_buffer',), ())
    """
    name = configs[0].optimizer
    if name not in FORMULAS or (name == "sgd" and not any(config.momentum for config in configs)):
        return ()
    return FORMULAS[name].kept
