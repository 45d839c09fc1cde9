"""Model-steps per second of replicas, beside the same networks one after another.

    python -m benchmarks.replicas

A model-step is one optimiser step of one network. Both ways are our own: `replicas=8` (64 on a
GPU) beside runs of one network each. Both are compiled (`--compile`), or neither where the table
says "not compiled"; compiling is not timed.
"""

from __future__ import annotations

import sys

from benchmarks import ours
from benchmarks.program import Options, run
from benchmarks.timing import Row, interleaved, spread

COUNT = {"cpu": 8, "cuda": 64}
TARGETS: dict[str, dict[int, float | None]] = {
    "cpu": {16: 2.0, 128: None},
    "cuda": {16: 20.0, 128: None},
}


def measure(options: Options) -> list[Row]:
    """Measures every row.

    Args:
        options: How.

    Returns:
        The rows.
    """
    return [
        of_batch_size(options, size, compiled)
        for size in TARGETS[options.device]
        for compiled in (True, False)
    ]


def of_batch_size(options: Options, batch_size: int, compiled: bool) -> Row:
    """Measures at one batch size.

    Args:
        options: How.
        batch_size: Of every network.
        compiled: Whether both are.

    Returns:
        The row.
    """
    count, device = COUNT[options.device], options.device
    images = 4 * batch_size if options.quick else 64 * batch_size
    model = ours.SMALL if options.quick else ours.MLP
    fields = {"batch_size": batch_size, "train_size": images, "compile": compiled, **model}
    together = ours.make(device, data_dir=options.data_dir, replicas=count, **fields)
    alone = ours.make(device, data_dir=options.data_dir, **fields)
    # One network stands for those that come after it: each takes the same time.
    times = interleaved(
        {"ours": together.train_epoch, "theirs": alone.train_epoch},
        options.repetitions(7),
        warmups=options.warmups,
    )
    steps = len(alone.learner.batches)
    return Row(
        f"{count} replicas of MLP-BN-10-100, B {batch_size}{'' if compiled else ', not compiled'}",
        "one after another, our own single path",
        "model-steps/s",
        spread([count * steps / taken for taken in times["ours"]]),
        spread([steps / taken for taken in times["theirs"]]),
        "speedup",
        TARGETS[device][batch_size] if compiled else None,
    )


if __name__ == "__main__":
    sys.exit(run("replicas", measure, devices=("cpu", "cuda")))
