"""Peak memory of a ResNet-18 run, beside the plain loop.

    python -m benchmarks.memory

Each is a process of its own; its peak is the resident set's (Linux). Ours is a whole run by
train.py: tracked, recorded, evaluated, measured, with checkpoint and figures. The plain loop has
model, optimiser, the same images as uint8 and the activations of its steps. Once whole processes
are compared, interpreter and libraries included, and once what each adds to its own imports.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from benchmarks.program import ROOT, Options, quiet_environment, run
from benchmarks.resident import resident
from benchmarks.timing import Row, spread
from lowrank.common.errors import Failure

if TYPE_CHECKING:
    from torch import Tensor

    from lowrank.data import Split

TARGET = 1.1
IMPORTS = ("torch", "torchvision", "wandb", "lowrank.tracking.tracker", "lowrank.training.trainer")
"""What a run of ours imports before its first step."""
EPOCHS = 1


def measure(options: Options) -> list[Row]:
    """Measures both rows.

    Args:
        options: How.

    Returns:
        The rows.
    """
    batch_size = 4 if options.quick else 128
    images = 2 * batch_size
    found: dict[str, list[tuple[float, float]]] = {"train_ours": [], "train_plainly": []}
    for _ in range(options.repetitions(3)):
        for name, of_one in found.items():
            of_one.append(_in_process(name, batch_size, images))
    baseline = "plain loop: model, optimiser, data, activations"
    what = f"peak memory of a ResNet-18 run, B {batch_size}, fp32"
    return [
        Row(
            text,
            baseline,
            "MiB",
            spread([numbers[place] for numbers in found["train_ours"]]),
            spread([numbers[place] for numbers in found["train_plainly"]]),
            "share",
            target,
        )
        for place, text, target in ((0, what, TARGET), (1, f"{what}, beyond its imports", None))
    ]


def train_ours(batch_size: int, images: int) -> None:
    """Trains by train.py in this process, whose peak memory is read afterwards.

    Args:
        batch_size: Images per step.
        images: In an epoch.

    Raises:
        Failure: If the run fails.
    """
    import train
    from lowrank.data import synthetic

    for name in IMPORTS:
        importlib.import_module(name)
    before = resident("VmRSS")
    synthetic.TEST_SIZE = batch_size  # a short evaluation
    with tempfile.TemporaryDirectory() as place:
        code = train.main([
            "--model=resnet18", "--dataset=synthetic", f"--train_size={images}",
            f"--batch_size={batch_size}", f"--epochs={EPOCHS}", "--tracking=offline",
            "--device=cpu", f"--output_dir={place}",
        ])  # fmt: skip
    if code:
        raise Failure(f"train.py ended with {code}")
    _tell(before)


def train_plainly(batch_size: int, images: int) -> None:
    """Trains by the plain loop in this process, whose peak memory is read afterwards.

    Args:
        batch_size: Images per step.
        images: In an epoch.
    """
    from benchmarks import plain
    from lowrank.data import load_dataset

    before = resident("VmRSS")
    dataset = load_dataset("synthetic", train_size=images)
    network = plain.resnet18(3, dataset.num_classes)
    optimizer = plain.sgd(network, 0.1, 5e-4)
    for _ in range(EPOCHS):
        batches = _batches(dataset.train, dataset.mean, dataset.std, batch_size)
        plain.train(network, optimizer, batches, "cpu")
    _tell(before)


def _batches(
    split: Split, mean: Sequence[float], std: Sequence[float], batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields shuffled images of a split, normalised batch by batch, and their labels."""
    import torch

    centre, scale = (torch.tensor(x).view(-1, 1, 1) for x in (mean, std))
    for chosen in torch.randperm(len(split)).split(batch_size):
        yield (split.images[chosen].float() / 255 - centre) / scale, split.labels[chosen]


def _in_process(name: str, batch_size: int, images: int) -> tuple[float, float]:
    """Runs a function of this module in a new process.

    Returns:
        Its peak, and by how much that exceeds its imports, in MiB.

    Raises:
        Failure: If it fails.
    """
    program = f"from benchmarks.memory import {name}; {name}({batch_size}, {images})"
    result = subprocess.run(
        [sys.executable, "-c", program],
        env=quiet_environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        raise Failure(f"{name}: exit code {result.returncode}: {result.stderr[-2000:]}")
    peak, before = json.loads(result.stdout.splitlines()[-1])
    return peak, peak - before


def _tell(before: float) -> None:
    """Prints peak and earlier size of this process for the one that started it."""
    print(f"\n{json.dumps([resident(), before])}", flush=True)


if __name__ == "__main__":
    sys.exit(run("memory", measure))
