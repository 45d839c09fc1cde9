"""Model-steps per second of a pack, beside the same networks one after another.

    python -m benchmarks.packs

A model-step is one optimiser step of one network. Both ways are our own: members that differ in
learning rate and weight decay as one computation, beside runs of one network each by our fastest
path. Both are compiled (`--compile`), or neither where the table says "not compiled"; compiling is
not timed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from benchmarks import ours
from benchmarks.program import Options, run
from benchmarks.timing import Row, interleaved, spread

ROWS: dict[str, tuple[tuple[int, int, bool, float | None], ...]] = {
    "cpu": (
        (8, 16, True, 2.2),
        (24, 16, True, 2.5),
        (8, 16, False, None),
        (8, 128, True, None),
    ),
    "cuda": ((36, 16, True, 15.0), (36, 16, False, 100.0), (36, 128, True, None)),
}
"""Members, batch size, whether compiled, and the speed-up that is wanted."""


def measure(options: Options) -> Iterator[Row]:
    """Measures every row.

    Args:
        options: How.

    Yields:
        The rows.
    """
    for row in ROWS[options.device]:
        yield of_members(options, *row)


def of_members(
    options: Options, count: int, batch_size: int, compiled: bool, target: float | None
) -> Row:
    """Measures at one size.

    Args:
        options: How.
        count: Members of the pack.
        batch_size: Of every network.
        compiled: Whether both are.
        target: The speed-up that is wanted.

    Returns:
        The row.
    """
    device = options.device
    images = 4 * batch_size if options.quick else 64 * batch_size
    model = ours.SMALL if options.quick else ours.MLP
    fields = {"batch_size": batch_size, "train_size": images, "compile": compiled, **model}
    together = ours.make(device, data_dir=options.data_dir, members=count, **fields)
    alone = ours.make(device, data_dir=options.data_dir, **fields)
    # One network stands for those that come after it: each takes the same time.
    times = interleaved(
        {"ours": together.train_epoch, "theirs": alone.train_epoch},
        options.repetitions(7),
        warmups=options.warmups,
    )
    steps = len(alone.learner.batches)
    return Row(
        f"{count} members of MLP-BN-10-100, B {batch_size}{'' if compiled else ', not compiled'}",
        "one after another, our own single path",
        "model-steps/s",
        spread([count * steps / taken for taken in times["ours"]]),
        spread([steps / taken for taken in times["theirs"]]),
        "speedup",
        target,
    )


if __name__ == "__main__":
    sys.exit(run("packs", measure, devices=("cpu", "cuda")))
