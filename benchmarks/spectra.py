"""All spectra and quantities of a network, beside loops of SVDs and WeightWatcher.

    python -m benchmarks.spectra

Ours is `Watcher.measure`: spectra, ranks at two ε, every other quantity, and distances to the
weights before. That all rank counts equal those of a float64 SVD is checked first.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import nn

import lowrank.measure.spectra
from benchmarks import ours
from benchmarks.program import Options, run
from benchmarks.timing import Row, Turn, faster, interleaved, spread
from lowrank.common.errors import Failure, InputError
from lowrank.common.terminal import say
from lowrank.measure.matrices import WeightMatrix, weight_matrices
from lowrank.measure.watcher import Watcher
from lowrank.runs.environment import available_cores

EPSILONS = (1e-3, 1e-2)
DIRECTIONS = 10
SVDVALS = "loop of `svdvals`, float32"
EPOCH_IMAGES = 50_000
SHARE = 0.01


def measure(options: Options) -> list[Row]:
    """Measures every row.

    Args:
        options: How.

    Returns:
        The rows.
    """
    torch.set_num_threads(available_cores())
    if options.device == "cuda":
        return [of_an_epoch(options), of_places(options)]
    rows = of_resnet18(options)
    for name, target, make in OTHERS:
        model = make(options.quick)
        torch.set_num_threads(available_cores())
        # The float64 SVDs of the largest would take longer than everything else together.
        is_largest = name.startswith("MLP")
        checked = 2 if is_largest else None
        check_counts(model, name, checked)
        times = interleaved(
            {"ours": ours_of(model), "theirs": svdvals(weight_matrices(model))},
            options.repetitions(1 if is_largest else 3),
            warmups=0 if is_largest else options.warmups,
        )
        rows.append(faster(f"spectra of {name}", SVDVALS, times, target))
        say(f"{name}: {rows[-1].shown_ratio()}")
    return rows


def of_resnet18(options: Options) -> list[Row]:
    """Measures the rows of ResNet-18.

    Args:
        options: How.

    Returns:
        The rows.
    """
    model = _resnet18(options.quick)
    torch.set_num_threads(available_cores())
    check_counts(model, "ResNet-18")
    matrices = weight_matrices(model)
    what = "spectra of ResNet-18"
    times = interleaved(
        {
            "ours": ours_of(model),
            "svdvals": svdvals(matrices),
            "paper": papers_way([m for m in matrices if m.counted]),
        },
        options.repetitions(7),
        warmups=options.warmups,
    )
    slow = interleaved(
        {"ours": ours_of(model), "theirs": weightwatcher(model)},
        options.repetitions(3),
        warmups=options.warmups,
    )
    papers = "the paper's way: `matrix_rank` and `svdvals`, 17 matrices, float32"
    low = _resnet18(options.quick)
    halve_ranks(low)
    torch.set_num_threads(available_cores())
    check_counts(low, "ResNet-18 of half rank")
    lowered = interleaved(
        {"ours": ours_of(low), "theirs": svdvals(weight_matrices(low))},
        options.repetitions(5),
        warmups=options.warmups,
    )
    return [
        faster(what, SVDVALS, {"ours": times["ours"], "theirs": times["svdvals"]}, 5),
        of_directions(model, options),
        faster(what, papers, {"ours": times["ours"], "theirs": times["paper"]}, 10),
        faster(what, "WeightWatcher's `analyze()`", slow, 10),
        faster(f"{what}, half of all σ at rounding", SVDVALS, lowered, None),
    ]


def of_directions(model: nn.Module, options: Options) -> Row:
    """Measures what it costs to keep singular vectors beside singular values.

    Args:
        model: A ResNet-18.
        options: How.

    Returns:
        The row.
    """
    times = interleaved(
        {"ours": ours_of(model, directions=DIRECTIONS), "theirs": ours_of(model)},
        options.repetitions(5),
        warmups=options.warmups,
    )
    return Row(
        f"spectra and {DIRECTIONS} leading directions of ResNet-18",
        "its spectra alone",
        "s",
        spread(times["ours"]),
        spread(times["theirs"]),
        "share",
        None,
    )


def of_an_epoch(options: Options) -> Row:
    """Measures which share of a ResNet-18 epoch its spectra take, on a GPU.

    Args:
        options: How.

    Returns:
        The row.
    """
    images = 1280 if options.quick else EPOCH_IMAGES
    one = ours.make(options.device, batch_size=128, train_size=images, **ours.RESNET18)
    check_counts(one.learner.pack.networks[0], "ResNet-18")
    times = interleaved(
        {"ours": ours_of(one.learner.pack.networks[0]), "theirs": one.train_epoch},
        options.repetitions(3),
        warmups=options.warmups,
    )
    return Row(
        "spectra of ResNet-18",
        f"training of an epoch of {images:,} images, B 128",
        "s",
        spread(times["ours"]),
        spread(times["theirs"]),
        "share",
        SHARE,
    )


def of_places(options: Options) -> Row:
    """Compares the device that holds a ResNet-18 with the cores of its machine.

    Args:
        options: How.

    Returns:
        The row.
    """
    model = ours.network(options.device, **(ours.SMALL if options.quick else ours.RESNET18))
    torch.set_num_threads(available_cores())
    here = ours_of(model)

    def on_cores() -> None:
        with mock.patch.object(lowrank.measure.spectra, "PLACES", ("cpu",)):
            here()

    times = interleaved(
        {"ours": here, "theirs": on_cores}, options.repetitions(5), warmups=options.warmups
    )
    return faster("spectra of ResNet-18", "on cores of the CPU", times, None)


def ours_of(model: nn.Module, directions: int | None = None) -> Turn:
    """Returns our measurement of all spectra and quantities, distances among them."""
    watcher = Watcher(model, epsilons=EPSILONS, directions=directions)
    watcher.advance()
    return lambda: watcher.measure(0)


def svdvals(matrices: Sequence[WeightMatrix]) -> Turn:
    """Returns a loop of SVDs in the weights' own float32."""
    weights = [matrix.view() for matrix in matrices]

    def loop() -> None:
        for weight in weights:
            torch.linalg.svdvals(weight).cpu()

    return loop


