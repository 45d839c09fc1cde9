"""Steps of optimisers as formulas of tensors, of one network or of every member of a pack.

Weights (…) of one network have numbers (), those (N, …) of N members numbers (N,).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from lowrank.config import Config

BETAS, EPSILON = (0.9, 0.999), 1e-8
"""Of Adam and AdamW, torch's defaults."""

MUON_MOMENTUM, MUON_RATE = 0.95, 0.2
"""Of Muon: torch's default, and what scales a step to the root mean square of AdamW's, so that one
rate suits both (Liu et al., *Muon is scalable for LLM training*, arXiv 2502.16982)."""

NEWTON_SCHULZ, NEWTON_SCHULZ_STEPS = (3.4445, -4.7750, 2.0315), 5
"""a, b and c of the iteration σ ← aσ + bσ³ + cσ⁵ of singular values, and how often it is taken
(Jordan et al., *Muon: an optimizer for hidden layers in neural networks*, 2024)."""

Numbers = Mapping[str, Tensor]
"""``lr``, ``weight_decay``, ``momentum`` and steps taken, (N,) of N members, () of one network."""

State = Sequence[Mapping[str, Tensor]]
"""What an optimiser keeps of each weight, by torch's names."""


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
    # A difference: a matrix product plus a tensor is compiled to a kernel that copies the tensor.
    for weight, gradient, kept in zip(weights, gradients, state, strict=True):
        direction = gradient - _for(-numbers["weight_decay"], weight) * weight
        if kept:
            buffer = kept["momentum_buffer"]
            direction = buffer.mul_(_for(numbers["momentum"], weight)).add_(direction)
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
    for weight, gradient, kept in zip(weights, gradients, state, strict=True):
        decay = _for(numbers["weight_decay"], weight)
        if decoupled:
            weight.mul_(1 - _for(numbers["lr"], weight) * decay)
        direction = gradient if decoupled else gradient - -decay * weight
        mean = kept["exp_avg"].lerp_(direction, 1 - of_first)
        square = kept["exp_avg_sq"]
        square.mul_(of_second).add_(direction * direction * (1 - of_second))
        spread = square.sqrt() / _for(root, weight) + EPSILON
        weight.sub_(_for(size, weight) * mean / spread)


def muon(
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor],
    state: State,
    numbers: Numbers,
    *,
    rows: Sequence[Sequence[int]],
) -> None:
    """Steps hidden matrices by Muon (Jordan et al.), their decay decoupled, and the rest by AdamW.

    A convolution is stepped as the matrix (out, in·k·k), query, key and value each by itself. What
    `torch.optim.Muon` does with ``adjust_lr_fn="match_rms_adamw"`` and Nesterov's momentum.

    Args:
        weights: As in `adam`.
        gradients: Likewise.
        state: ``momentum_buffer`` of what holds hidden matrices, else as in `adam`.
        numbers: As in `adam`.
        rows: Of each weight, those of the hidden matrices in it; none of AdamW's.
    """
    if others := [place for place, of in enumerate(rows) if not of]:
        adamw(
            [weights[place] for place in others],
            [gradients[place] for place in others],
            [state[place] for place in others],
            numbers,
        )
    hidden = [place for place, of in enumerate(rows) if of]
    leading = numbers["lr"].ndim
    matrices: list[Tensor] = []
    for place in hidden:
        buffer = state[place]["momentum_buffer"].lerp_(gradients[place], 1 - MUON_MOMENTUM)
        ahead = gradients[place].lerp(buffer, MUON_MOMENTUM).flatten(leading + 1)
        matrices += ahead.split(list(rows[place]), dim=leading)
    found = iter(orthogonalised(matrices))
    for place in hidden:
        weight, rate = weights[place], _for(numbers["lr"], weights[place])
        step = torch.cat([next(found) for _ in rows[place]], dim=leading).reshape(weight.shape)
        weight.mul_(1 - rate * _for(numbers["weight_decay"], weight))
        weight.sub_(rate * step)


def orthogonalised(matrices: Sequence[Tensor]) -> list[Tensor]:
    """Makes the singular values of matrices nearly equal, by Newton's and Schulz's iteration.

    Matrices of one shape are one batch. Float32 is iterated in bfloat16 on a GPU, as torch does; on
    a CPU, few of which have instructions for bfloat16, as it is and on the smaller Gram matrices.

    Args:
        matrices: (…, m, n) each.

    Returns:
        Matrices of these shapes. Their singular values lie within 0.68 and 1.21 times
        0.2 · √max(m, n) where the matrix's are at least 2e-3 of its norm.

    Example:
        >>> (found,) = orthogonalised([torch.diag(torch.tensor([4.0, 0.5]))])
        >>> (torch.linalg.svdvals(found) / (0.2 * 2**0.5)).double().round(decimals=2).tolist()
        [0.71, 0.69]
    """
    places: dict[torch.Size, list[int]] = {}
    for place, matrix in enumerate(matrices):
        places.setdefault(matrix.shape, []).append(place)
    found: dict[int, Tensor] = {}
    for alike in places.values():
        batch = _newton_schulz(torch.stack([matrices[place] for place in alike]))
        found |= zip(alike, batch.unbind(), strict=True)
    return [found[place] for place in range(len(matrices))]


def _newton_schulz(matrices: Tensor) -> Tensor:
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    wide = matrices.mT if is_tall else matrices
    x = wide.bfloat16() if wide.is_cuda and wide.dtype == torch.float32 else wide
    x = x / torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    x = (_by_matrices(x) if x.is_cuda else _by_gram_matrices(x)).to(matrices.dtype)
    scaled: Tensor = x * (MUON_RATE * x.shape[-1] ** 0.5)
    return scaled.mT if is_tall else scaled


def _by_matrices(x: Tensor) -> Tensor:
    """Returns (…, m, n), m ≤ n, iterated itself, which bfloat16 needs."""
    a, b, c = NEWTON_SCHULZ
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x


def _by_gram_matrices(x: Tensor) -> Tensor:
    """Returns the same by way of (…, m, m): X ← SX with S of XXᵀ, so that XXᵀ ← S XXᵀ S."""
    a, b, c = NEWTON_SCHULZ
    gram = x @ x.mT
    identity = torch.eye(gram.shape[-1], dtype=x.dtype, device=x.device)
    product = identity
    for _ in range(NEWTON_SCHULZ_STEPS):
        factor = a * identity + b * gram + c * (gram @ gram)
        product = factor @ product
        gram = factor @ gram @ factor
    return product @ x


def _for(number: Tensor, weight: Tensor) -> Tensor:
    """Returns a number per member in a shape that meets the members' weights."""
    return number.reshape(number.shape + (1,) * (weight.ndim - number.ndim))


class Formula(NamedTuple):
    """An optimiser as formulas.

    Attributes:
        update: Its step; that of an optimiser of matrices takes ``rows`` as well.
        kept: What it keeps of a weight.
        kept_of_hidden: What one of matrices keeps of a weight that holds hidden ones.
    """

    update: Callable[..., None]
    kept: tuple[str, ...]
    kept_of_hidden: tuple[str, ...] = ()


FORMULAS = {
    "sgd": Formula(sgd, ("momentum_buffer",)),
    "adam": Formula(adam, ("exp_avg", "exp_avg_sq")),
    "adamw": Formula(adamw, ("exp_avg", "exp_avg_sq")),
    "muon": Formula(muon, ("exp_avg", "exp_avg_sq"), ("momentum_buffer",)),
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
