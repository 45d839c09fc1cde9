"""``lowrank agent``: its flags, the preflight and the launcher."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lowrank.common.errors import InputError
from lowrank.common.texts import printable
from lowrank.config.flags import read_flags
from lowrank.config.sources import of_machine
from lowrank.config.values import read_value
from lowrank.launch.processes import GRACE

_FLAGS = {
    "gpus": "auto, all, none, or numbers such as 0,1",
    "per_gpu": "1 or more",
    "count": "1 or more",
    "output_dir": "a directory",
    "max_failures": "1 or more",
    "stagger": "seconds, 0 or more",
}
_PATH = re.compile(r"([^/\s]+/){0,2}[^/\s]+")
_EXAMPLE = "lowrank agent ENTITY/PROJECT/SWEEP"


@dataclass(frozen=True)
class Options:
    """What the command line asks for.

    Attributes:
        sweep: ENTITY/PROJECT/SWEEP, PROJECT/SWEEP or SWEEP.
        gpus: As `lowrank.launch.slots.find_slots` takes it.
        per_gpu: Slots on each GPU.
        count: Points to take in all; None for as many as there are.
        output_dir: Of the runs; None leaves it to configuration.
        max_failures: Failures in a row that stop a slot.
        stagger: Seconds between the starts of two agents.
    """

    sweep: str
    gpus: str = "auto"
    per_gpu: int = 1
    count: int | None = None
    output_dir: str | None = None
    max_failures: int = 3
    stagger: float = 5.0


def parse(arguments: Sequence[str]) -> Options:
    """Reads the command line of ``lowrank agent``.

    Args:
        arguments: The words after the subcommand.

    Returns:
        The options.

    Raises:
        InputError: With a line for each thing that is wrong.

    Example:
        >>> options = parse(["me/lowrank/ab12cd34", "--gpus=0,1", "--count=4"])
        >>> options.sweep, options.gpus, options.count, options.stagger
        ('me/lowrank/ab12cd34', '0,1', 4, 5.0)
    """
    lines: list[str] = []
    paths, given = read_flags(arguments, _FLAGS, (), lines)
    if not paths:
        lines.append(f"which sweep? for example: {_EXAMPLE}")
    elif len(paths) > 1:
        lines.append(f"one sweep at a time, not {', '.join(printable(path) for path in paths)}")
    elif not _PATH.fullmatch(paths[0]):
        lines.append(f"got '{printable(paths[0])}'; allowed: ENTITY/PROJECT/SWEEP or its end")
    numbers = {
        name: _number(name, text, lines)
        for name, text in given.items()
        if name not in ("gpus", "output_dir")
    }
    if lines:
        raise InputError(lines)
    texts = {name: given[name] for name in ("gpus", "output_dir") if name in given}
    return Options(paths[0], **texts, **numbers)  # type: ignore[arg-type]


def _number(name: str, text: str, lines: list[str]) -> float:
    kind, least = (float, 0.0) if name == "stagger" else (int, 1)
    try:
        value = read_value(kind, text)
        if isinstance(value, (int, float)) and least <= value < float("inf"):
            return value
    except ValueError:
        pass
    lines.append(f"{name}: got '{printable(text)}'; allowed: {_FLAGS[name]}")
    return least


def _grace() -> float:
    """Returns the seconds that a training has to checkpoint after a signal.

    Raises:
        InputError: If W&B's variable for it is no number.
    """
    text = os.environ.get("WANDB_AGENT_KILL_DELAY") or str(GRACE)
    try:
        return max(0.0, float(text))
    except ValueError:
        raise InputError(
            f"WANDB_AGENT_KILL_DELAY: got '{printable(text)}'; allowed: seconds"
        ) from None


def run(options: Options) -> int:
    """Checks this machine, then runs agents until the sweep is exhausted.

    Args:
        options: What is asked for.

    Returns:
        The exit code.
    """
    # Loaded only now: a mistake on the command line is answered at once.
    from lowrank.common.signals import Interruption
    from lowrank.launch.agents.launcher import Launcher, Plan
    from lowrank.launch.agents.points import logs_of
    from lowrank.launch.agents.preflight import EXHAUSTED, preflight
    from lowrank.launch.agents.status import Status
    from lowrank.launch.slots import find_slots

    grace = _grace()
    slots = find_slots(options.gpus, options.per_gpu)
    environment = {"LOWRANK_OUTPUT_DIR": options.output_dir} if options.output_dir else {}
    output_dir = Path(options.output_dir or of_machine("output_dir")).expanduser()
    with Status() as status, Interruption():
        sweep = preflight(options.sweep, slots, output_dir, status.line)
        status.line(f"slots: {', '.join(slot.name for slot in slots)}")
        plan = Plan(
            sweep=sweep.path,
            slots=tuple(slots),
            logs=logs_of(output_dir, sweep.path),
            count=options.count,
            max_failures=options.max_failures,
            stagger=options.stagger,
            environment=environment,
            grace=grace,
            is_over=sweep.state in EXHAUSTED,
        )
        return Launcher(plan, status).run()
