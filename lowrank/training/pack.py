"""N ≥ 1 networks of one architecture as one batched computation (torch.func): a pack.

What one network computes from matrices, N compute from stacks of matrices: for small networks at a
fraction of the cost, as a step's time is mostly that of starting its operations. Each member draws
its initial weights and the order of its batches as its run alone does, so that both are the same
computation but for the order in which sums are rounded. A pack of one is the network itself.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from lowrank.common.errors import Failure, InputError
from lowrank.data.sets import Shape, blank
from lowrank.training import steps

if TYPE_CHECKING:
    from lowrank.config import Config


class Pack(nn.Module):
    """N networks as one module: every parameter and buffer stacked along a new first dimension.

    The networks given share the memory of the stack from then on: each stays a module of its own
    that always has the present weights. Moving this module to another device or type would end
    that. A pack of one stacks nothing and adds no dimension.

    Args:
        networks: One or more modules of one architecture, on one device.

    Attributes:
        networks: The same modules.
        stack: A module of the same architecture whose tensors (N, …) are the stacks; of one
            network that network.
        is_stacked: Whether tensors, batches and logits have a first dimension of N members.

    Example:
        >>> pack = Pack([nn.Linear(4, 3), nn.Linear(4, 3)])
        >>> pack.stack.weight.shape, pack.networks[1].weight.shape
        (torch.Size([2, 3, 4]), torch.Size([3, 4]))
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = tuple(networks)
        self.is_stacked = len(networks) > 1
        self.stack = copy.deepcopy(networks[0]) if self.is_stacked else networks[0]
        if not self.is_stacked:
            return
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
            images: (N, B, C, H, W), a batch for each network; or (B, C, H, W), one for all. Of
                text int64 of shape (N, B, T) or (B, T).

        Returns:
            Logits (N, B, classes), of one network (B, classes); of text (N, B, T, classes).
        """
        if not self.is_stacked:
            logits: Tensor = self.stack(images)
            return logits
        return self.call(dict(_tensors(self.stack)), images)

    def call(self, state: dict[str, Tensor], images: Tensor) -> Tensor:
        """Computes the logits with other parameters and buffers.

        Args:
            state: Those of the stack, by its names.
            images: As in ``forward``.

        Returns:
            As ``forward``.
        """
        if not self.is_stacked:
            return self._call_one(state, images)
        one_each = images.ndim == (5 if images.is_floating_point() else 3)
        batched = vmap(self._call_one, in_dims=(0, 0 if one_each else None))
        with attention_by_products():
            logits: Tensor = batched(state, images)
        return logits

    def means(self, losses: Tensor) -> Tensor:
        """Returns what each network minimises.

        Args:
            losses: Of the labels of a batch, (N, B), of one network (B,); of text (N, B, T).

        Returns:
            Their means, (N,), of one network a scalar.
        """
        return losses.flatten(int(self.is_stacked)).mean(dim=-1)

    def check(self, images: Tensor) -> None:
        """Makes sure that the networks can be trained as one, changing nothing.

        Args:
            images: (N, B, C, H, W) or (N, B, T), any.

        Raises:
            RuntimeError: If torch.func cannot batch an operation of theirs, or one draws at random.
        """
        weights = list(self.stack.parameters())
        buffers = {name: buffer.clone() for name, buffer in self.stack.named_buffers()}
        logits = self.call(dict(_tensors(self.stack)) | buffers, images)
        torch.autograd.grad(logits.sum(), weights, allow_unused=True)

    def _call_one(self, state: dict[str, Tensor], images: Tensor) -> Tensor:
        logits: Tensor = functional_call(self.stack, state, (images,))
        return logits


@contextlib.contextmanager
def attention_by_products() -> Iterator[None]:
    """Computes attention by matrix products, which can be batched and counted, not by a kernel."""
    was = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was)


def build(
    configs: Sequence[Config],
    image_shape: Shape,
    num_classes: int,
    device: torch.device,
) -> Pack:
    """Builds the network of each member as its run alone does.

    Args:
        configs: Of each member, which differ in the numbers of training only.
        image_shape: (channels, height, width) of the images; of text (T,).
        num_classes: Width of the classifier.
        device: Where the networks go.

    Returns:
        The networks.

    Raises:
        InputError: If the model cannot be trained as one batched computation.
        Failure: If the device's memory is exhausted.
    """
    from lowrank.models import build_model

    networks = []
    for config in configs:
        assert config.seed is not None
        steps.seed_epoch(config.seed, 0)
        networks.append(build_model(config, image_shape, num_classes).to(device))
    try:
        pack = Pack(networks)
        if pack.is_stacked:
            pack.check(blank(image_shape, len(networks), 2, device=device))
    except torch.OutOfMemoryError as error:
        raise Failure(
            f"out of memory with a pack of {len(networks)}: a smaller one, or a device with more "
            f"memory, is needed ({str(error).splitlines()[0]})"
        ) from error
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"torch.func cannot batch model={configs[0].model} "
            f"({str(error).strip().splitlines()[0]}); its runs train alone, with --pack=off"
        ) from error
    return pack


def _tensors(network: nn.Module) -> chain[tuple[str, Tensor]]:
    """Returns all parameters and buffers by name, what is shared once."""
    return chain(network.named_parameters(), network.named_buffers())
