"""A run that was a member of a pack: the whole pack, or why it trains alone now."""

from __future__ import annotations

import re
from pathlib import Path

from lowrank.common.texts import ID, printable
from lowrank.runs.environment import trained_together
from lowrank.runs.find import Run, load_run
from lowrank.runs.format import RECORD_NAME, RecordError

_ALONE = "it trains alone now, where sums are rounded in another order, which grows while it trains"


def whole_pack(run: Run, local: Path | None, *, check: bool) -> tuple[list[Run], list[str]]:
    """Returns the runs that have to train together for the same bits.

    Args:
        run: One of them.
        local: Its run directory, beside which the others are; None where only its record is here.
        check: Whether bits matter.

    Returns:
        The runs in their order, or this one alone; and lines on that.
    """
    together = [trained_together(each["environment"], run.id) for each in run.sessions]
    ids = together[-1] if together else [run.id]
    if all(each == [run.id] for each in together):
        return [run], []
    trained = f"note: {printable(run.id)} trained in a pack of {max(map(len, together))}"
    if not check:
        return [run], [f"{trained}; --check trains the whole pack; {_ALONE}"]
    found = _members(run, ids, local)
    if isinstance(found, str):
        return [run], [f"{trained}; {found}; {_ALONE}"]
    return found, []


def _members(run: Run, ids: list[str], local: Path | None) -> list[Run] | str:
    """Returns all members; where one does not make it possible to repeat them, why not."""
    if local is None:
        return "its directory, beside which the others are, is not here"
    members = []
    for member_id in ids:
        place = local.parent / member_id
        if not re.fullmatch(ID, member_id) or not (place / RECORD_NAME).is_file():
            return f"its member {printable(member_id, 80)} is not beside it"
        try:
            member = run if member_id == run.id else load_run(place)
            packs = [trained_together(each["environment"], member_id) for each in member.sessions]
        except RecordError as error:
            return str(error)
        if any(each != ids for each in packs):
            return f"{member_id} did not train with these from its beginning to its end"
        members.append(member)
    return members
