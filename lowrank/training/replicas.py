"""N networks of one architecture, trained with N seeds as one batched computation (torch.func).

What one network computes from matrices, N compute from stacks of matrices: for small networks at a
fraction of the cost, as a step's time is mostly that of starting its operations. Each replica draws
its initial weights and the order of its batches as the run of its seed alone does, so that both are
the same computation but for the order in which sums are rounded.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from lowrank.common.errors import Failure, InputError
from lowrank.training import steps

if TYPE_CHECKING:
    from lowrank.config import Config


class Replicas(nn.Module):
    """N networks as one module: every parameter and buffer stacked along a new first dimension.

    An optimiser that acts element by element trains each network as it would alone, given the
    gradient of the sum of the networks' losses. The networks given share the memory of the stack
    from then on: each stays a module of its own that always has the present weights. Moving this
    module to another device or type would end that.

    Args:
        networks: Two or more modules of one architecture, on one device.

    Attributes:
        networks: The same modules.
        stack: A module of the same architecture whose tensors (N, …) are the stacks.

    Example:
        >>> replicas = Replicas([nn.Linear(4, 3), nn.Linear(4, 3)])
        >>> replicas.stack.weight.shape, replicas.networks[1].weight.shape
        (torch.Size([2, 3, 4]), torch.Size([3, 4]))
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = tuple(networks)
        self.stack = copy.deepcopy(networks[0])
        members = [dict(_tensors(network)) for network in networks]
        with torch.no_grad():
            for name, tensor in _tensors(self.stack):
                owned = [member[name] for member in members]
                tensor.data = torch.stack([own.data for own in owned])
                for own, part in zip(owned, tensor.data, strict=True):
                    own.data = part

    def forward(self, images: Tensor) -> Tensor:
        """Computes the logits of every network.

        Args:
            images: (N, B, C, H, W), a batch for each network; or (B, C, H, W), one for all.

        Returns:
            Logits (N, B, classes).
        """
        return self._call(dict(_tensors(self.stack)), images)

    def check(self, images: Tensor) -> None:
        """Makes sure that the networks can be trained as one, changing nothing.

        Args:
            images: (N, B, C, H, W), any.

        Raises:
            RuntimeError: If torch.func cannot batch an operation of theirs, or one draws at random.
        """
        weights = list(self.stack.parameters())
        buffers = {name: buffer.clone() for name, buffer in self.stack.named_buffers()}
        logits = self._call(dict(_tensors(self.stack)) | buffers, images)
        torch.autograd.grad(logits.sum(), weights, allow_unused=True)

    def _call(self, state: dict[str, Tensor], images: Tensor) -> Tensor:
        one_each = images.ndim == 5
        call = vmap(self._call_one, in_dims=(0, 0 if one_each else None))
        with sdpa_kernel(SDPBackend.MATH):  # the attention kernels cannot be batched
            logits: Tensor = call(state, images)
        return logits

    def _call_one(self, state: dict[str, Tensor], images: Tensor) -> Tensor:
        logits: Tensor = functional_call(self.stack, state, (images,))
        return logits


def build(
    config: Config,
    seeds: Sequence[int],
    image_shape: tuple[int, int, int],
    num_classes: int,
    device: torch.device,
) -> nn.Module:
    """Builds the network of each seed as a run with that seed alone does.

    Args:
        config: The run configuration.
        seeds: One or more.
        image_shape: (channels, height, width) of the images.
        num_classes: Width of the classifier.
        device: Where the networks go.

    Returns:
        The network of a single seed, or else the `Replicas`.

    Raises:
        InputError: If the model cannot be trained as one batched computation.
        Failure: If the device's memory is exhausted.
    """
    from lowrank.models import build_model

    networks = []
    for seed in seeds:
        steps.seed_epoch(seed, 0)
        networks.append(build_model(config, image_shape, num_classes).to(device))
    if len(networks) == 1:
        return networks[0]
    try:
        replicas = Replicas(networks)
        replicas.check(torch.zeros(len(seeds), 2, *image_shape, device=device))
    except torch.OutOfMemoryError as error:
        raise Failure(
            f"out of memory with replicas={len(seeds)}: fewer, or a device with more memory, are "
            f"needed ({str(error).splitlines()[0]})"
        ) from error
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"replicas={len(seeds)}: torch.func cannot batch model={config.model} "
            f"({str(error).strip().splitlines()[0]}); use replicas=1"
        ) from error
    return replicas


def _tensors(network: nn.Module) -> chain[tuple[str, Tensor]]:
    """Returns all parameters and buffers by name, what is shared once."""
    return chain(network.named_parameters(), network.named_buffers())
