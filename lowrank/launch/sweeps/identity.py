"""What all launchers of a sweep agree on: it is written once and compared ever after."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from lowrank.common.errors import InputError
from lowrank.common.texts import printable

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import RDBStorage

HEARTBEAT = 20
"""Seconds between signs of life of a running point."""

READY = "ready"
"""Attribute of a study whose points are queued."""

NEWER: Mapping[str, Any] = {"environment": {}}
"""What definitions hold that were not written always."""

_IDENTITY = "sweep"  # attribute of the study
_BEGINNING = 10.0  # seconds without a new point until who began a sweep is taken for dead
_ABSENT = "absent"
_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"


@dataclass(frozen=True)
class Identity:
    """What all launchers of a sweep must agree on; kept in the study.

    Attributes:
        definition: What decides the points, by name.
        search_seed: Of random and Bayesian search.
        heartbeat: Seconds between signs of life.
        prefix: Start of every run id.
    """

    definition: Mapping[str, Any]
    search_seed: int
    heartbeat: int
    prefix: str


def begin(
    storage: RDBStorage,
    name: str,
    *,
    direction: Literal["minimize", "maximize"],
    definition: Mapping[str, Any],
    search_seed: int | None,
    heartbeat: int | None,
) -> tuple[Study, Identity]:
    """Opens the study of a sweep, or begins it.

    Args:
        storage: Where.
        name: Of the sweep.
        direction: Of the metric.
        definition: What decides the points; JSON types.
        search_seed: The seed asked for; None takes the stored one, or draws one.
        heartbeat: Seconds asked for; None takes the stored number, or `HEARTBEAT`.

    Returns:
        The study, and what it says of the sweep.

    Raises:
        InputError: A line for everything in which the stored sweep differs.
    """
    import optuna

    try:
        study = optuna.create_study(storage=storage, study_name=name, direction=direction)
        created = True
    except optuna.exceptions.DuplicatedStudyError:
        study = optuna.load_study(storage=storage, study_name=name)
        created = False
    if not created:
        _await_beginning(study)
    if _IDENTITY not in study.user_attrs:
        fresh = Identity(
            definition=definition,
            search_seed=secrets.randbelow(2**31) if search_seed is None else search_seed,
            heartbeat=heartbeat or HEARTBEAT,
            prefix="".join(secrets.choice(_ALPHABET) for _ in range(6)),
        )
        study.set_user_attr(_IDENTITY, asdict(fresh))
    identity = Identity(**study.user_attrs[_IDENTITY])
    lines = [
        f"{place} was {before}, not {now}"
        for place, before, now in _differences(
            {**NEWER, **identity.definition}, {**NEWER, **definition}
        )
    ]
    for flag, asked, kept in (
        ("search_seed", search_seed, identity.search_seed),
        ("heartbeat", heartbeat, identity.heartbeat),
    ):
        if asked is not None and asked != kept:
            lines.append(f"{flag} was {kept}, not {asked}")
    if lines:
        raise InputError(
            [f"sweep {name} was begun differently: {line}" for line in lines]
            + ["a changed sweep needs another name in its file, or another storage"]
        )
    return study, identity


def _await_beginning(study: Study) -> None:
    """Waits until the launcher that began the study has queued its points, or is given up."""
    seen, deadline = -1, 0.0
    while READY not in study.user_attrs:
        found = len(study.get_trials(deepcopy=False))
        if found != seen:
            seen, deadline = found, time.monotonic() + _BEGINNING
        elif time.monotonic() > deadline:
            return
        time.sleep(0.1)


def _differences(
    before: Mapping[str, Any], now: Mapping[str, Any], place: str = ""
) -> Iterator[tuple[str, str, str]]:
    """Yields what differs, as place, old and new value."""
    for name in dict.fromkeys([*before, *now]):
        where = f"{place}.{name}" if place else name
        old, new = before.get(name, _ABSENT), now.get(name, _ABSENT)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, where)
        elif json.loads(json.dumps(new)) != old:
            yield where, printable(str(old)), printable(str(new))
