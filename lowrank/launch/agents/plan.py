"""What a launcher of agents is to do."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lowrank.common.errors import InputError
from lowrank.common.texts import printable
from lowrank.launch.processes import GRACE
from lowrank.launch.slots import Slot


@dataclass(frozen=True)
class Plan:
    """What the launcher is to do.

    Attributes:
        sweep: ENTITY/PROJECT/SWEEP.
        slots: Where.
        logs: Directory of the slots' logs.
        count: Points to take in all; None for as many as there are.
        max_failures: Failures in a row that stop a slot.
        stagger: Seconds between the starts of two agents.
        environment: Further variables of all agents.
        grace: Seconds that a training has to checkpoint after a signal.
        is_over: Whether the server has nothing more to hand out.
        pack: Agents of each slot, whose points are trained in one process.
        program: Which does that; not looked at where ``pack`` is 1.
        swept: What varies over the sweep, by which runs are named.
    """

    sweep: str
    slots: tuple[Slot, ...]
    logs: Path
    count: int | None
    max_failures: int
    stagger: float
    environment: Mapping[str, str]
    grace: float = GRACE
    is_over: bool = False
    pack: int = 1
    program: Path = Path("train.py")
    swept: Sequence[str] = ()

    def environment_of(self, slot: Slot) -> dict[str, str]:
        """Returns all variables of what runs in a slot.

        Args:
            slot: One of the plan's.
        """
        return {**os.environ, **slot.environment(), **self.environment}


def kill_delay() -> float:
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
