"""What `benchmarks.gpu` checks, one function for each, which says what it found or raises."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from unittest import mock

from benchmarks.gpu_programs import SMALL, agents_share, is_bitwise, survives_memory

FAMILIES: tuple[dict[str, Any], ...] = (
    {"model": "mlp"},
    {"model": "resmlp"},
    {"model": "convnet"},
    {"model": "mixed"},
    {"model": "vit", "vit_depth": 2},
    {"model": "gpt", "gpt_depth": 2, "dataset": "pydoc"},
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
        {"model": "vit", "vit_depth": 1, "dropout": 0.2, "optimizer": "adamw", "train_size": 64},
        {"model": "gpt", "gpt_depth": 1, "dataset": "pydoc", "train_size": 1001},
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
