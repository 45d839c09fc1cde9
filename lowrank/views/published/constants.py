"""The paper's constants that need no long training: at initialisation, and of pure decay.

The first points of its figures are initialisations, which the same architectures, PyTorch's default
initialisation and the same measure must give again; once a network interpolates and the learning
rate was cut, its norms shrink by weight decay alone, for which there is a closed form.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lowrank.config import Config
from lowrank.measure.matrices import weight_matrices
from lowrank.measure.ranks import (
    effective_rank,
    nuclear_rank,
    participation_ratio,
    rank,
    stable_rank,
)
from lowrank.measure.spectra import Spectrum, singular_values
from lowrank.models import build_model
from lowrank.runs.find import Run
from lowrank.views.table.matrices import EVERY, norms_of, pure_decay, relative

SQUARE = 500
"""N of the random square matrix."""

DRAWS = 3
"""Initialisations over which is averaged: a layer's rank scatters by 1 to 2."""

RATIOS = (
    ("ResNet-18", 0.01, 5e-4, 8, (0.93956, 0.98758, 0.99752)),
    ("VGG-16", 5e-3, 5e-4, 8, (0.96924, 0.99379)),
    ("VGG-16", 5e-3, 5e-4, 16, (0.98450, 0.99688)),
    ("VGG-16", 5e-3, 5e-4, 64, (0.99610, 0.99922)),
)
"""Figures 5 and 17: network, learning rate, weight decay, batch size, and the ratios of norms over
10 epochs at the end of the phases after 1, 2 and 3 cuts of the rate to a fifth."""

_NETWORKS: tuple[tuple[str, dict[str, Any], float, float, dict[int, float]], ...] = (
    ("ResNet-18", {"model": "resnet18"}, 0.05, 124.4, {1: 64, 4: 64, 8: 128, 11: 215}),
    ("VGG-16", {"model": "vgg16"}, 0.05, 130.0, {1: 64, 4: 184, 8: 119, 11: 118}),
    ("MLP-BN-10-100", {"model": "mlp", "depth": 10}, 0.03, 82.9, {}),
)
_CIFAR_TRAIN = 50_000
_GAMMA = 0.2


@dataclass(frozen=True)
class Check:
    """A constant beside ours.

    Attributes:
        what: The network or matrix.
        quantity: What is measured, in words.
        expected: The published constant, or a closed form.
        ours: What came out here.
        tolerance: How far apart they may be.
    """

    what: str
    quantity: str
    expected: float
    ours: float
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether ours is within the tolerance."""
        return abs(self.ours - self.expected) <= self.tolerance


def at_initialisation(draws: int = DRAWS, *, wide: bool = False) -> Iterator[Check]:
    """Measures networks and random matrices that nothing has trained.

    Args:
        draws: Of PyTorch's default initialisation, over which is averaged.
        wide: Also the network of width 10,000, which takes minutes and 4 GB.

    Yields:
        The checks: averages within 1, ranks of single layers within 2.
    """
    seeds = range(draws)
    for name, model, epsilon, mean, of_layers in _NETWORKS:
        config = Config(dataset="cifar10", **model)
        spectra = [singular_values(_counted(config, each)) for each in seeds]
        drawn = [[float(rank(s, epsilon)) for s in found] for found in spectra]
        ranks = np.mean(drawn, axis=0)
        yield Check(name, f"mean rank, ε = {epsilon:g}", mean, float(ranks.mean()), 1)
        for place, published in of_layers.items():
            yield Check(name, f"rank of layer {place}", published, float(ranks[place]), 2)
    for what, shape, expected in (
        ("convolution 256 × 2304", (256, 2304), 213.8),
        ("linear 256 × 256", (256, 256), 128.9),
    ):
        of_draws = [float(rank(_of_matrix(shape, each), 0.05)) for each in seeds]
        yield Check(what, "rank, ε = 0.05", expected, float(np.mean(of_draws)), 1)
    edges = np.mean([relative(_of_matrix((64, 576), each))[[0, -1]] for each in seeds], axis=0)
    for place, (quantity, expected) in enumerate((("largest", 0.1667), ("least", 0.0833))):
        what = "convolution 64 × 576"
        yield Check(what, f"{quantity} σ/‖W‖_F", expected, float(edges[place]), 0.005)
    yield from _of_square(_of_matrix((SQUARE, SQUARE), seed=0))
    if wide:
        yield from _of_wide(seed=0)


def of_pure_decay(run: Run) -> list[Check]:
    """Compares norms of a network that interpolates with decay alone.

    Args:
        run: A run of a schedule with milestones, trained by SGD without momentum.

    Returns:
        A check for each phase of the learning rate but the first, over its last epochs that were
        measured: the mean ratio of the counted matrices' norms beside Π(1 − μ·wd) over the steps.
    """
    config = run.config
    norms = norms_of(run, [layer.name for layer in run.layers if layer.counted])
    begins = [begin - 1 for begin in config["milestones"]]
    checks = []
    for cut, (begin, end) in enumerate(itertools.pairwise([*begins, config["epochs"]]), 1):
        inside = run.measured[(run.measured >= begin) & (run.measured <= end)]
        last = int(max(set(inside.tolist()) & {epoch + EVERY for epoch in inside.tolist()}))
        now, then = np.searchsorted(run.epochs, (last, last - EVERY))
        ours = float(np.mean(norms[:, now] / norms[:, then]))
        expected = pure_decay(run, last - EVERY, last)
        what = f"epochs {last - EVERY} to {last}, rate × {config['gamma'] ** cut:g}"
        checks.append(Check(what, "ratio of norms", expected, ours, 2e-4))
    return checks


def published_ratios() -> list[Check]:
    """Returns the published ratios beside exp(−μ·γ^j·wd·steps)."""
    checks = []
    for name, rate, decay, size, ratios in RATIOS:
        steps = EVERY * math.ceil(_CIFAR_TRAIN / size)
        for cut, ratio in enumerate(ratios, 1):
            form = math.exp(-rate * _GAMMA**cut * decay * steps)
            what = f"{name}, lr {rate:g}, wd {decay:g}, B {size}, rate × {_GAMMA**cut:g}"
            checks.append(Check(what, "ratio of norms", form, ratio, 2e-4))
    return checks


def as_markdown(checks: Sequence[Check], heads: Sequence[str], form: str = ".1f") -> str:
    """Makes a table for a page.

    Args:
        checks: Its rows.
        heads: Of the four columns.
        form: Of its numbers; those below 1 have four digits at least.

    Returns:
        Markdown.
    """
    lines = [f"| {' | '.join(heads)} |", "|---|---|---:|---:|"]
    above = ""
    for check in checks:
        what = check.what if check.what != above else ""
        numbers = [
            format(value, form if abs(check.expected) >= 1 or form != ".1f" else ".4f")
            for value in (check.expected, check.ours)
        ]
        lines.append(f"| {' | '.join([what, check.quantity, *numbers])} |")
        above = check.what
    return "\n".join(lines)


def _counted(config: Config, seed: int) -> list[Tensor]:
    """Returns the matrices that `rank_mean` counts, for CIFAR-10's images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model(config, (3, 32, 32), 10)
    return [matrix.view() for matrix in weight_matrices(model) if matrix.counted]


