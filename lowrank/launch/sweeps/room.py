"""Whether the GPUs of a sweep have room for the workers that share them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from lowrank.common.errors import InputError
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
    shared = {visible: slot for visible, slot in of_gpus.items() if sharing[visible] > 1}
    if not networks:
        return
    children = {
        visible: probes.Child(probes.try_device, slot.environment(), networks)
        for visible, slot in shared.items()
    }
    lines: list[str] = []
    try:
        for visible, slot in shared.items():
            name = slot.name.partition(".")[0]
            try:
                _, found = children[visible].result(SECONDS)
                say(f"{name}: {room_for(sharing[visible], Trial(*found))}")
            except InputError as error:
                lines += [f"{name}: {line}" for line in error.lines]
    finally:
        for child in children.values():
            child.end()
    if lines:
        raise InputError(lines)
