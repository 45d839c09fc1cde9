"""The gradient of the loss at the present weights, on one batch that is always the same."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch

from lowrank.measure.matrices import weight_matrices
from lowrank.models.factored import plain
from lowrank.training import steps
from lowrank.training.pack import Pack

if TYPE_CHECKING:
    from torch import Tensor

    from lowrank.training.learner import Learner


def gradients(learner: Learner) -> list[dict[str, Tensor]]:
    """Returns the gradient of each network's loss by each of its weight matrices.

    The loss is the mean over the first ``batch_size`` training examples as they are stored, not
    augmented and without the decay term, in training mode: with the batch statistics of BatchNorm
    and with dropout, whose masks are always the same. All is done on copies.

    Args:
        learner: The networks, which stay as they are.

    Returns:
        Of each network tensors (rows, columns) by the name of the matrix.
    """
    device = learner.dataset.train.images.device
    # Of a parametrised module the gradient is that by its effective weight.
    pack = Pack([plain(copy.deepcopy(network)) for network in learner.pack.networks])
    pack.train()
    images, labels = learner.first_batch()
    weights = list(pack.stack.parameters())
    seed = learner.config.seed
    assert seed is not None
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        steps.seed_epoch(seed, 0)
        with steps.autocast(device.type, learner.config.precision):
            logits = pack(images)
            losses = learner.loss(logits, labels.expand(logits.shape[:-1]))
        values = pack.means(losses)
        found = torch.autograd.grad(values, weights, torch.ones_like(values), allow_unused=True)
    with torch.no_grad():
        for weight, gradient in zip(weights, found, strict=True):
            weight.copy_(torch.zeros_like(weight) if gradient is None else gradient)
    example = learner.dataset.example
    return [
        {matrix.name: matrix.view() for matrix in weight_matrices(network, example_input=example)}
        for network in pack.networks
    ]
