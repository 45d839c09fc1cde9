"""Optimisers that step every member of a pack at once, each with its own numbers."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lowrank.config.optimizers import OPTIMIZERS
from lowrank.training.formulas import FORMULAS, Numbers, State, kept_of

if TYPE_CHECKING:
    from lowrank.config import Config


class Optimizer:
    """The optimiser of a pack.

    A single network whose step is not compiled steps by torch's own fused kernel, if there is one;
    all else by formulas of tensors, which a graph can hold and which take a number per member. Both
    keep their state in torch's format.

    Args:
        configs: Of each member: ``optimizer``, ``lr``, ``weight_decay`` and the optimiser's own
            fields are read.
        parameters: Those of the pack's stack.
        fused: Whether to step by torch's own, if there is one; for a pack of one only.
        rows: Of each parameter, for an optimiser of matrices: the rows of the hidden matrices that
            lie in it, one below the other; none of what is no hidden matrix.

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
        rows: Sequence[Sequence[int]] | None = None,
    ) -> None:
        config = configs[0]
        entry = OPTIMIZERS[config.optimizer]
        self._parameters = list(parameters)
        self._is_stacked = len(configs) > 1
        self._fused: torch.optim.Optimizer | None = None
        names = ("lr", "weight_decay", *entry.fields)
        self.numbers = {
            name: self._number([float(getattr(config, name)) for config in configs])
            for name in sorted(names)
        }
        self.numbers["step"] = self._number([0.0] * len(configs), torch.float64)
        self.state: State = []
        if fused and entry.torch:
            settings = {name: getattr(config, name) for name in names}
            if entry.fused:
                settings["fused"] = True
            self._fused = getattr(torch.optim, entry.torch)(self._parameters, **settings)
            return
        formula, kept = FORMULAS[config.optimizer], kept_of(configs)
        rows = rows or [()] * len(self._parameters)
        self._update = partial(formula.update, rows=rows) if entry.of_matrices else formula.update
        self.state = [
            {name: torch.zeros_like(p) for name in (formula.kept_of_hidden if hidden else kept)}
            for p, hidden in zip(self._parameters, rows, strict=True)
        ]

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
        self._update(weights, gradients, state, numbers)

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
        for place, kept in enumerate(self.state):
            if kept:
                states[place] = {name: self._of(tensor, member) for name, tensor in kept.items()}
            if "exp_avg" in kept:
                states[place]["step"] = self._of(self.numbers["step"], member).float()
        group: dict[str, Any] = {
            name: float(self._of(number, member))
            for name, number in self.numbers.items()
            if name != "step"
        }
        group["params"] = list(range(len(self._parameters)))
        return {"state": states, "param_groups": [group]}

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
            for name, kept in self.state[place].items():
                if state.get(name) is not None:
                    self._of(kept, member).copy_(state[name])
            if "step" in state:
                self._of(self.numbers["step"], member).copy_(state["step"])

    def _number(self, values: Sequence[float], dtype: torch.dtype | None = None) -> Tensor:
        first = self._parameters[0]
        shaped = list(values) if self._is_stacked else values[0]
        return torch.tensor(shaped, dtype=dtype or first.dtype, device=first.device)

    def _of(self, tensor: Tensor, member: int) -> Tensor:
        return tensor[member] if self._is_stacked else tensor
