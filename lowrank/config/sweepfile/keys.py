"""What a sweep file says beside its parameters, and W&B's other ways to write these."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lowrank.common.quantities import TABLE
from lowrank.common.texts import nearest, printable
from lowrank.config import Config, Given
from lowrank.config.families import FAMILIES
from lowrank.config.sources import bad_values
from lowrank.config.sweepfile import schema
from lowrank.config.sweepfile.parameters import COUPLED
from lowrank.config.yamltext import read_yaml

PROGRAM = "train.py"
LONGEST_NAME = 128  # characters: the name is the W&B group of its runs

_RECORDED = [entry for entry in TABLE.values() if entry.told == "always"]
METRICS = (
    *("train_loss", "train_accuracy", "test_loss", "test_accuracy", "rank_mean", "rank_mean_all"),
    *(entry.mean for entry in _RECORDED if entry.mean and entry.name != "rank"),
    *("collapsed", "dead", "lr_now", "epoch"),
)
"""What a search may be about: the scalars of W&B's summary, but for those of single layers."""

TIMES = (
    "time/train",
    "time/evaluate",
    "time/spectra",
    "time/truncation",
    "throughput/images_per_second",
)
"""Further scalars: what a machine's speed decides."""

_REFUSED = {
    "controller": "W&B's own controller is not needed, see lowrank sweep",
    "image_uri": "W&B Launch is not used",
    "job": "W&B Launch is not used",
    "metrics": "one metric is minimised or maximised",
    "scheduler": "the search is W&B's or that of lowrank sweep",
}
_BEFORE = re.compile(r"\$\{env\}|/usr/bin/env|\$\{interpreter\}|python[0-9.]*")


