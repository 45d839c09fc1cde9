"""How long a run waits for measuring, recording, logging and checkpointing, beside an epoch's work.

    python -m benchmarks.epoch_cost

Runs of train.py, tracked offline by the real client, whose parts are timed by wrappers. The wait is
all that follows an epoch's evaluation until the next epoch begins; the parts, which are said beside
it, go on while that one trains. Neither depends on the number of images. Beside it stands an epoch
of 50,000 images: its steps, each as long as the median step, and the evaluation of 50,000 images to
train and 10,000 to test, from the images evaluated here. The first epoch warms up; the last, in
which the figures of a run are drawn once, is left out.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from benchmarks import ours
from benchmarks.program import Options, quiet_environment, run
from benchmarks.timing import Row, number, spread
from lowrank.common.errors import Failure
from lowrank.common.terminal import say

TRAIN_IMAGES = 50_000
EVALUATED_IMAGES = 60_000
BATCH_SIZE = 128
TEST_SIZE = 256  # made up; the evaluation is extrapolated


@dataclass(frozen=True)
class Case:
    """One network.

    Attributes:
        name: For people.
        fields: Of its configuration.
        train_size: Images in an epoch here.
        epochs: Of the run; all but the first and the last count.
        target: At most this share.
    """

    name: str
    fields: dict[str, Any]
    train_size: int
    epochs: int
    target: float


CASES = (
    Case("ResNet-18", ours.RESNET18, 3 * BATCH_SIZE, 6, 0.01),
    Case("MLP-BN-10-100", ours.MLP, TRAIN_IMAGES, 12, 0.003),
)


@dataclass
class Times:
    """Seconds by epoch, as the wrappers note them.

    Attributes:
        step: The median optimiser step of each epoch.
        evaluation: Of each epoch, per image.
        parts: Of each epoch's end without the evaluation, by part.
        whole: Of each epoch's end without the evaluation.
    """

    step: list[float] = field(default_factory=list)
    evaluation: list[float] = field(default_factory=list)
    parts: dict[str, list[float]] = field(default_factory=dict)
    whole: list[float] = field(default_factory=list)


def measure(options: Options) -> list[Row]:
    """Measures both networks.

    Args:
        options: How.

    Returns:
        The rows.
    """
    rows = []
    for case in CASES:
        batch_size = 8 if options.quick else BATCH_SIZE
        train_size = 2 * batch_size if options.quick else case.train_size
        epochs = 3 if options.quick else case.epochs
        test_size = batch_size if options.quick else TEST_SIZE
        times = time_run(case.fields, batch_size, train_size, test_size, epochs)
        steps = -(-TRAIN_IMAGES // batch_size)
        counted = slice(1, -1)
        works = [
            steps * step + EVALUATED_IMAGES * evaluation
            for step, evaluation in zip(times.step[counted], times.evaluation[counted], strict=True)
        ]
        parts = ", ".join(
            f"{name} {number(1e3 * statistics.median(of[counted]))} ms"
            for name, of in times.parts.items()
        )
        say(f"{case.name}: {parts}; a step {number(1e3 * statistics.median(times.step))} ms")
        rows.append(
            Row(
                f"wait for measuring and recording of {case.name}, each epoch",
                f"training and evaluation of {TRAIN_IMAGES:,} images, B {batch_size}",
                "s",
                spread(times.whole[counted]),
                spread(works),
                "share",
                case.target,
            )
        )
    return rows


def time_run(
    fields: dict[str, Any], batch_size: int, train_size: int, test_size: int, epochs: int
) -> Times:
    """Runs train.py once with all its parts timed.

    Args:
        fields: Of the network's configuration.
        batch_size: Of the run.
        train_size: Images in an epoch.
        test_size: Images to test.
        epochs: Of the run.

    Returns:
        What the parts took. Epoch 0 is left out.

    Raises:
        Failure: If the run fails.
    """
    import train
    from lowrank.data import synthetic
    from lowrank.measure.watcher import Watcher
    from lowrank.runs import checkpoints
    from lowrank.runs.writer import Record
    from lowrank.tracking.tracker import WandbTracker
    from lowrank.training import trainer
    from lowrank.training.learner import Learner

    spent: dict[str, float] = {}
    parts = ("measure", "record", "log", "checkpoint")
    times = Times(parts={name: [] for name in parts})

    def close_epoch(method: Any, one: Any, indices: Any) -> None:
        spent["evaluate"] = 0.0
        started = time.perf_counter()
        method(one, indices)
        taken = time.perf_counter() - started
        if not one.learner.epochs[0]:
            return
        times.whole.append(taken - spent["evaluate"])
        times.evaluation.append(spent["evaluate"] / (train_size + test_size))

    def write(method: Any, one: Any, epochs: Any) -> None:
        for name in parts:
            spent[name] = 0.0
        method(one, epochs)
        if epochs[0].number:
            for name in parts:
                times.parts[name].append(spent[name])

    def train_epoch(method: Any, learner: Any, proceed: Any, *others: Any) -> None:
        moments = [time.perf_counter()]

        def stepped() -> bool:
            moments.append(time.perf_counter())
            return bool(proceed())

        method(learner, stepped, *others)
        times.step.append(statistics.median(b - a for a, b in itertools.pairwise(moments)))

    with contextlib.ExitStack() as stack:
        place = stack.enter_context(tempfile.TemporaryDirectory())
        stack.enter_context(_quietly())
        for owner, method, name in (
            (Learner, "evaluate", "evaluate"),
            (trainer, "measure_all", "measure"),
            (Watcher, "advance", "measure"),
            (Record, "append", "record"),
            (WandbTracker, "log", "log"),
            (checkpoints, "save", "checkpoint"),
        ):
            stack.enter_context(_timed(owner, method, spent, name))
        stack.enter_context(_wrapped(trainer.Trainer, "_close_epoch", close_epoch))
        stack.enter_context(_wrapped(trainer.Trainer, "_write", write))
        stack.enter_context(_wrapped(Learner, "train_epoch", train_epoch))
        stack.enter_context(mock.patch.object(synthetic, "TEST_SIZE", test_size))
        code = train.main([
            *(f"--{name}={value}" for name, value in fields.items()), "--dataset=synthetic",
            f"--train_size={train_size}", f"--batch_size={batch_size}", f"--epochs={epochs}",
            "--tracking=offline", "--device=cpu", f"--output_dir={place}",
        ])  # fmt: skip
    if code:
        raise Failure(f"train.py ended with {code}")
    return times


@contextlib.contextmanager
def _wrapped(owner: Any, name: str, wrapper: Any) -> Iterator[None]:
    """Calls a wrapper, which gets what it wraps before the arguments, in place of a function."""
    function = getattr(owner, name)

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        return wrapper(function, *arguments, **named)

    with mock.patch.object(owner, name, call):
        yield


@contextlib.contextmanager
def _timed(owner: Any, name: str, spent: dict[str, float], part: str) -> Iterator[None]:
    """Adds up under a part's name what a function takes."""

    def timed(function: Any, *arguments: Any, **named: Any) -> Any:
        started = time.perf_counter()
        result = function(*arguments, **named)
        spent[part] = spent.get(part, 0.0) + time.perf_counter() - started
        return result

    with _wrapped(owner, name, timed):
        yield


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Takes away the caller's settings of W&B and the run's output."""
    with (
        mock.patch.dict(os.environ, quiet_environment(), clear=True),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        yield


if __name__ == "__main__":
    sys.exit(run("epoch_cost", measure))
