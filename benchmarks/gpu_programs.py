"""What `benchmarks.gpu` checks of whole programs: killed, short of memory, two agents at once."""

from __future__ import annotations

import contextlib
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.program import ROOT, quiet_environment
from lowrank.launch.slots import find_slots

SMALL: dict[str, Any] = {"train_size": 64, "batch_size": 16, "depth": 2, "width": 20}
TOO_LARGE: dict[str, dict[str, Any]] = {
    "cuda": {"model": "resnet18", "batch_size": 50_000, "train_size": 50_000},  # 200 GiB or more
    "cpu": {"width": 1_000_000, "image_size": 4},  # 4 TB
}
"""A point that no device has memory for."""

_ADDRESSES = 64 * 2**30  # bytes; else a CPU may promise what it does not have


class NotHereError(Exception):
    """What a check needs is not here."""


def is_bitwise(device: str) -> str:
    """Kills a run with ``--deterministic``, goes on, and compares; and runs another again.

    Args:
        device: Where.

    Returns:
        After which epoch it was killed.

    Raises:
        AssertionError: If numbers differ, or a run fails.
    """
    from lowrank.runs.comparison import compare
    from lowrank.runs.find import load_run
    from lowrank.runs.format import RecordError

    with tempfile.TemporaryDirectory(prefix="gpu-check-") as place:
        folder = Path(place)
        record = folder / "killed" / "record.sqlite"

        def epochs() -> int:
            try:
                return len(load_run(record).epochs) if record.exists() else 0
            except RecordError:  # just being made
                return 0

        def start(name: str) -> subprocess.Popen[bytes]:
            fields = {**SMALL, "dataset": "digits", "epochs": 6, "train_size": 1000}
            fields |= {"deterministic": True, "device": device, "run_id": name}
            flags = [f"--{key}={value}" for key, value in fields.items()]
            flags += ["--tracking=disabled", f"--output_dir={folder}"]
            return _start([str(ROOT / "train.py"), *flags], folder / f"{name}.log")

        whole, killed = start("whole"), start("killed")
        while killed.poll() is None and epochs() < 2:
            time.sleep(0.02)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        reached = epochs() - 1
        _succeeds(whole, folder / "whole.log")
        rerun = ["-c", _CLI, "rerun", str(folder / "whole"), "--check", "--tracking=disabled"]
        again = _start(rerun, folder / "again.log")
        _succeeds(start("killed"), folder / "killed.log")
        found = compare(load_run(folder / "whole"), load_run(folder / "killed"), 6)
        if not found.identical:
            raise AssertionError(f"killed after epoch {reached}: {'; '.join(found.lines())}")
        _succeeds(again, folder / "again.log")
        return f"killed after epoch {reached}; resumed and rerun bitwise equal"


def survives_memory(device: str) -> str:
    """Sweeps over points of which one has no room, on two workers of one device.

    Args:
        device: Where.

    Returns:
        How many points finished.

    Raises:
        AssertionError: If another point failed than that one, or that one did not for memory.
    """
    from lowrank import load_sweep

    with tempfile.TemporaryDirectory(prefix="gpu-check-") as place:
        folder = Path(place)
        points = [TOO_LARGE[device], *({"seed": seed} for seed in range(4))]
        file = _write_sweep(folder, points)
        flags = [*_two_of(device), "--max_retries=1", "--pack=off", "--tracking=disabled"]
        flags += [f"--output_dir={folder / 'runs'}"]
        log = folder / "sweep.log"
        with _addresses_limited(device):
            process = _start(["-c", _CLI, "sweep", str(file), *flags], log, folder, device)
            code = process.wait()
        states = [run.state for run in load_sweep(folder / "runs")]
        survived = (code, states.count("finished")) == (1, 4)
        if not (survived and "out of memory" in _text(log)):
            raise AssertionError(f"exit code {code}, {', '.join(states)}: {_last(log)}")
        return "out of memory is told, 4 other points finished"


def agents_share(device: str) -> str:
    """Lets two agents of one device take a point each, after their preflight.

    Args:
        device: Where.

    Returns:
        How many points finished.

    Raises:
        AssertionError: If not all finished.
        NotHereError: If the tests' server is not.
    """
    from benchmarks.sweep import served
    from lowrank import load_sweep

    try:
        import tests.wandb_server  # noqa: F401
    except ImportError as error:
        raise NotHereError(f"{error}, which the server of the tests needs") from None
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as place:
        folder = Path(place)
        file = _write_sweep(folder, [{"seed": 0}, {"seed": 1}])
        log = folder / "agents.log"
        with served(folder, file) as (environment, sweep):
            flags = [*_two_of(device), "--stagger=0", f"--output_dir={folder / 'runs'}"]
            words = ["-c", _CLI, "agent", sweep, *flags]
            code = _start(words, log, folder, device, environment).wait()
        states = [run.state for run in load_sweep(folder / "runs")]
        if (code, states) != (0, ["finished"] * 2):
            raise AssertionError(f"exit code {code}, {', '.join(states)}: {_last(log)}")
        return "2 points finished"


_CLI = "import sys; from lowrank.cli import main; sys.exit(main())"


def _write_sweep(folder: Path, points: Sequence[Mapping[str, Any]]) -> Path:
    """Writes a sweep over small networks, which differ as said, beside a link to train.py.

    Returns:
        Its file.
    """
    import yaml

    (folder / "train.py").symlink_to(ROOT / "train.py")
    common = {**SMALL, "dataset": "synthetic", "epochs": 2}
    parameters: dict[str, Any] = {"config": {"values": [{**common, **point} for point in points]}}
    file = folder / "sweep.yaml"
    sweep = {"program": "train.py", "method": "grid", "parameters": parameters}
    file.write_text(yaml.safe_dump(sweep), encoding="utf-8")
    return file


def _two_of(device: str) -> list[str]:
    """Returns the flags for two slots of one device; see `_start` for which."""
    return ["--gpus=none" if device == "cpu" else "--gpus=all", "--per_gpu=2"]


def _start(
    words: Sequence[str],
    log: Path,
    folder: Path | None = None,
    device: str = "cpu",
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Starts a process of this Python, which on a machine of several GPUs sees the first only.

    Returns:
        The process.
    """
    variables = {**quiet_environment(), **(environment or {})}
    if device == "cuda":
        variables |= find_slots("all")[0].environment()
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, *words], env=variables, cwd=folder, stdout=output, stderr=output
        )


def _succeeds(process: subprocess.Popen[bytes], log: Path) -> None:
    code = process.wait()
    if code:
        raise AssertionError(f"{log.stem}: exit code {code}: {_last(log)}")


def _text(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")


def _last(log: Path) -> str:
    return " ".join(_text(log).strip().splitlines()[-1:])


@contextlib.contextmanager
def _addresses_limited(device: str) -> Iterator[None]:
    """Lets no process that is started on a CPU promise itself memory that nobody has."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    if device == "cpu":
        resource.setrlimit(resource.RLIMIT_AS, (_ADDRESSES, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
