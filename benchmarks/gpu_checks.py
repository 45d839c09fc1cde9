"""What `benchmarks.gpu` checks, one function for each, which says what it found or raises."""

from __future__ import annotations

import contextlib
import itertools
import math
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.program import ROOT, quiet_environment
from lowrank.launch.slots import find_slots

FAMILIES: tuple[dict[str, Any], ...] = (
    {"model": "mlp"},
    {"model": "resmlp"},
    {"model": "convnet"},
    {"model": "mixed"},
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
SMALL: dict[str, Any] = {"train_size": 64, "batch_size": 16, "depth": 2, "width": 20}
TOO_LARGE: dict[str, dict[str, Any]] = {
    "cuda": {"model": "resnet18", "batch_size": 50_000, "train_size": 50_000},  # 200 GiB or more
    "cpu": {"width": 1_000_000, "image_size": 4},  # 4 TB
}
"""A point that no device has memory for."""

_ADDRESSES = 64 * 2**30  # bytes; else a CPU may promise what it does not have


class NotHereError(Exception):
    """What a check needs is not here."""


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        work: Returns what was found; raises if it is wrong.
        seconds: That it may take.
    """

    work: Callable[[], str]
    seconds: float


def all_checks(device: str, *, quick: bool) -> dict[str, Check]:
    """Lists what is checked.

    Args:
        device: ``cuda`` or ``cpu``.
        quick: The smallest network only, no compiling, and all the time that there is.

    Returns:
        The checks by name, the most doubtful first.
    """
    checks = {
        "killed, goes on, runs again": Check(partial(is_bitwise, device), 120),
        "two workers, memory runs out": Check(partial(survives_memory, device), 90),
        "two agents": Check(partial(agents_share, device), 90),
        "spectra beside numpy's": Check(partial(spectra_are_right, device), 30),
        "rounds beside single steps": Check(partial(rounds_are_right, device, quick), 90),
        "pack beside single runs": Check(partial(pack_is_right, device), 30),
    }
    for mode, fields in MODES.items():
        if quick and mode in ("compiled", "tf32"):
            continue
        for family in FAMILIES[:1] if quick else FAMILIES:
            work = partial(trains, device, {**family, **fields})
            checks[f"{family['model']}, {mode}"] = Check(work, 90 if mode == "compiled" else 20)
    return {n: replace(c, seconds=math.inf) for n, c in checks.items()} if quick else checks


def trains(device: str, fields: Mapping[str, Any]) -> str:
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
    """Compares singular values, also of matrices of low rank, found there and by the CPU's cores.

    Args:
        device: Where the matrices are.

    Returns:
        The largest error, as a share of what is promised.

    Raises:
        AssertionError: If it is larger, or a count is another.
    """
    import numpy as np
    import torch

    from lowrank.measure import spectra

    worst, epsilons = 0.0, (1e-3, 1e-2)
    for places, (rows, columns) in itertools.product((spectra.PLACES, ("cpu",)), SHAPES):
        wide = torch.randn(2, rows, columns) / columns**0.5
        wide[1] = wide[1, :, :1] @ wide[1, :1]  # of rank one
        with mock.patch.object(spectra, "PLACES", places):
            found = spectra.singular_values(list(wide.to(device)), epsilons=epsilons)
        for ours, matrix in zip(found, wide.double().numpy(), strict=True):
            true = np.linalg.svd(matrix, compute_uv=False)
            error = abs(ours - true) / spectra.error_bound(true, rows, columns)
            worst = max(worst, float(error.max()))
            for epsilon in epsilons:
                counts = [int((s > epsilon * np.linalg.norm(s)).sum()) for s in (ours, true)]
                if counts[0] != counts[1]:
                    raise AssertionError(f"{rows}×{columns}, ε={epsilon}: ranks {counts}")
    if worst > 1:
        raise AssertionError(f"an error is {worst:.1e} times the bound")
    return f"ranks equal, errors at most {worst:.1e} of the bound"


def pack_is_right(device: str) -> str:
    """Compares a pack in float64 after two epochs with each of its runs alone.

    Args:
        device: Where.

    Returns:
        The largest relative difference of a tensor.

    Raises:
        AssertionError: If it is more than rounding explains.
    """
    from benchmarks import ours

    worst = 0.0
    fields = {**SMALL, "lr": 0.05, "momentum": 0.5, "train_size": 100}  # a short last batch
    with _in_float64():
        together = ours.make(device, members=3, **fields)
        alone = [
            ours.make(device, **{**fields, "lr": config.lr, "weight_decay": config.weight_decay})
            for config in together.learner.configs
        ]
        for one in (together, *alone):
            one.train_epoch()
            one.train_epoch()
    for network, single in zip(together.learner.pack.networks, alone, strict=True):
        true = single.learner.pack.networks[0].state_dict()
        for name, tensor in network.state_dict().items():
            difference = (tensor - true[name]).double().norm() / true[name].double().norm()
            worst = max(worst, float(difference))
    if not worst < 1e-9:
        raise AssertionError(f"tensors differ by {worst:.1e}")
    return f"float64 tensors differ by {worst:.1e}"


def rounds_are_right(device: str, quick: bool) -> str:
    """Compares epochs and evaluations in recorded rounds with the same step by step, bit for bit.

    Args:
        device: Where; a CPU records nothing.
        quick: Without compiling.

    Returns:
        How many networks are equal.

    Raises:
        AssertionError: If a tensor, a loss or an accuracy differs.
    """
    from benchmarks import ours
    from lowrank.training.rounds import Rounds

    networks = [
        {**SMALL, "momentum": 0.9, "train_size": 1001, "augment": True},
        {**SMALL, "model": "vit", "vit_depth": 1, "dropout": 0.2, "optimizer": "adamw"},
    ]
    for fields in networks[:1] if quick else networks:
        found = []
        for records in (True, False):
            nothing = mock.patch.object(Rounds, "record", lambda _, __, pool=None: pool)
            with contextlib.nullcontext() if records else nothing:
                one = ours.make(device, compile=not quick, lr=0.01, **fields)
            for _ in range(2):
                one.train_epoch()
            means = one.learner.evaluate(one.dataset.train, lambda: True)
            found.append((means, one.learner.pack.state_dict()))
        if found[0][0] != found[1][0]:
            raise AssertionError(f"losses and accuracies are {found[0][0]}, not {found[1][0]}")
        for name, tensor in found[0][1].items():
            if not tensor.equal(found[1][1][name]):
                raise AssertionError(f"{fields.get('model', 'mlp')}: {name} differs")
    return "losses, accuracies and all tensors bitwise equal"


@contextlib.contextmanager
def _in_float64() -> Iterator[None]:
    """Lets learners build and train networks in float64, which no configuration asks for."""
    import torch

    from lowrank.data import Batches

    class Double(Batches):
        def take(self, part: Any) -> Any:
            images, labels = super().take(part)
            return images.double(), labels

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with mock.patch("lowrank.training.learner.Batches", Double):
            yield
    finally:
        torch.set_default_dtype(before)


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
