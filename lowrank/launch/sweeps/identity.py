"""What all launchers of a sweep agree on: it is written once and compared ever after."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
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

_IDENTITY, _GROWN = "sweep", "grown"  # attributes of the study
_SETTLING = 1.0  # seconds after which of two launchers that let a sweep grow at once one has won
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
        grown: The definitions that followed, as the sweep grew.
    """

    definition: Mapping[str, Any]
    search_seed: int
    heartbeat: int
    prefix: str
    grown: Sequence[Mapping[str, Any]] = ()

    @property
    def definitions(self) -> list[dict[str, Any]]:
        """What the sweep was and is, the oldest first."""
        return [{**NEWER, **each} for each in (self.definition, *self.grown)]


Contradictions = Callable[[Mapping[str, Any]], Mapping[str, str]]
"""Why an earlier definition cannot grow to the present one, by name; nothing where it can."""


def _all(definition: Mapping[str, Any]) -> dict[str, str]:
    """Returns that a sweep cannot grow, whatever it was."""
    return dict.fromkeys(definition, "")


def begin(
    storage: RDBStorage,
    name: str,
    *,
    direction: Literal["minimize", "maximize"],
    definition: Mapping[str, Any],
    search_seed: int | None,
    heartbeat: int | None,
    contradictions: Contradictions = _all,
) -> tuple[Study, Identity, bool]:
    """Opens the study of a sweep, begins it, or lets it grow.

    Args:
        storage: Where.
        name: Of the sweep.
        direction: Of the metric.
        definition: What decides the points; JSON types.
        search_seed: The seed asked for; None takes the stored one, or draws one.
        heartbeat: Seconds asked for; None takes the stored number, or `HEARTBEAT`.
        contradictions: Says whether a sweep that is another one may grow to this one.

    Returns:
        The study, what it says of the sweep, and whether that has grown by this.

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
        kept = asdict(fresh)
        del kept["grown"]
        study.set_user_attr(_IDENTITY, kept)
    identity = stored_identity(study)
    assert identity is not None
    has_grown = check(identity, name, definition, search_seed, heartbeat, contradictions)
    if has_grown:
        grown = [*identity.grown, definition]
        study.set_user_attr(_GROWN, grown)
        time.sleep(_SETTLING)
        if study.user_attrs[_GROWN] != json.loads(json.dumps(grown)):
            raise InputError(f"sweep {name} was changed elsewhere at this moment; start again")
        identity = replace(identity, grown=grown)
    return study, identity, has_grown


def stored_identity(study: Study) -> Identity | None:
    """Returns what launchers have agreed on.

    Args:
        study: Of the sweep.

    Returns:
        None where no launcher has come so far.
    """
    kept = study.user_attrs
    if _IDENTITY not in kept:
        return None
    return Identity(**kept[_IDENTITY], grown=kept.get(_GROWN, ()))


def check(
    identity: Identity,
    name: str,
    definition: Mapping[str, Any],
    search_seed: int | None,
    heartbeat: int | None,
    contradictions: Contradictions,
) -> bool:
    """Finds out whether a sweep is the stored one.

    Args:
        identity: The stored one.
        name: Of the sweep.
        definition: As for `begin`.
        search_seed: Likewise.
        heartbeat: Likewise.
        contradictions: Likewise.

    Returns:
        Whether it has grown.

    Raises:
        InputError: A line for everything that contradicts.
    """
    before = identity.definitions[-1]
    differing = list(_differences(before, {**NEWER, **definition}))
    lines = []
    earlier = identity.definitions if differing else ()
    if found := {n: why for each in earlier for n, why in contradictions(each).items()}:
        about = [each for each in differing if not found.keys().isdisjoint(each[0].split("."))]
        lines = [f"{place} was {old}, not {new}" for place, old, new in about or differing]
        lines += [f"{field}: {why}" for field, why in found.items() if why]
    for flag, asked, kept in (
        ("search_seed", search_seed, identity.search_seed),
        ("heartbeat", heartbeat, identity.heartbeat),
    ):
        if asked is not None and asked != kept:
            lines.append(f"{flag} was {kept}, not {asked}")
    if lines:
        raise InputError(
            [f"sweep {name} was begun differently: {line}" for line in lines]
            + [
                "a changed sweep needs another name in its file, or another storage; "
                "--missing_from lets runs count that both have"
            ]
        )
    return bool(differing)


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
