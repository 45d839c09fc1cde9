"""Whether training on a GPU works, in at most eight minutes, the most doubtful first.

    python -m benchmarks.gpu                       # on the card; also `make gpu-check`
    python -m benchmarks.gpu --device=cpu --quick  # only whether the checks run

A check that fails is told, and the next one goes on; what no time is left for is skipped, and told.
The speed is `python -m benchmarks --device=cuda`'s to measure.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.program import ROOT, check_device, describe_place, quiet_environment
from lowrank.common.program import exit_code_of
from lowrank.common.terminal import aligned, say

SECONDS = 480.0
"""For everything."""

FAMILIES: tuple[dict[str, Any], ...] = (
    {"model": "mlp"},
    {"model": "resmlp"},
    {"model": "convnet"},
    {"model": "vit", "vit_depth": 2},
    {"model": "vgg11", "dropout": 0.1},
    {"model": "resnet18"},
)
MODES: dict[str, dict[str, Any]] = {
    "compiled": {"compile": True},
    "deterministic": {"deterministic": True},
    "bf16": {"precision": "bf16"},
    "tf32": {"precision": "tf32"},
    "eager": {},
}
SHAPES = ((100, 100), (64, 576), (512, 1152), (10, 512))

Check = Callable[[], str]
"""Returns what was found; raises if it is wrong."""


@dataclass(frozen=True)
class Result:
    """How a check went.

    Attributes:
        name: Of the check.
        verdict: ``ok``, ``FAILED`` or ``skipped``.
        text: What was found.
        seconds: That it took.
    """

    name: str
    verdict: str
    text: str
    seconds: float


def go_through(checks: dict[str, Check], seconds: float) -> list[Result]:
    """Makes one check after the other, whatever becomes of those before.

    Args:
        checks: By name.
        seconds: Later than that after the start none is begun.

    Returns:
        How each went.
    """
    started, results = time.monotonic(), []
    for name, check in checks.items():
        began = time.monotonic()
        verdict, text = "skipped", "no time is left"
        if began - started < seconds:
            try:
                verdict, text = "ok", check()
            except Exception as error:  # whatever it is, the others are to be seen
                told = str(error).strip().splitlines()
                verdict, text = "FAILED", f"{type(error).__name__}: {told[0] if told else ''}"
        results.append(Result(name, verdict, text, time.monotonic() - began))
        say(f"{verdict:7} {name}: {text}")
    return results


def all_checks(device: str, *, quick: bool) -> dict[str, Check]:
    """Lists what is checked.

    Args:
        device: ``cuda`` or ``cpu``.
        quick: The smallest network only, and no compiling.

    Returns:
        The checks, the most doubtful first.
    """
    checks: dict[str, Check] = {
        "killed within an epoch, goes on bitwise": partial(goes_on, device),
        "spectra are those of numpy's SVD": partial(spectra_are_right, device),
        "a pack learns as its runs alone": partial(pack_is_right, device),
    }
    for mode, fields in MODES.items():
        if quick and mode in ("compiled", "tf32"):
            continue
        for family in FAMILIES[:1] if quick else FAMILIES:
            name = f"{family['model']}, {mode}"
            checks[name] = partial(trains, device, {**family, **fields})
    return checks


def trains(device: str, fields: dict[str, Any]) -> str:
    """Trains an epoch.

    Args:
        device: Where.
        fields: Of the configuration.

    Returns:
        Loss and images per second.

    Raises:
        AssertionError: If the loss is no number.
    """
    from benchmarks import ours

    one = ours.make(device, train_size=256, batch_size=16, lr=0.01, **fields)
    one.train_epoch()
    (loss,), _ = one.learner.evaluate(one.dataset.train, lambda: True)
    if not math.isfinite(loss):
        raise AssertionError(f"the loss is {loss}")
    return f"loss {loss:.3f}, {one.learner.images_per_second:,.0f} images/s"


def spectra_are_right(device: str) -> str:
    """Compares singular values, also of matrices of low rank.

    Args:
        device: Where they are computed.

    Returns:
        The largest error, as a share of what is promised.

    Raises:
        AssertionError: If it is larger, or a count is another.
    """
    import numpy as np
    import torch

    from lowrank.measure.spectra import error_bound, singular_values

    worst, epsilons = 0.0, (1e-3, 1e-2)
    for rows, columns in SHAPES:
        wide = torch.randn(2, rows, columns) / columns**0.5
        wide[1] = wide[1, :, :1] @ wide[1, :1]  # of rank one
        found = singular_values(list(wide.to(device)), epsilons=epsilons)
        for ours, matrix in zip(found, wide.double().numpy(), strict=True):
            true = np.linalg.svd(matrix, compute_uv=False)
            error = abs(ours - true) / error_bound(true, rows, columns)
            worst = max(worst, float(error.max()))
            for epsilon in epsilons:
                counts = [int((s > epsilon * np.linalg.norm(s)).sum()) for s in (ours, true)]
                if counts[0] != counts[1]:
                    raise AssertionError(f"{rows}×{columns}, ε={epsilon}: ranks {counts}")
    if worst > 1:
        raise AssertionError(f"an error is {worst:.1e} times the bound")
    return f"ranks equal, errors at most {worst:.1e} of the bound"


def pack_is_right(device: str) -> str:
    """Compares the losses of a pack after a few steps with those of its runs alone.

    Args:
        device: Where.

    Returns:
        The largest relative difference.

    Raises:
        AssertionError: If it is more than rounding explains.
    """
    from benchmarks import ours

    fields: dict[str, Any] = {
        "train_size": 64,
        "batch_size": 16,
        "lr": 0.01,
        "depth": 2,
        "width": 20,
    }
    together = ours.make(device, members=2, **fields)
    alone = ours.make(device, **fields)
    for one in (together, alone):
        one.train_epoch()
    (first, _), _ = together.learner.evaluate(together.dataset.train, lambda: True)
    (true,), _ = alone.learner.evaluate(alone.dataset.train, lambda: True)
    difference = abs(first - true) / true
    if not difference < 1e-5:
        raise AssertionError(f"losses differ by {difference:.1e}")
    return f"losses differ by {difference:.1e}"


def goes_on(device: str) -> str:
    """Kills a run with ``--deterministic``, goes on, and compares it with one that nobody kills.

    Args:
        device: Where.

    Returns:
        At which epoch it was killed.

    Raises:
        AssertionError: If numbers differ, or a run fails.
    """
    import numpy as np

    from lowrank.runs.find import load_run
    from lowrank.runs.format import RecordError

    folder = Path(tempfile.mkdtemp(prefix="gpu-check-"))
    record = folder / "killed" / "record.sqlite"

    def epochs() -> int:
        try:
            return len(load_run(record).epochs) if record.exists() else 0
        except RecordError:  # just being made
            return 0

    def start(name: str) -> subprocess.Popen[bytes]:
        words = ["--deterministic=true", "--tracking=disabled", f"--output_dir={folder}"]
        words += [f"--device={device}", f"--run_id={name}", "--depth=2", "--width=20", "--epochs=6"]
        log = (folder / f"{name}.log").open("ab")
        return subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *words],
            env=quiet_environment(),
            stdout=log,
            stderr=log,
        )

    try:
        whole, killed = start("whole"), start("killed")
        while killed.poll() is None and epochs() < 2:
            time.sleep(0.02)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        reached = epochs() - 1
        codes = whole.wait(), start("killed").wait()
        if any(codes):
            last = (folder / "killed.log").read_text(errors="replace").strip().splitlines()[-1:]
            raise AssertionError(f"exit codes {codes}: {' '.join(last)}")
        one, other = (load_run(folder / name) for name in ("whole", "killed"))
        for name, values in one.spectra.items():
            if not np.array_equal(values, other.spectra[name], equal_nan=True):
                raise AssertionError(f"the spectra of {name} differ")
        return f"killed after epoch {reached}, every spectrum bitwise equal"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Checks, and says how it went.

    Args:
        argv: The arguments; by default those of the process.

    Returns:
        The exit code: 0; 1 if a check failed; 2 if the device is not there.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="only whether the checks run")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="no check begins later")
    parser.add_argument("--json", type=Path, help="file for the results")
    given = parser.parse_args(argv)

    def work() -> int:
        check_device(given.device)
        checks = all_checks(given.device, quick=given.quick)
        results = go_through(checks, given.seconds)
        rows = [(r.name, r.verdict, f"{r.seconds:.1f} s", r.text) for r in results]
        place = describe_place(given.device)
        print("\n" + "\n".join(aligned(rows, left=range(4))) + f"\n\n{place}", flush=True)
        if given.json is not None:
            found = {"place": place, "checks": [asdict(result) for result in results]}
            given.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
        return int(any(result.verdict == "FAILED" for result in results))

    return exit_code_of("benchmarks.gpu", work)


if __name__ == "__main__":
    sys.exit(main())
