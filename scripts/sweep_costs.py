"""Reasons what each sweep file costs on one GPU of the H100 class: nobody has measured it.

    python scripts/sweep_costs.py            # a line for each file

docs/sweeps.md states the formula; a test holds the heads of the files to it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lowrank.config import Config, replace
from lowrank.config.datasets import DATASETS
from lowrank.config.packs import LARGEST, pack_key, unpackable
from lowrank.config.settings import declared
from lowrank.config.sweepfile import load_sweep_file
from lowrank.data.sets import blank
from lowrank.models import build_model
from lowrank.training.memory import KEPT_FREE, images_of, member_bytes

FLOPS = 30e12  # fp32, about half of the card's peak
BANDWIDTH = 2.5e12  # bytes/s
MEMORY = 80e9  # bytes
LAUNCH = 50e-6  # s of a step for each module: some ten kernels, forward, backward and update
SPECTRA = 100e9  # flops in float64, on CPU cores, as measured on two (benchmarks/README.md)
TRAFFIC = 36  # bytes of each weight read and written by a step

OF_NETWORK = [
    *("dataset", "image_size", "context", "optimizer", "momentum"),
    *(name for name in Config.model_fields if declared(name)["group"] == "model"),
]

TESTED = {
    "cifar10": 10_000,
    "svhn": 26_032,
    "mnist": 10_000,
    "fashion_mnist": 10_000,
    "food101": 25_250,
    "imagenette": 3_925,
    "places365": 36_500,
    "digits": 357,
    "pydoc": 728,
}
"""Test examples of the data sets; of a text at the usual context, in one version of Python."""
CLASSES = {"food101": 101, "places365": 365}


class Network(NamedTuple):
    """What a network costs, whatever the hardware.

    Attributes:
        weights: Its parameters.
        products: Multiplications of a forward pass, for one image.
        modules: Modules called in a forward pass.
        spectra: Float64 operations of all its spectra.
        memory: Bytes of a member of a pack: those at batch size 1, and for each further example.
    """

    weights: int
    products: int
    modules: int
    spectra: float
    memory: tuple[int, int]


_COUNTED: dict[Hashable, Network] = {}


def network_of(config: Config) -> Network:
    """Counts what a network costs, on tensors without values, once for all of one kind.

    Args:
        config: Of a run.

    Returns:
        The counts.
    """
    key = tuple(getattr(config, name) for name in OF_NETWORK)
    if key not in _COUNTED:
        _COUNTED[key] = _count(config)
    return _COUNTED[key]


def _count(config: Config) -> Network:
    shape, _ = images_of(config)
    classes = CLASSES.get(config.dataset, 256 if DATASETS[config.dataset].text else 10)
    products = modules = 0

    def add(module: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal products, modules
        modules += 1
        if isinstance(module, nn.MultiheadAttention):
            products += 4 * inputs[0].numel() * module.embed_dim
        elif isinstance(module, nn.Linear | nn.Conv2d):
            assert isinstance(output, Tensor)
            products += output.numel() * module.weight[0].numel()

    with torch.device("meta"):
        network = build_model(config, shape, classes).eval()
        for module in network.modules():
            if not list(module.children()) or isinstance(module, nn.MultiheadAttention):
                module.register_forward_hook(add)
        network(blank(shape, 1, device="meta"))
    one = member_bytes(replace(config, batch_size=1))
    embeddings = {id(m.weight) for m in network.modules() if isinstance(m, nn.Embedding)}
    matrices = [
        p.flatten(1).shape for p in network.parameters() if p.ndim > 1 and id(p) not in embeddings
    ]
    return Network(
        sum(p.numel() for p in network.parameters()),
        products,
        modules,
        sum(2 * min(m) ** 2 * max(m) + 4 * min(m) ** 3 for m in matrices),
        (one, member_bytes(replace(config, batch_size=2)) - one),
    )


def seconds(config: Config, network: Network, members: int) -> float:
    """Reasons how long one pack trains.

    Args:
        config: Of one of its runs.
        network: Its network's counts.
        members: How many they are; 1 for a run alone.

    Returns:
        Seconds.
    """
    train = config.train_size or DATASETS[config.dataset].train_size
    assert train
    steps = math.ceil(train / config.batch_size)
    own = config.batch_size * 6 * network.products / FLOPS + TRAFFIC * network.weights / BANDWIDTH
    step = max(LAUNCH * network.modules, members * own)
    evaluated = members * (train + TESTED[config.dataset]) * 2 * network.products / FLOPS
    measured = members * network.spectra / SPECTRA / config.measure_every
    return config.epochs * max(steps * step + evaluated, measured)  # measured beside training


def hours(configs: Sequence[Config], *, packed: bool) -> float:
    """Reasons how long a sweep takes on one GPU.

    Args:
        configs: Its points.
        packed: Whether points that may train as packs do, as many as memory allows.

    Returns:
        Hours.
    """
    groups: dict[Hashable, list[Config]] = defaultdict(list)
    for number, config in enumerate(configs):
        alone = not packed or unpackable(config) is not None
        groups[number if alone else pack_key(config)].append(config)
    total = 0.0
    for points in groups.values():
        first = points[0]
        network = network_of(first)
        at_one, each = network.memory
        room = (1 - KEPT_FREE) * MEMORY // (at_one + (first.batch_size - 1) * each)
        most = max(1, min(LARGEST, int(room)))
        for start in range(0, len(points), most):
            total += seconds(first, network, len(points[start : start + most]))
    return total / 3600


def cost(path: Path) -> str:
    """Says what a sweep file costs, as its head does.

    Args:
        path: The file.

    Returns:
        The words of the head's ``Cost``.
    """
    configs = load_sweep_file(path).configs()
    together, apart = (f"{float(f'{hours(configs, packed=p):.2g}'):,g}" for p in (True, False))
    return (
        f"about {together} hours on one GPU of the H100 class with packs, {apart} with each run "
        "alone. Reasoned, not measured: docs/sweeps.md, Costs."
    )


if __name__ == "__main__":
    for file in sorted((Path(__file__).resolve().parent.parent / "sweeps").glob("*.yaml")):
        print(f"{file.stem}: {cost(file)}")
