"""What can be watched, and how: the refusals of `lowrank.measure.watcher.Watcher`."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from lowrank.common.errors import InputError, refuse
from lowrank.common.texts import nearest
from lowrank.measure.matrices import WeightMatrix
from lowrank.measure.ranks import RANK_NORMS
from lowrank.measure.theory import Theory

_FSDP1 = "torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel"

_OWN = ("layers", "epsilon")
"""What a watcher tells the theory itself."""


def check_options(
    epsilons: Sequence[float], rank_norm: str, directions: int | None, **lists: Any
) -> None:
    """Refuses what a watcher cannot be asked for.

    Args:
        epsilons: Thresholds.
        rank_norm: The norm that they refer to.
        directions: How many leading singular vectors are kept; None for none.
        **lists: Further options, of which each is a list or a mapping.

    Raises:
        InputError: With a line for each.
    """
    options = {"epsilons": epsilons, **lists}
    refuse(
        f"{name}: got {given!r}; allowed: a list"
        for name, given in options.items()
        if not isinstance(given, Iterable)
    )
    lines, thresholds = [], [float(epsilon) for epsilon in epsilons]
    is_count = isinstance(directions, int) and not isinstance(directions, bool) and directions > 0
    if directions is not None and not is_count:
        lines.append(f"directions: got {directions!r}; allowed: a whole number from 1, or None")
    if not thresholds or not all(0 <= epsilon < 1 for epsilon in thresholds):
        told = ", ".join(f"{epsilon:g}" for epsilon in thresholds) or "none"
        lines.append(f"epsilons: got {told}; allowed: one or more numbers from 0 to below 1")
    if rank_norm not in RANK_NORMS:
        allowed = " or ".join(RANK_NORMS)
        near = nearest(str(rank_norm), RANK_NORMS)
        lines.append(f"rank_norm: got {rank_norm!r}; allowed: {allowed}{near}")
    refuse(lines)


def check_real(matrices: Sequence[WeightMatrix]) -> None:
    """Refuses complex matrices, of whose vectors the record could keep a half only.

    Args:
        matrices: Of which directions are asked for.

    Raises:
        InputError: With a line for each.
    """
    refuse(
        f"directions: {matrix.path} is complex; allowed: real matrices"
        for matrix in matrices
        if matrix.view().is_complex()
    )


def check_theory(theory: Mapping[str, Any], model: nn.Module) -> None:
    """Refuses options that there are not, and the batch of one process for that of all.

    Args:
        theory: Options of `lowrank.measure.theory.Theory`.
        model: The module that is watched.

    Raises:
        InputError: With a line for each.
    """
    allowed = [name for name in inspect.signature(Theory).parameters if name not in _OWN]
    lines = [
        f"theory: unknown option {name!r}; allowed: {', '.join(allowed)}{nearest(name, allowed)}"
        for name in theory
        if name not in allowed
    ]
    if isinstance(model, nn.parallel.DistributedDataParallel):
        count = torch.distributed.get_world_size(model.process_group)
        size = theory.get("batch_size", count)
        if size % count:
            lines.append(
                f"theory: batch_size must be that of all {count} processes together, which is a "
                f"multiple of {count}, got {size}"
            )
    refuse(lines)


def check_module(model: Any) -> None:
    """Refuses what is no module, and what hides its parameters from everyone.

    Args:
        model: What is to be watched.

    Raises:
        InputError: With a line that says what was got.
    """
    if isinstance(model, Mapping):
        raise InputError(
            "the model must be a torch.nn.Module, got a state dict or another mapping: load it "
            "into its module, or measure its file with lowrank spectra"
        )
    if not isinstance(model, nn.Module):
        raise InputError(f"the model must be a torch.nn.Module, got {type(model).__name__}")
    kinds = {f"{type(m).__module__}.{type(m).__name__}" for m in model.modules()}
    if _FSDP1 in kinds:
        raise InputError(
            "the parameters of FullyShardedDataParallel (FSDP1) are in flat shards that are no "
            "matrices: use torch.distributed.fsdp.fully_shard (FSDP2), or watch the module "
            "before it is wrapped"
        )
