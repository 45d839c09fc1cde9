"""A configuration of several sources: what was given where, and all that is wrong with it."""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from lowrank.common.errors import InputError, refuse
from lowrank.common.texts import nearest, one_of, printable
from lowrank.config.rules import conflicts, unused
from lowrank.config.settings import (
    FIELDS_ONLY,
    FREE_ON_RESUME,
    RETIRED,
    Config,
    declared,
    defaults,
    without_retired,
)
from lowrank.config.values import is_optional
from lowrank.config.yamltext import read_file, read_mapping


class Given(NamedTuple):
    """A value as it was given, and where: ``--lr``, a file, a variable."""

    value: Any
    where: str = ""


def of_machine(name: str) -> Any:
    """Returns what a field has on this machine where nobody says otherwise.

    Args:
        name: A field.

    Returns:
        Its variable's text (``LOWRANK_OUTPUT_DIR``), else its default.
    """
    return os.environ.get(f"LOWRANK_{name.upper()}") or Config.model_fields[name].default


def allowed(name: str) -> str:
    """Returns in words what a field takes; errors and ``--help`` say the same.

    Args:
        name: A field.

    Returns:
        The words, in ASCII.

    Example:
        >>> allowed("momentum")
        'a finite number of at least 0 and below 1'
    """
    return taken(Config.model_fields[name])


def taken(field: FieldInfo) -> str:
    """Returns in words what a field takes, of whatever model; a flag need not be told of None.

    Args:
        field: Declared as a configuration's, or as one of a command's options.

    Returns:
        The words.
    """
    optional = is_optional(field.annotation)
    kind = get_args(field.annotation)[0] if optional else field.annotation
    extra = field.json_schema_extra
    assert isinstance(extra, dict)
    optional = optional and "metavar" not in extra
    if extra["allowed"]:
        words = str(extra["allowed"])
    elif get_origin(kind) is Literal:
        words = one_of(get_args(kind))
    elif kind is bool:
        words = "True or False"
    else:
        words = "a whole number" if kind is int else "a finite number"
        limits = {
            key: getattr(limit, key)
            for limit in field.metadata
            for key in ("ge", "gt", "le", "lt")
            if hasattr(limit, key)
        }
        if {"ge", "le"} <= limits.keys():
            words += f" from {limits['ge']} to {limits['le']}"
        else:
            said = {"ge": "of at least", "gt": "above", "le": "at most", "lt": "below"}
            words += " " + " and ".join(
                f"{said[key]} {limits[key]}" for key in said if key in limits
            )
    return f"{words}, or None" if optional else words


def combine(
    sources: Sequence[Mapping[str, Given]],
    lines: Iterable[str] = (),
    *,
    settle: Container[str] | None = (),
    notes: list[str] | None = None,
) -> Config:
    """Makes a configuration of several sources, or says all that is wrong with them.

    Values are checked in every source, also where a stronger one overrides
    them: a mistake there is one all the same.

    Args:
        sources: What was given by name, the strongest source first.
        lines: Complaints so far.
        settle: Fields that take their default where they have no effect, as values that a search
            draws do at some of its points; None leaves all of those without effect as they are,
            as of a run that exists. Any other one is a conflict.
        notes: What was settled is added here.

    Returns:
        The configuration.

    Raises:
        InputError: A line for every complaint, unknown name, bad value and conflict.
    """
    lines, bad = list(lines), set[str]()
    merged: dict[str, Given] = {}
    seen = set[tuple[str, str]]()
    for source in sources:
        for name, text in bad_values(source).items():
            bad.add(name)
            said = (name, str(source[name].value))  # `wandb agent` says everything twice
            if said not in seen:
                seen.add(said)
                lines.append(text)
        merged = dict(source) | merged
    fields = Config.model_fields
    good = {n: given.value for n, given in merged.items() if n in fields and n not in bad}
    config, usual = Config.model_validate(good, context=FIELDS_ONLY), defaults()
    idle = list(unused(config, usual))
    while settle and (idle := [each for each in idle if each[0][0] in settle]):
        for (name, _), text in idle:
            del good[name]
            if notes is not None:
                notes.append(f"{text}; {name} is left at {_shown(usual[name])}")
        config = Config.model_validate(good, context=FIELDS_ONLY)
        idle = list(unused(config, usual))
    ignored = {names for names, _ in idle} if settle is None else set()
    for names, text in conflicts(config, usual):
        if bad.isdisjoint(names) and names not in ignored:
            places = [
                f"{name} from {merged[name].where}"
                for name in names
                if name in merged and merged[name].where not in ("", f"--{name}")
            ]
            lines.append(f"{text} ({', '.join(places)})" if places else text)
    refuse(lines)
    return config


def replace(config: Config, **changes: Any) -> Config:
    """Returns a copy with some fields changed, validated as a whole.

    Args:
        config: Stays as it is.
        **changes: New values by field.

    Returns:
        The new configuration.

    Raises:
        InputError: A line for every unknown name, bad value and conflict.

    Example:
        >>> replace(Config(seed=None), seed="7").seed
        7
    """
    return combine([{name: Given(value) for name, value in (dict(config) | changes).items()}])