def _of_matrix(shape: tuple[int, int], seed: int) -> Spectrum:
    """Returns the spectrum of a linear layer as PyTorch draws it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        weight = nn.Linear(shape[1], shape[0], bias=False).weight
    (values,) = singular_values([weight.detach()])
    return values


def _of_square(values: Spectrum) -> Iterator[Check]:
    """Yields what communities call the rank of a random square matrix, as shares of N."""
    size = len(values)
    found = {
        "stable rank / N": (1 / 4, stable_rank(values)),
        "effective rank of σ / N": (0.8050, effective_rank(values)),
        "effective rank of σ² / N": (math.exp(-0.5), effective_rank(values, power=2)),
        "participation ratio / N": (1 / 2, participation_ratio(values)),
        "(nuclear norm / ‖W‖_F)² / N": (0.7205, nuclear_rank(values)),
    }
    for quantity, (expected, ours) in found.items():
        yield Check(f"random square, N = {size}", quantity, expected, float(ours) / size, 0.01)


def _of_wide(seed: int) -> Iterator[Check]:
    config = Config(model="mlp", depth=2, width=10_000, dataset="cifar10")
    counted = [view.double() for view in _counted(config, seed)]
    for norm, size, expected in (
        ("Frobenius", torch.linalg.norm, 6218),
        ("spectral", _spectral_norm, 6530),
    ):
        ranks = [count_above(matrix, 1e-3 * float(size(matrix))) for matrix in counted]
        words = f"mean rank, ε = 0.001, {norm} norm"
        yield Check("MLP-BN-2-10000", words, expected, float(np.mean(ranks)), 1)


def count_above(matrix: Tensor, threshold: float) -> int:
    """Counts singular values without computing one: for the widest, an SVD takes ten times longer.

    By Sylvester's law of inertia the eigenvalues of WWᵀ − t²I have the signs of D in its LDLᵀ.

    Args:
        matrix: W, float64 (m, n).
        threshold: t.

    Returns:
        How many are greater, exact where none is within rounding of t.

    Example:
        >>> count_above(torch.diag(torch.tensor([3.0, 2.0, 1.0])).double(), 1.5)
        2
    """
    short = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
    shifted = short @ short.mT
    shifted.diagonal().sub_(threshold**2)
    factors, pivots = torch.linalg.ldl_factor(shifted)
    of_pair = pivots < 0  # a 2 × 2 block of D has one eigenvalue of each sign
    positive = factors.diagonal()[~of_pair] > 0
    return int(positive.sum()) + int(of_pair.sum()) // 2


def _spectral_norm(matrix: Tensor) -> Tensor:
    return torch.svd_lowrank(matrix, q=8, niter=16)[1][0]
