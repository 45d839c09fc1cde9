"""Whether the GPUs of a sweep have room for the workers that share them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from lowrank.common.errors import InputError, refuse
from lowrank.launch.agents import probes
from lowrank.launch.slots import Slot
from lowrank.launch.trial import SECONDS, Trial, room_for


def check_room(
    slots: Sequence[Slot], networks: Sequence[Sequence[str]], say: Callable[[str], None]
) -> None:
    """Takes two training steps on each GPU that several slots share, before they start.

    Args:
        slots: Of the sweep.
        networks: As `lowrank.launch.trial.take_steps` takes them; none: nothing is checked.
        say: Prints a line.

    Raises:
        InputError: If a GPU cannot train, or has no room for its slots.
    """
    of_gpus = {slot.visible: slot for slot in slots if slot.visible is not None}
    sharing = Counter(slot.visible for slot in slots)
    shared = [slot for slot in of_gpus.values() if sharing[slot.visible] > 1]
    if not networks:
        return
    lines: list[str] = []
    with probes.trying(shared, networks) as children:
        for slot, child in children.items():
            name = slot.name.partition(".")[0]
            try:
                _, found = child.result(SECONDS)
                say(f"{name}: {room_for(sharing[slot.visible], Trial(*found))}")
            except InputError as error:
                lines += [f"{name}: {line}" for line in error.lines]
    refuse(lines)
