"""Training images per second, beside the plain loops of the literature's code.

    python -m benchmarks.images

MLP-BN-10-100 beside a DataLoader with two workers over PIL images; ResNet-18 beside a loop over
decoded, normalised float32 images in memory; each baseline in a process of its own, with torch's
settings as they come. Ours is what train.py does in an epoch, with `--compile`, and without where
the table says "not compiled"; compiling is not timed. That all reach the same losses is checked
first.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from benchmarks import ours, plain
from benchmarks.apart import Apart
from benchmarks.program import Options, run
from benchmarks.timing import Row, Turn, faster, interleaved
from lowrank.common.errors import Failure
from lowrank.common.terminal import say
from lowrank.config import Config
from lowrank.data import Dataset
from lowrank.training import steps

LOADER = "DataLoader, 2 workers, PIL → ToTensor → Normalize, plain SGD loop"
DECODED = "plain SGD loop, fp32, images decoded in memory"
TARGETS = {"cpu": {16: 4.0, 128: 4.0}, "cuda": {16: 20.0, 128: 10.0}}
RESNET_GPU = 5.0
RESNET_CPU: tuple[tuple[str, bool, float | None, int], ...] = (
    ("fp32", True, 1.3, 11),
    ("fp32", False, None, 5),
    ("bf16", False, 2.5, 5),
)
"""Precision, whether compiled, target, and repetitions of one step."""
CHECKED_BATCH = 16
NOT_REPEATED = 20.0
"""Seconds: what takes longer, as bf16 does on processors without it, is measured once."""

TOLERANCE = 1e-4
"""Largest relative difference of losses from the plain loop's."""


def measure(options: Options) -> Iterator[Row]:
    """Measures every row.

    Args:
        options: How.

    Yields:
        The rows.
    """
    for batch_size in (16, 128):
        yield from of_mlp(options, batch_size)
    if options.device == "cuda":
        yield of_resnet18_on_gpu(options)
    else:
        yield from of_resnet18(options)


def of_mlp(options: Options, batch_size: int) -> list[Row]:
    """Measures MLP-BN-10-100.

    Args:
        options: How.
        batch_size: Of both.

    Returns:
        The rows: compiled, beside a loop of one thread as well, and not compiled.
    """
    images = 640 if options.quick else 10_240
    model = ours.SMALL if options.quick else ours.MLP
    turns: dict[str, Turn] = {}
    for name, compiled in (("compiled", True), ("not compiled", False)):
        check_losses(options, batch_size, 2 * batch_size, compiled=compiled, **model)
        one = _make(options, batch_size, images, compile=compiled, **model)
        turns[name] = one.train_epoch
    data = options.data_dir, images, batch_size, options.device
    with (
        Apart(_loader_turn, model, *data) as usual,
        Apart(_loader_turn, model, *data, 1) as single,
    ):
        times = interleaved(
            turns | {"usual": usual, "one thread": single},
            options.repetitions(5),
            warmups=options.warmups,
        )
    target = TARGETS[options.device][batch_size]
    what = f"training of MLP-BN-10-100, B {batch_size}, fp32"
    return [
        faster(
            f"{what}{addition}",
            baseline,
            {"ours": times[found], "theirs": times[theirs]},
            demanded,
            work=images,
            unit="images/s",
        )
        for found, addition, theirs, baseline, demanded in (
            ("compiled", "", "usual", LOADER, target),
            ("compiled", "", "one thread", f"{LOADER}, one thread", target),
            ("not compiled", ", not compiled", "one thread", f"{LOADER}, one thread", None),
        )
    ]


def of_resnet18(options: Options) -> list[Row]:
    """Measures ResNet-18 on the CPU, in fp32 and bf16.

    Args:
        options: How.

    Returns:
        The rows.
    """
    batch_size = 2 if options.quick else 128
    checked = min(batch_size, CHECKED_BATCH)
    model = ours.SMALL if options.quick else ours.RESNET18
    rows = []
    for precision, compiled, target, repetitions in RESNET_CPU:
        more: dict[str, Any] = {"precision": precision, "compile": compiled, **model}
        check_losses(options, checked, checked, precision=precision, compiled=compiled, **model)
        one = _make(options, batch_size, batch_size, **more)
        with Apart(_memory_turn, model, options.data_dir, batch_size, batch_size) as theirs:
            turns: dict[str, Turn] = {"ours": one.train_epoch, "theirs": theirs}
            times = interleaved(turns, 1, warmups=0)
            if times["ours"][0] < NOT_REPEATED and not options.quick:  # then it was the warm-up
                times = interleaved(turns, repetitions, warmups=0)
        what = f"training of ResNet-18, B {batch_size}, {precision}"
        what += "" if compiled else ", not compiled"
        rows.append(faster(what, DECODED, times, target, work=batch_size, unit="images/s"))
    return rows


