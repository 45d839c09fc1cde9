"""How long train.py takes to its first optimiser step, and to its help and errors.

    python -m benchmarks.startup

Whole processes, from their start, with a warm file cache, in turn with the baseline. train.py runs
on the digits, tracked offline. It is stopped right after the first step by a wrapper around
`Learner.train_epoch`; a second and a third wrapper time the evaluation and the measurement of
epoch 0, which are subtracted. All else of epoch 0 counts: record, checkpoint, W&B's row.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.program import ROOT, Options, quiet_environment, run
from benchmarks.timing import Row, number, spread
from lowrank.common.errors import Failure
from lowrank.common.terminal import say

TARGET = 1.15
ANSWER = 0.5
BASELINE = (
    "import torch, wandb; wandb.init(mode='offline'); torch.optim.SGD([torch.zeros(1)], lr=1)"
)


def measure(options: Options) -> list[Row]:
    """Measures every row.

    Args:
        options: How.

    Returns:
        The rows.
    """
    first: list[float] = []
    spared: list[float] = []
    whole: list[float] = []
    reached: list[float] = []
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        for repetition in range(options.warmups + options.repetitions(7)):
            seconds, without = to_first_step(directory)
            baseline = to_baseline(directory)
            if repetition >= options.warmups:  # the first fills the file cache
                first.append(seconds - without)
                spared.append(without)
                reached.append(baseline[0])
                whole.append(baseline[1])
        answers = {
            "`train.py --help`": ["--help"],
            "`train.py` with an argument error": ["--epoch=3"],
        }
        times: dict[str, list[float]] = {name: [] for name in answers}
        for _ in range(options.repetitions(7)):
            for name, words in answers.items():
                times[name].append(to_answer(words, directory))
    say(f"evaluation and measurement of epoch 0, subtracted: {number(spread(spared).median)} s")
    what = "`train.py` on digits to its first step"
    command = "`import torch, wandb`, offline `wandb.init`, `SGD`"
    return [
        Row(what, f"{command}", "s", spread(first), spread(whole), "share", TARGET),
        Row(
            what, f"{command}, without its end", "s", spread(first), spread(reached), "share", None
        ),
        *(
            Row(name, "", "s", spread(taken), None, "absolute", ANSWER)
            for name, taken in times.items()
        ),
    ]


def to_first_step(directory: Path) -> tuple[float, float]:
    """Runs train.py until its first optimiser step.

    Args:
        directory: Where it runs.

    Returns:
        Seconds from the start of the process, and those of them that epoch 0 was evaluated and
        measured.
    """
    flags = ["--tracking=offline", "--device=cpu"]
    seconds, line, _ = _to_line([sys.executable, "-m", "benchmarks.first_step", *flags], directory)
    return seconds, float(json.loads(line)["spared"])


def to_baseline(directory: Path) -> tuple[float, float]:
    """Runs the baseline.

    Args:
        directory: Where it runs.

    Returns:
        Seconds from its start until its last statement is done, and until the process has ended.
    """
    program = f"{BASELINE}; print('{{}}', flush=True)"
    seconds, _, end = _to_line([sys.executable, "-c", program], directory)
    return seconds, end


def to_answer(words: Sequence[str], directory: Path) -> float:
    """Runs train.py where it answers without training.

    Args:
        words: Its arguments.
        directory: Where it runs.

    Returns:
        Seconds of the whole process.

    Raises:
        Failure: If it does not answer.
    """
    started = time.perf_counter()
    result = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *words],
        env=quiet_environment(),
        cwd=directory,
        capture_output=True,
        check=False,
    )
    taken = time.perf_counter() - started
    if result.returncode != (0 if "--help" in words else 2):
        raise Failure(f"train.py {' '.join(words)}: exit code {result.returncode}")
    return taken


def _to_line(command: Sequence[str], directory: Path) -> tuple[float, str, float]:
    """Runs a program that prints a line of JSON where it is done.

    Returns:
        Seconds until that line, the line, and seconds until the end of the process.

    Raises:
        Failure: If it ends without one.
    """
    log = directory / "log"
    started = time.perf_counter()
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            command,
            env=quiet_environment(),
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                break
        else:
            raise Failure(f"{command[1]} did not get there: {log.read_text()[-2000:]}")
        reached = time.perf_counter() - started
        process.wait()
        return reached, line, time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(run("startup", measure))