def plain(raw: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Brings W&B's other ways to say the same to the one that is read here.

    A ``command`` that starts the program with flags says no more than parameters of one value;
    ``parameters`` within `config` are those beside it; and ``./train.py`` is ``train.py``.

    Args:
        raw: The file as YAML reads it.

    Returns:
        The file without these, and a line for each of them that means something else.
    """
    file, lines = dict(raw), list[str]()
    if isinstance(program := file.get("program"), str):
        file["program"] = posixpath.normpath(program)
    parameters = dict(entries) if isinstance(entries := file.get("parameters"), dict) else {}
    added: dict[str, Any] = {}
    coupled = parameters.get(COUPLED)
    if isinstance(coupled, dict) and isinstance(inner := coupled.get("parameters"), dict):
        del parameters[COUPLED]
        added |= inner
    if "command" in file:
        command = file.pop("command")
        added |= {name: {"value": value} for name, value in _flags(command, lines).items()}
    lines += [
        f"{printable(str(name))}: given twice, in the parameters and in {COUPLED} or the command; "
        "allowed: once"
        for name in added
        if name in parameters
    ]
    if added:
        file["parameters"] = parameters | added
    return file, lines


def _flags(command: Any, lines: list[str]) -> dict[str, Any]:
    """Returns the settings in a command that starts the program; what else it does is a line."""
    if not isinstance(command, list):
        lines.append(f"command: got {schema.shown(command)}; allowed: a list")
        return {}
    words = [str(word) for word in command]
    found: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.removeprefix("--").partition("=")
        if word.startswith("--") and equals and "${" not in word:
            found[name] = _typed(value)
        elif not (
            _BEFORE.fullmatch(word)
            or word in ("${program}", "${args}")
            or posixpath.normpath(word) == PROGRAM
        ):
            lines.append(
                f"command: got the word '{printable(word)}'; allowed: ${{env}}, python, "
                "${program}, --NAME=VALUE and ${args}"
            )
    if "${args}" not in words:
        lines.append("command: lacks ${args}, so that every run would be the same")
    return found


def _typed(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    try:
        return read_yaml(text, typed=True)
    except ValueError:
        return text


def problems(raw: Mapping[str, Any], name: str) -> Iterator[str]:
    """Yields what is wrong outside the parameters: for W&B, and for this project.

    Args:
        raw: The file, brought to one form.
        name: Of the sweep.

    Yields:
        A line for each.
    """
    yield from _of_head(raw)
    if "program" not in raw:
        yield f"the file: lacks 'program'; allowed: {PROGRAM}"
    elif raw["program"] != PROGRAM:
        yield f"program: got {schema.shown(raw['program'])}; allowed: {PROGRAM}"
    yield from _of_values(raw, name)


def problems_of_any(raw: Mapping[str, Any], name: str) -> Iterator[str]:
    """Yields what is wrong outside the parameters, whatever program below this folder it runs.

    Args:
        raw: A sweep file, or what a server makes of one.
        name: Of the sweep.

    Yields:
        A line for each.
    """
    yield from _of_head(raw)
    yield from _of_values(raw, name)


def _of_head(raw: Mapping[str, Any]) -> Iterator[str]:
    yield from schema.of_file(raw)
    if raw.get("method") == "custom":
        yield "method: got 'custom'; allowed: grid, random or bayes"


def _of_values(raw: Mapping[str, Any], name: str) -> Iterator[str]:
    for key, reason in _REFUSED.items():
        if key in raw:
            yield f"{key} is not read: {reason}; leave it out"
    if not 0 < len(name) <= LONGEST_NAME:
        yield f"name: got {len(name)} characters; allowed: 1 to {LONGEST_NAME}"
    elif bad_values({"group": Given(name)}):
        yield f"name: got '{printable(name)}'; allowed: a text of one line"
    for key in ("project", "entity"):
        if isinstance(raw.get(key), str):
            yield from bad_values({key: Given(raw[key])}).values()
    yield from metric_problem(raw)


def metric_problem(raw: Mapping[str, Any]) -> Iterator[str]:
    """Yields a line if no run logs what the search is about: it would be blind.

    Args:
        raw: A sweep file, or what a server makes of one.

    Yields:
        At most one line.

    Example:
        >>> list(metric_problem({"metric": {"name": "val_acc"}}))
        ["metric.name: got 'val_acc', which train.py does not log; allowed: train_loss, \
train_accuracy, test_loss, test_accuracy, rank_mean, rank_mean_all, stable_rank_mean, \
effective_rank_mean, collapsed, dead, lr_now, epoch, or one of a layer such as rank/linear1"]
    """
    metric = raw.get("metric")
    name = metric.get("name") if isinstance(metric, Mapping) else None
    if not isinstance(name, str) or name in METRICS + TIMES:
        return
    head, slash, layer = name.partition("/")
    quantity, at, threshold = head.partition("@")
    asked = _in_every(raw, "quantities", str)
    if (counts := _values(raw, "directions")) and all(counts):
        asked |= {entry.name for entry in TABLE.values() if entry.told == "with directions"}
    of_layers = {entry.name for entry in _RECORDED}
    means = {"rank_mean", *(f"{each}_mean" for each in asked)}
    known = quantity in ({*of_layers, *asked} if slash else means) and bool(layer) == bool(slash)
    known |= quantity == "rank_mean" and layer in _parts(raw)
    further = _in_every(raw, "epsilons", "{:g}".format, first=1)
    if known and (not at or (quantity[:4] == "rank" and threshold in further)):
        return
    yield (
        f"metric.name: got '{printable(name)}', which {PROGRAM} does not log; allowed: "
        f"{', '.join(METRICS)}, or one of a layer such as rank/linear1{nearest(name[:60], METRICS)}"
    )


def _in_every(
    raw: Mapping[str, Any], field: str, name: Callable[[Any], str], first: int = 0
) -> set[str]:
    """Returns what every run of a sweep has in a field that is a list, from a place on, by name."""
    lists = [
        {name(each) for each in value[first:]} if isinstance(value, list | tuple) else set[str]()
        for value in _values(raw, field)
    ]
    return set.intersection(*lists) if lists else set()


def _parts(raw: Mapping[str, Any]) -> set[str]:
    """Returns the parts of the network that every run of a sweep has."""
    models = map(str, _values(raw, "model"))
    lists = [{*FAMILIES[model].parts} if model in FAMILIES else set[str]() for model in models]
    return set.intersection(*lists) if lists else set()


def _values(raw: Mapping[str, Any], field: str) -> list[Any]:
    """Returns the values that a field has by its own parameter, else the usual one."""
    parameters = raw.get("parameters")
    entry = parameters.get(field) if isinstance(parameters, Mapping) else None
    if isinstance(entry, Mapping):
        values = entry.get("values", [entry.get("value")])
        return values if isinstance(values, list) else []
    return [Config.model_fields[field].default]