def papers_way(matrices: Sequence[WeightMatrix]) -> Turn:
    """Returns a loop that finds rank and singular values apart, of normalised matrices."""
    weights = [matrix.view() for matrix in matrices]

    def loop() -> None:
        for weight in weights:
            normalised = weight / torch.linalg.matrix_norm(weight)
            torch.linalg.matrix_rank(normalised, atol=EPSILONS[0], rtol=0.0).item()
            torch.linalg.svdvals(normalised).cpu()

    return loop


def weightwatcher(model: nn.Module) -> Turn:
    """Returns WeightWatcher's analysis of the model, with its own defaults.

    Args:
        model: Analysed.

    Returns:
        The turn.

    Raises:
        InputError: If it is not installed.
    """
    logging.disable(logging.WARNING)
    try:
        import weightwatcher as package
    except ImportError:
        raise InputError("weightwatcher is not installed: `make bench` installs it") from None
    watcher = package.WeightWatcher(model=model)

    def analyse() -> None:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            watcher.analyze()

    return analyse


def check_counts(model: nn.Module, name: str, first: int | None = None) -> None:
    """Makes sure that our rank counts are those of a float64 SVD.

    Args:
        model: Measured.
        name: Of the model.
        first: How many matrices are checked; None checks all.

    Raises:
        Failure: If a count differs.
    """
    measured = Watcher(model, epsilons=EPSILONS).measure(0)
    checked = weight_matrices(model)[:first]
    for matrix in checked:
        found = measured.spectra[matrix.name]
        exact = torch.linalg.svdvals(matrix.view().double()).cpu().numpy()
        for epsilon in EPSILONS:
            counts = [int(np.sum(s > epsilon * np.linalg.norm(s))) for s in (found, exact)]
            if counts[0] != counts[1]:
                raise Failure(
                    f"{name}, {matrix.name}: rank {counts[0]} at {epsilon}, not {counts[1]}"
                )
    say(f"{name}: rank counts of {len(checked)} matrices equal those of float64 SVDs")


@torch.no_grad()
def halve_ranks(model: nn.Module) -> None:
    """Leaves each matrix half of its singular values, and of the others the rounding of float32.

    Args:
        model: Changed.
    """
    for matrix in weight_matrices(model):
        view = matrix.view()
        left, values, right = torch.linalg.svd(view, full_matrices=False)
        values[math.ceil(len(values) / 2) :] *= 1e-9
        view.copy_((left * values) @ right)


def _resnet18(quick: bool) -> nn.Module:
    small: dict[str, Any] = {"model": "convnet", "depth": 3, "width": 16}
    return ours.network("cpu", **(small if quick else ours.RESNET18))


def _resnet50(quick: bool) -> nn.Module:
    from torchvision.models import resnet50

    return nn.Sequential(resnet50().layer1) if quick else resnet50()


def _vit(quick: bool) -> nn.Module:
    from torchvision.models import vit_b_16

    model: nn.Module = vit_b_16()
    return model.get_submodule("encoder.layers.encoder_layer_0") if quick else model


def _mlp(quick: bool) -> nn.Module:
    return ours.network("cpu", model="mlp", depth=5, width=200 if quick else 5000)


OTHERS: Sequence[tuple[str, float, Callable[[bool], nn.Module]]] = (
    ("ResNet-50", 3.3, _resnet50),
    ("ViT-B/16", 1.8, _vit),
    ("MLP-BN-5-5000", 1.8, _mlp),
)


if __name__ == "__main__":
    sys.exit(run("spectra", measure, devices=("cpu", "cuda")))
