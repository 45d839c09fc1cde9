"""Two training steps of a sweep on a device before it is given a point, and whether more fit there.

What this finds out it finds in a process of its own (`lowrank.launch.agents.probes`), so that a
launcher loads no torch and the memory is that of one training.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lowrank.common.errors import Failure, InputError, out_of_memory
from lowrank.config import Config, replace
from lowrank.config.arguments import parse

STEPS = 2

SECONDS = 600.0
"""How long they may take with all that is loaded for them, on a CPU of large convolutions."""

CONTEXT = 2**29
"""Bytes of a GPU that a process takes beside its tensors: CUDA's own, and its libraries'."""


class Trial(NamedTuple):
    """What two steps came to.

    Attributes:
        what: Which network, in words.
        peak: Bytes of a GPU that its tensors took at most; None on the CPU.
        free: Bytes that were free before, CUDA's own of this process not counted.
    """

    what: str
    peak: int | None
    free: int | None


def take_steps(environment: Mapping[str, str], networks: Sequence[Sequence[str]]) -> Trial:
    """Trains the network that needs most memory for two steps, and evaluates it on a batch.

    Args:
        environment: The slot's.
        networks: Arguments of each network of the sweep; those that contradict themselves are
            passed over, as a sweep does.

    Returns:
        What came of it.

    Raises:
        InputError: If it cannot be trained here.
    """
    os.environ.update(environment)
    variables = {name: v for name, v in os.environ.items() if name.startswith("LOWRANK_")}
    configs, lines = [], list[str]()
    for words in networks:
        try:
            configs.append(parse(words, variables, settle=Config.model_fields))
        except InputError as error:
            lines += error.lines
    if not configs:
        raise InputError(lines)
    from lowrank.training.memory import member_bytes

    try:
        return _take_steps(max(configs, key=member_bytes))
    except Failure as error:
        raise InputError(error.lines) from error


def _take_steps(asked: Config) -> Trial:
    from lowrank.data import load_dataset
    from lowrank.runs.directory import complete
    from lowrank.training import steps
    from lowrank.training.learner import Learner
    from lowrank.training.memory import free_memory, peak_memory, remedy
    from lowrank.training.pack import build

    config = replace(complete(asked), compile=False)  # which takes minutes and saves memory
    device = steps.configure_torch(config)
    free = free_memory(device)
    dataset = load_dataset(**config.data_request, device=device)
    taken = itertools.count(1)
    with out_of_memory(remedy(config, 1)):
        pack = build([config], dataset.image_shape, dataset.num_classes, device)
        learner = Learner([config], dataset, pack)
        steps.check_last_batch(pack.networks[0], dataset, config.batch_size)
        for work in (
            lambda: learner.train_epoch(lambda: next(taken) < STEPS),
            lambda: learner.evaluate(dataset.test, lambda: False),
        ):
            try:
                work()
            except InterruptedError:  # as it is asked to
                continue
    what = f"{STEPS} steps of {config.model} on {config.dataset}, batch size {config.batch_size}"
    peak = peak_memory(device)
    return Trial(what, peak, None if peak is None else free)


def room_for(slots: int, trial: Trial) -> str:
    """Makes sure that a GPU has room for the trainings of all its slots.

    Args:
        slots: On the GPU.
        trial: What one of them took.

    Returns:
        What it took.

    Raises:
        InputError: If there is not.

    Example:
        >>> room_for(2, Trial("2 steps of mlp", 3 * 2**30, 8 * 2**30))
        '2 steps of mlp, with 3.0 of 8.0 GiB; room for 2'
        >>> room_for(3, Trial("2 steps of mlp", 3 * 2**30, 8 * 2**30))
        Traceback (most recent call last):
        lowrank.common.errors.InputError: 2 steps of mlp took 3.0 of 8.0 GiB: there is room for \
2 such trainings, not 3; --per_gpu=2 or less is possible
    """
    what, peak, free = trial
    if peak is None or free is None:
        return what
    most = max(1, (free + CONTEXT) // (peak + CONTEXT))
    sizes = f"{peak / 2**30:.1f} of {free / 2**30:.1f} GiB"
    if slots > most:
        raise InputError(
            f"{what} took {sizes}: there is room for {most} such "
            f"training{'' if most == 1 else 's'}, not {slots}; --per_gpu={most} or less is possible"
        )
    return f"{what}, with {sizes}; room for {most}"
