"""An optimiser of hidden weight matrices, with AdamW for all other parameters, as one optimiser."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Matrices:
    """Steps hidden weight matrices by one optimiser of torch, and the rest by AdamW.

    Both have the same rate and decay: the update of a matrix is scaled to the root mean square of
    AdamW's, so that one rate suits both (Liu et al., *Muon is scalable for LLM training*, arXiv
    2502.16982).
    A convolution is stepped as the matrix (out, in·k·k), query, key and value each by itself.

    Args:
        kind: The class of ``torch.optim`` for matrices, such as Muon.
        parameters: Of the network.
        hidden: The matrices (rows, columns), views of parameters.
        lr: Learning rate.
        weight_decay: Decoupled: a step multiplies by 1 - lr x weight_decay.

    Example:
        >>> weight, bias = nn.Parameter(torch.eye(2)), nn.Parameter(torch.ones(2))
        >>> both = Matrices(
        ...     torch.optim.Muon, [weight, bias], [weight.detach()], lr=0.1, weight_decay=0.5
        ... )
        >>> weight.grad, bias.grad = torch.zeros(2, 2), torch.zeros(2)
        >>> both.step()
        >>> weight[0, 0].item(), bias[0].item()  # decay alone
        (0.949999988079071, 0.949999988079071)
    """

    def __init__(
        self,
        kind: Callable[..., torch.optim.Optimizer],
        parameters: Sequence[nn.Parameter],
        hidden: Iterable[Tensor],
        *,
        lr: float,
        weight_decay: float,
    ) -> None:
        owners = {parameter.untyped_storage().data_ptr(): parameter for parameter in parameters}
        self._views = [
            (nn.Parameter(view), owners[view.untyped_storage().data_ptr()]) for view in hidden
        ]
        taken = {id(owner) for _, owner in self._views}
        others = [parameter for parameter in parameters if id(parameter) not in taken]
        settings: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay}
        matrices = [view for view, _ in self._views]
        self._both = {
            "matrices": kind(matrices, adjust_lr_fn="match_rms_adamw", **settings),
            "others": torch.optim.AdamW(others, fused=True, **settings),
        }

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Those of both."""
        return [group for each in self._both.values() for group in each.param_groups]

    def step(self) -> None:
        """Steps by the gradients that the parameters hold."""
        for view, owner in self._views:
            assert owner.grad is not None
            start = view.storage_offset() - owner.storage_offset()
            gradient = owner.grad.contiguous()
            view.grad = gradient.as_strided(view.shape, view.stride(), start)
        for each in self._both.values():
            each.step()

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of both, by their part."""
        return {"state": {name: each.state_dict()["state"] for name, each in self._both.items()}}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Takes the state of both.

        Args:
            saved: As ``state_dict`` gave it.
        """
        for name, each in self._both.items():
            each.load_state_dict({**each.state_dict(), "state": saved["state"][name]})
