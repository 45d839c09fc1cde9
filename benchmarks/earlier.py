"""Training of one small network, beside the compiled path of an earlier commit.

    python -m benchmarks.earlier

The commit before the optimiser's update became part of the compiled step is laid out beside this
one; each trains in a process of its own, in turn. Compiling is not timed.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import ours
from benchmarks.program import ROOT, Options, quiet_environment, run
from benchmarks.timing import Row, Turn, interleaved, spread
from lowrank.common.errors import Failure
from lowrank.common.terminal import say

COMMIT = "73cdffacfb6637ab7694c4893ade7008d725f397"
TARGETS = {16: 1.15, 128: 1.0}

_SERVE = """
import json, sys
from benchmarks import ours
one = ours.make("cpu", **json.loads(sys.argv[1]))
one.train_epoch()
print(flush=True)
for _ in sys.stdin:
    one.train_epoch()
    print(flush=True)
"""


def measure(options: Options) -> list[Row]:
    """Measures both batch sizes.

    Args:
        options: How.

    Returns:
        The rows; none where the history of this clone lacks the commit.
    """
    with tempfile.TemporaryDirectory() as place:
        before = Path(place)
        if not lay_out(before):
            say(f"the history of this clone lacks {COMMIT[:9]}: there is nothing to compare with")
            return []
        return [of_batch_size(options, size, before) for size in TARGETS]


def of_batch_size(options: Options, batch_size: int, before: Path) -> Row:
    """Measures at one batch size.

    Args:
        options: How.
        batch_size: Of the network.
        before: Where the earlier commit lies.

    Returns:
        The row.
    """
    images = (4 if options.quick else 64) * batch_size
    model = ours.SMALL if options.quick else ours.MLP
    fields = {"batch_size": batch_size, "train_size": images, "compile": True, **model}
    if options.data_dir is not None:
        fields["data_dir"] = options.data_dir
    with trainer_in(ROOT, fields) as now, trainer_in(before, fields) as then:
        times = interleaved({"ours": now, "theirs": then}, options.repetitions(15))
    steps = images // batch_size
    return Row(
        f"MLP-BN-10-100 alone, B {batch_size}, compiled with its update",
        f"our compiled path at {COMMIT[:9]}",
        "steps/s",
        spread([steps / taken for taken in times["ours"]]),
        spread([steps / taken for taken in times["theirs"]]),
        "speedup",
        TARGETS[batch_size],
    )


def lay_out(place: Path) -> bool:
    """Writes the files of the earlier commit.

    Args:
        place: An empty directory.

    Returns:
        Whether the commit is there.
    """
    archive = subprocess.run(
        ["git", "-C", str(ROOT), "archive", COMMIT], capture_output=True, check=False
    )
    if archive.returncode:
        return False
    subprocess.run(["tar", "-x", "-C", str(place)], input=archive.stdout, check=True)
    return True


@contextlib.contextmanager
def trainer_in(checkout: Path, fields: dict[str, Any]) -> Iterator[Turn]:
    """Starts a process that trains with the code of a checkout.

    Args:
        checkout: Its top.
        fields: Of the configuration.

    Yields:
        What trains an epoch there and returns when it is done.

    Raises:
        Failure: If the process ends.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVE, json.dumps(fields)],
        cwd=checkout,
        env={**quiet_environment(), "PYTHONPATH": str(checkout)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    requests, answers = process.stdin, process.stdout

    def wait() -> None:
        if not answers.readline():
            raise Failure(f"training with the code in {checkout} ended")

    def train() -> None:
        requests.write("\n")
        requests.flush()
        wait()

    try:
        wait()
        yield train
    finally:
        requests.close()
        process.wait()
        answers.close()


if __name__ == "__main__":
    sys.exit(run("earlier", measure))