def bad_values(source: Mapping[str, Given]) -> dict[str, str]:
    """Checks names and values, each for itself: not what they say against each other.

    Args:
        source: What was given by name.

    Returns:
        A line for each name or value that is not allowed, by name.

    Example:
        >>> bad_values({"lr": Given(0), "depth": Given("3")})
        {'lr': 'lr: got 0; allowed: a finite number above 0'}
    """
    known = {name: source[name].value for name in source if name in Config.model_fields}
    stored = without_retired({name: given.value for name, given in source.items()})
    names = [name for name in stored if name not in known]
    try:
        Config.model_validate(known, context=FIELDS_ONLY)
    except ValidationError as error:
        names += [str(e["loc"][0]) for e in error.errors(include_url=False)]
    return {name: _complaint(name, source[name]) for name in names}


_SYNONYMS = {
    "learning_rate": "lr",
    "wd": "weight_decay",
    "l2": "weight_decay",
    "bs": "batch_size",
    "batch": "batch_size",
    "minibatch": "batch_size",
    "num_epochs": "epochs",
    "arch": "model",
    "architecture": "model",
    "network": "model",
    "hidden_size": "width",
    "hidden_dim": "width",
    "num_layers": "depth",
    "criterion": "loss",
    "optim": "optimizer",
    "scheduler": "schedule",
    "epsilon": "epsilons",
    "eps": "epsilons",
    "amp": "precision",
    "gpu": "device",
    "random_seed": "seed",
    "wandb_project": "project",
}
"""What other programs call a setting, where the spelling does not tell."""

_ELSEWHERE = {
    "nesterov": ": Nesterov's momentum is not offered; momentum is",
    "num_workers": ": images are kept in memory; threads is what a CPU takes",
}
"""What other programs offer and this one does not."""


def _complaint(name: str, given: Given) -> str:
    if name in Config.model_fields:
        return complaint(name, given, Config.model_fields[name])
    place = f" from {given.where}" if given.where else ""
    if name in RETIRED:
        return f"unknown name '{name}'{place}: {RETIRED[name][1]}"
    word = name[:60].lower().replace("-", "_")
    if word in _ELSEWHERE:
        known = _ELSEWHERE[word]
    else:
        known = nearest(_SYNONYMS.get(word, word), [*Config.model_fields, "config"])
    return f"unknown name '{printable(name)}'{place}{known}"


def complaint(name: str, given: Given, field: FieldInfo) -> str:
    """Returns the line on a value that a field does not take.

    Args:
        name: The field's.
        given: The value.
        field: As `taken` takes it.
    """
    place = f" from {given.where}" if given.where else ""
    got = f"'{printable(given.value)}'" if isinstance(given.value, str) else _shown(given.value)
    kind = get_args(field.annotation)[0] if is_optional(field.annotation) else field.annotation
    near = nearest(str(given.value)[:60], get_args(kind)) if get_origin(kind) is Literal else ""
    return f"{name}: got {got}{place}; allowed: {taken(field)}{near}"


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return printable(f"[{', '.join(map(str, value))}]")
    return printable(str(value))


def load(path: str | Path) -> Config:
    """Reads a stored ``config.yaml``.

    Args:
        path: The file.

    Returns:
        The configuration, with `run_id` None, `resume` auto, and the default of each field that
        versions before did not store.

    Raises:
        InputError: If the file cannot be read or is not a complete configuration.
    """
    where = printable(str(path), 200)
    values = read_mapping(read_file(path), where)
    stored = (name for name in Config().recorded() if not declared(name)["newer"])
    missing = [name for name in stored if name not in values]
    if missing:
        raise InputError(
            f"{where} is not complete, it lacks {', '.join(missing[:3])}"
            f"{', ...' if len(missing) > 3 else ''}: restore it from a copy, or remove it where a "
            "record lies beside it, which holds it as well"
        )
    return of_stored(values, where)


def of_stored(values: Mapping[str, Any], where: str = "") -> Config:
    """Makes a configuration of values that were valid once, in which some may have no effect.

    Args:
        values: By name.
        where: What they are from.

    Returns:
        The configuration.

    Raises:
        InputError: If this is not a configuration of any version.
    """
    return combine([{name: Given(value, where) for name, value in values.items()}], settle=None)


def differences(stored: Config, requested: Config) -> dict[str, tuple[Any, Any]]:
    """Returns the fields that make a resumed run another one.

    Free to differ are where and how results are tracked, stored and
    checkpointed, and a larger `epochs`, but not with a cosine schedule, whose
    rates depend on it. A requested `seed` or `threads` of None takes the stored one.

    Args:
        stored: The configuration in the run's directory.
        requested: The one asked for now.

    Returns:
        (stored, requested) by field, in the order of the fields; empty if it is the same run.

    Example:
        >>> differences(Config(epochs=20), Config(epochs=30, lr=0.2))
        {'lr': (0.1, 0.2)}
    """
    found = {}
    for name, now in requested:
        before = getattr(stored, name)
        same = (
            name in FREE_ON_RESUME
            or now == before
            or (name in ("seed", "threads") and now is None)
            or (name == "epochs" and now > before and stored.schedule != "cosine")
        )
        if not same:
            found[name] = (before, now)
    return found