def of_resnet18_on_gpu(options: Options) -> Row:
    """Measures ResNet-18 on a GPU, beside the DataLoader.

    Args:
        options: How.

    Returns:
        The row.
    """
    images = 1280 if options.quick else 12_800
    model = ours.SMALL if options.quick else ours.RESNET18
    check_losses(options, 128, 256, compiled=True, **model)
    one = _make(options, 128, images, compile=True, **model)
    with Apart(_loader_turn, model, options.data_dir, images, 128, options.device) as theirs:
        times = interleaved(
            {"ours": one.train_epoch, "theirs": theirs},
            options.repetitions(5),
            warmups=options.warmups,
        )
    what = "training of ResNet-18, B 128, fp32"
    return faster(what, LOADER, times, RESNET_GPU, work=images, unit="images/s")


def check_losses(
    options: Options,
    batch_size: int,
    images: int,
    *,
    precision: str = "fp32",
    compiled: bool = False,
    **model: Any,
) -> None:
    """Makes sure that ours and the plain loop have the same loss after the same few batches.

    Few, as rounding grows tenfold every few steps until ReLUs of the two switch apart.

    Args:
        options: How.
        batch_size: Of both.
        images: So many to train.
        precision: Of ours. With bf16 the difference is shown, and nothing is demanded of it.
        compiled: Whether ours is.
        **model: Its fields of the configuration.

    Raises:
        Failure: If the losses differ by more than rounding explains.
    """
    epochs = 2
    one = ours.make(
        options.device,
        data_dir=options.data_dir,
        train_size=images,
        batch_size=batch_size,
        lr=0.01,
        precision=precision,
        compile=compiled,
        **model,
    )
    network = _plain_network(one)
    split = one.dataset.train
    prepared = plain.normalised(split, one.dataset.mean, one.dataset.std)
    optimizer = plain.sgd(network, one.config.lr, one.config.weight_decay)
    worst = 0.0
    for epoch in range(1, epochs + 1):
        assert one.config.seed is not None
        steps.seed_epoch(one.config.seed, epoch)  # the order that a run of ours draws
        batches = list(plain.in_memory(prepared, split.labels, batch_size))
        plain.train(network, optimizer, batches, options.device)
        one.train_epoch()
        (found,), _ = one.learner.evaluate(split, lambda: True)
        network.eval()
        with torch.no_grad():
            losses = [
                nn.functional.cross_entropy(network(x), y, reduction="sum") for x, y in batches
            ]
        expected = float(sum(losses)) / len(split)
        worst = max(worst, abs(float(found) - expected) / expected)
    if math.isnan(worst) or (precision == "fp32" and worst >= TOLERANCE):
        raise Failure(f"{model['model']}: losses differ by {worst:.1e} from the plain loop's")
    taken = epochs * len(one.learner.batches)
    name = f"{model['model']}, B {batch_size}, {precision}{', compiled' if compiled else ''}"
    say(f"{name}: losses differ by {worst:.0e} within {taken} steps")


def _make(options: Options, batch_size: int, images: int, **fields: Any) -> ours.Ours:
    return ours.make(
        options.device,
        data_dir=options.data_dir,
        train_size=images,
        batch_size=batch_size,
        **fields,
    )


def _plain_network(one: ours.Ours) -> nn.Module:
    """Returns the same network, with the same weights, built in the plain way."""
    config = one.config
    network = _newly_made(one.dataset, config.model, config.depth, config.width)
    plain.copy_weights(one.learner.pack.networks[0], network)
    return network.to(one.dataset.train.images.device)


def _newly_made(dataset: Dataset, model: str, depth: int = 0, width: int = 0) -> nn.Module:
    """Returns ResNet-18 or an MLP-BN, built in the plain way."""
    shape, classes = dataset.image_shape, dataset.num_classes
    if model == "resnet18":
        return plain.resnet18(shape[0], classes)
    return plain.mlp_bn(depth, width, math.prod(shape), classes)


def _loader_turn(
    model: Mapping[str, Any],
    data_dir: str | None,
    images: int,
    batch_size: int,
    device: str,
    threads: int | None = None,
) -> Turn:
    """Returns an epoch of the plain loop over a DataLoader, with torch's threads or so many."""
    dataset = ours.data(data_dir, images)
    network = _newly_made(dataset, **model).to(device)
    loader = plain.loader(
        plain.Images(dataset.train, dataset.mean, dataset.std), batch_size, device
    )
    optimizer = plain.sgd(network, Config().lr, Config().weight_decay)
    if threads is not None:
        torch.set_num_threads(threads)
    return lambda: plain.train(network, optimizer, loader, device)


def _memory_turn(
    model: Mapping[str, Any], data_dir: str | None, images: int, batch_size: int
) -> Turn:
    """Returns an epoch of the plain loop over images in memory."""
    dataset = ours.data(data_dir, images)
    prepared = plain.normalised(dataset.train, dataset.mean, dataset.std)
    network = _newly_made(dataset, **model)
    optimizer = plain.sgd(network, Config().lr, Config().weight_decay)

    def epoch() -> None:
        batches = plain.in_memory(prepared, dataset.train.labels, batch_size)
        plain.train(network, optimizer, batches, "cpu")

    return epoch


if __name__ == "__main__":
    sys.exit(run("images", measure, devices=("cpu", "cuda")))
