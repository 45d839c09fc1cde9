"""How many networks fit into a device's memory at once: estimated without any of them."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lowrank.config import Config
from lowrank.config.datasets import DATASETS
from lowrank.config.packs import LARGEST
from lowrank.data.sets import Shape, blank
from lowrank.models import build_model
from lowrank.training.formulas import kept_of

KEPT_FREE = 0.2
"""Share of the memory that is left alone: for what is not estimated, and for pieces of it."""

MOST_ON_CPU = 64
"""Members that pay on a CPU, which computes one after another what its cores cannot hold."""

UNKNOWN_IMAGE, UNKNOWN_CLASSES = (3, 224), 1000
"""What is assumed of images that only their folder knows: channels, height; and classes."""

MOST_CLASSES = 365
"""Likewise of a data set of torchvision."""

_PER_ACTIVATION = 3  # what the backward pass reads again, its gradient, a copy in other order


def most_members(config: Config, *, sharing: int = 1, free: int | None = None) -> int:
    """Estimates how many runs fit into memory as one pack.

    Args:
        config: Of one of them.
        sharing: How many processes share the device's memory.
        free: Bytes that are free; by default the device is asked.

    Returns:
        1 or more.
    """
    name = config.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        return 1  # the run will say that it is not there
    if free is None:
        free = free_memory(device)
    room = (1 - KEPT_FREE) * free / max(1, sharing)
    most = LARGEST if device.type == "cuda" else MOST_ON_CPU
    return max(1, min(most, int(room // member_bytes(config))))


def member_bytes(config: Config) -> int:
    """Estimates what one more member takes: its tensors' copies, and a batch's activations.

    Args:
        config: Of its run.

    Returns:
        Bytes.
    """
    image, classes = images_of(config)
    with torch.device("meta"):
        network = build_model(config, image, classes)
    parameters = sum(p.numel() for p in network.parameters())
    buffers = sum(b.numel() for b in network.buffers())
    states = len(kept_of([config]))
    # Weights, gradients, a step's result; of the epoch before a copy, which is measured beside the
    # one before that, both in float64. A state is kept, copied with them while the copy before may
    # still be there, and stepped beside itself.
    tensors = parameters * (9 + 4 * states) + 2 * buffers
    activations = _activations(network, image) + math.prod(image)
    return 4 * (tensors + _PER_ACTIVATION * config.batch_size * activations)


def remedy(config: Config, members: int) -> str:
    """Says what did not fit into memory in training, and what would.

    Args:
        config: Of a run.
        members: Of its pack.

    Returns:
        The end of a line.
    """
    pack = f" in a pack of {members}" if members > 1 else ""
    return (
        f"batch_size={config.batch_size}{pack} does not fit; a smaller batch in a new run, or a "
        "machine with more memory for the same command, is needed"
    )


def free_memory(device: torch.device) -> int:
    """Returns the bytes that a device has left.

    Args:
        device: A GPU, or the CPU, whose memory is that of the machine.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        return 1024 * int(fields["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def peak_memory(device: torch.device) -> int | None:
    """Returns the bytes of a GPU that this process's tensors have taken at most.

    Args:
        device: A GPU; on the CPU there is no such count, which is None.
    """
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else None


def images_of(config: Config) -> tuple[Shape, int]:
    """Returns the shape of an example and the number of classes, as far as the table knows.

    Args:
        config: Of a run.
    """
    source = DATASETS[config.dataset]
    if source.text:
        return (config.context,), len(source.classes)
    size = config.resolved_image_size or source.native or UNKNOWN_IMAGE[1]
    channels = len(source.mean) or UNKNOWN_IMAGE[0]
    unknown = MOST_CLASSES if source.torchvision else UNKNOWN_CLASSES
    return (channels, size, size), len(source.classes) or unknown


def _activations(network: nn.Module, image: Shape) -> int:
    """Returns how many numbers the modules of a network put out for one example."""
    count = 0

    def add(module: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal count
        for tensor in output if isinstance(output, tuple) else (output,):
            count += tensor.numel() if isinstance(tensor, Tensor) else 0
        if isinstance(module, nn.MultiheadAttention):  # in a pack its scores are made in full
            tokens = inputs[0].shape[1]
            count += 2 * module.num_heads * tokens**2 + 3 * inputs[0].numel()

    hooks = [
        module.register_forward_hook(add)
        for module in network.modules()
        if not list(module.children()) or isinstance(module, nn.MultiheadAttention)
    ]
    network.eval()
    with torch.no_grad():
        network(blank(image, 1, device="meta"))
    for hook in hooks:
        hook.remove()
    return count
