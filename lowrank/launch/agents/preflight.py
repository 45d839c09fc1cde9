"""Checks before any agent starts: a machine that cannot train must not take a point of the sweep.

Each check that is passed is a line at once; all that is wrong is told together at the end.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lowrank.common.errors import InputError, refuse
from lowrank.common.texts import nearest, printable
from lowrank.config import Config
from lowrank.config.sources import of_machine
from lowrank.config.sweepfile import COUPLED, schema
from lowrank.config.sweepfile.keys import plain, problems_of_any
from lowrank.config.sweepfile.parameters import read, varied
from lowrank.config.values import read_value
from lowrank.config.yamltext import read_mapping
from lowrank.launch import trial
from lowrank.launch.agents import probes
from lowrank.launch.agents.points import left_over, logs_of
from lowrank.launch.agents.probes import DataSet, Sweep
from lowrank.launch.layers import OF_A_STEP, check_metric, networks_of
from lowrank.launch.programs import is_of_lowrank, trains_packs
from lowrank.launch.slots import Slot
from lowrank.launch.trial import STEPS, Trial, room_for
from lowrank.runs.environment import describe_code

FREE_PER_SLOT = 2**30
"""Bytes that must be free for the runs of one slot: records and checkpoints of a large network."""

SECONDS = 120.0
"""How long a check may take; torch's first import from a network disk takes most of that."""

DATA_SECONDS = 6 * 3600.0
"""How long data sets may take to download and decode."""

EXHAUSTED = ("FINISHED", "CRASHED")
"""States of a sweep that hands out nothing more, while runs of it may go on."""

_OVER = (*EXHAUSTED, "CANCELED", "CANCELLED", "STOPPED")
_FIELDS = ("dataset", "data_dir", "download", "image_size")


def preflight(
    path: str,
    slots: Sequence[Slot],
    output_dir: Path,
    say: Callable[[str], None],
    *,
    packed: bool = False,
) -> Sweep:
    """Checks disk, key, sweep, program and data, then trains two steps on each device.

    Args:
        path: Of the sweep, as the user gave it.
        slots: Where agents will run.
        output_dir: Where runs will be written.
        say: Prints a line.
        packed: Whether points are to be trained in packs.

    Returns:
        The sweep.

    Raises:
        InputError: With a line for each thing that is wrong.
    """
    wrong: list[str] = []

    def check(what: str, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            result = function(*arguments)
        except InputError as error:
            told = (f"{what}: ", "key: ", "sweep: ")
            wrong.extend(
                line if line.startswith(told) else f"{what}: {line}" for line in error.lines
            )
            return None
        for text in result if isinstance(result, list) else [result]:
            if isinstance(text, str):
                say(f"ok: {what}: {text}")
        return result

    check("disk", free_disk, output_dir, len(slots))
    check("disk", room_for_points)
    is_own = False
    sweep: Sweep | None = check(
        "W&B", lambda: Sweep(*probes.in_child(SECONDS, probes.ask_wandb, path))
    )
    if sweep is not None:
        say(f"ok: key: of {sweep.user}")
        check("sweep", state, sweep, left_over(logs_of(output_dir, sweep.path)))
        check("program", program, sweep.config, packed)
        is_own = check("program", takes_own_settings, sweep.config)
        if is_own:
            say(f"not checked: metric, data and steps, as {sweep.config['program']} is your own")
        else:
            check("metric", metric, sweep.config)
            wanted = check("data", lambda: data_sets(sweep.config))
            if wanted:
                check("data", probes.in_child, DATA_SECONDS, probes.load_data, wanted)
            elif wanted is not None:
                say("not checked: data, as the sweep's command reads a configuration of its own")
    networks = [] if wrong or is_own or sweep is None else steps_of(sweep.config)
    if not (wrong or is_own or networks):
        say(f"not checked: {STEPS} steps, as what they take is not known before a point is taken")
    devices = {slot.visible: slot for slot in slots}
    with probes.trying(devices.values(), networks) as children:
        for slot, child in children.items():
            name = slot.name.partition(".")[0]
            found = check(name, child.result, trial.SECONDS if networks else SECONDS)
            if found and found[1]:
                sharing = 1 if packed else sum(other.visible == slot.visible for other in slots)
                check(name, room_for, sharing, Trial(*found[1]))
    if wrong or sweep is None:
        raise InputError([*wrong, "nothing was started, and no point of the sweep was taken"])
    return sweep


def free_disk(output_dir: Path, slots: int) -> str:
    """Checks that runs can be written.

    Args:
        output_dir: Made if it is missing.
        slots: How many will write.

    Returns:
        What is free.

    Raises:
        InputError: If it cannot be written to, or too little is free.
    """
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output_dir):
            free = shutil.disk_usage(output_dir).free
    except OSError as error:
        raise InputError(
            f"{output_dir} cannot be written to ({error.strerror}): choose another --output_dir"
        ) from error
    if free < FREE_PER_SLOT * slots:
        raise InputError(
            f"{free / 2**30:.1f} GiB free in {output_dir}, {FREE_PER_SLOT * slots / 2**30:.1f} GiB "
            f"are needed for {slots} {'slot' if slots == 1 else 'slots'}: make room, or choose "
            "another --output_dir"
        )
    return f"{free / 2**30:,.0f} GiB free in {output_dir}"


def room_for_points() -> None:
    """Checks that W&B's agent can write down the points it takes, which it does in ``wandb/`` here.

    Where it cannot, it takes points all the same and trains none.

    Raises:
        InputError: If it cannot.
    """
    directory = Path(os.environ.get("WANDB_DIR") or ".", "wandb")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=directory).close()
    except OSError as error:
        raise InputError(
            f"{directory} cannot be written to ({error.strerror}), where W&B's agent notes the "
            "points it takes: start it in another directory, or set WANDB_DIR"
        ) from error


def state(sweep: Sweep, left: Sequence[str] = ()) -> str:
    """Checks that the sweep has points to give, or some were left here before they were done.

    Args:
        sweep: The sweep.
        left: Runs of those.

    Returns:
        What it is.

    Raises:
        InputError: If it is over.
    """
    if sweep.state in EXHAUSTED and left:
        was = f"{sweep.path} is {sweep.state.lower()}"
        return f"{was}; what was interrupted here goes on: {', '.join(left)}"
    if sweep.state in _OVER:
        waiting = f", and then {', '.join(left)} of this machine go on" if left else ""
        raise InputError(
            f"{sweep.path} is {sweep.state.lower()}: `wandb sweep --resume {sweep.path}` opens it "
            f"again{waiting}, `wandb sweep FILE` makes a new one"
        )
    waits = ": agents wait until it is resumed" if sweep.state == "PAUSED" else ""
    return f"{sweep.path}, {sweep.config.get('method')}, {sweep.state.lower()}{waits}"


def program(config: Mapping[str, Any], packed: bool = False) -> str:
    """Checks that what the sweep runs is here and knows the sweep's parameters.

    Args:
        config: The sweep file.
        packed: Whether it is to train packs.

    Returns:
        What is run.

    Raises:
        InputError: With a line for each thing that is wrong.
    """
    command = [str(word) for word in config.get("command") or ["${program}"]]
    name = config.get("program")
    if not name:
        if packed or "${program}" in command:
            raise InputError("the sweep names no program; its file needs `program: train.py`")
        return f"{' '.join(command)} (not checked)"
    path = Path(name)
    if not path.is_file():
        raise InputError(
            f"there is no {printable(name, 200)} in {Path.cwd()}: start agents where the sweep's "
            "program lies"
        )
    text = path.read_text(encoding="utf-8", errors="replace")
    if "lowrank" not in text:
        raise InputError(f"{printable(name, 200)} is no training of lowrank: it never imports it")
    if packed and not trains_packs(path):
        raise InputError(
            f"{printable(name, 200)} has no function train(requests), which trains packs: start "
            "agents without --pack"
        )
    if not takes_own_settings(config):
        known = [*Config.model_fields, "config"]
        lines = [
            f"the sweep's parameter '{printable(parameter)}' is no setting of {path.name}"
            f"{nearest(parameter, known)}; every point would fail"
            for parameter in config.get("parameters", {})
            if parameter not in known
        ]
        given = {key: value for key, value in config.items() if value is not None}
        lines += problems_of_any(given, str(given.get("name") or "unnamed"))
        refuse(lines)
    code = describe_code(Path.cwd())
    commit = code["commit"]
    changed = " with uncommitted changes" if code["diff"] else ""
    # Every machine runs its own copy: this line is what to compare.
    return f"{name}, {f'commit {commit[:12]}{changed}' if commit else 'of no git commit'}"


def takes_own_settings(config: Mapping[str, Any]) -> bool:
    """Returns whether what the sweep runs is not train.py, and gives parameters their meaning.

    Args:
        config: The sweep file.
    """
    name = config.get("program")
    return isinstance(name, str) and Path(name).is_file() and not is_of_lowrank(Path(name))


def metric(config: Mapping[str, Any]) -> None:
    """Checks that a layer which the sweep's metric is of is one that a network of it has.

    Args:
        config: The sweep file.

    Raises:
        InputError: If none has it.
    """
    name = (config.get("metric") or {}).get("name")
    if not isinstance(name, str) or "/" not in name:
        return
    of_file, _ = plain(config)
    entries = of_file.get("parameters", {})
    if any(True for field, entry in entries.items() for _ in schema.of_parameter(field, entry)):
        return  # what is wrong with it is told by who trains
    networks = networks_of({field: read(entry) for field, entry in entries.items()}, {})
    probes.in_child(SECONDS, check_metric, name, networks)


def steps_of(config: Mapping[str, Any]) -> list[list[str]]:
    """Returns arguments for the steps that a sweep takes on networks, as far as they are known.

    Args:
        config: The sweep file.

    Returns:
        The arguments; none if another program than train.py reads the parameters, if its command
        reads a configuration that is not known here, or if a search draws what a step computes.
    """
    of_file, unread = plain(config)
    entries = of_file.get("parameters", {})
    if unread or not all(name in Config.model_fields or name == COUPLED for name in entries):
        return []
    parameters = {name: read(entry) for name, entry in entries.items()}
    try:
        return networks_of(parameters, {}, OF_A_STEP)
    except InputError:  # a file, which is the trainings' to find
        return []


def swept_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns what varies over a sweep.

    Args:
        config: The sweep file.

    Returns:
        Fields of train.py in their order, then what another program calls its own.

    Example:
        >>> swept_of({"parameters": {"mine": {"values": [1, 2]}, "seed": {"min": 0, "max": 3}}})
        ('seed', 'mine')
    """
    of_file, _ = plain(config)
    return varied({name: read(entry) for name, entry in of_file["parameters"].items()}, "the sweep")


def data_sets(config: Mapping[str, Any]) -> list[DataSet]:
    """Returns the data sets of all points of a sweep, each once.

    Args:
        config: The sweep file: its parameters, those within ``config`` and the flags of its
            command count, as they do in training.

    Returns:
        The data sets; none if the command reads a configuration that is not known here.

    Raises:
        InputError: If a value cannot be read.
    """
    flags = {}
    for word in map(str, config.get("command") or []):
        flag, equals, value = word.removeprefix("--").partition("=")
        if flag == "config":
            return []
        if equals and flag in _FIELDS:
            flags[flag] = value
    of_file, _ = plain({"parameters": config.get("parameters", {})})
    parameters = of_file["parameters"]
    coupled = [_mapping(value) for value in _values(parameters.get("config", {"value": {}}))]
    axes = [
        [(name, v) for v in _values(parameters[name])] for name in _FIELDS if name in parameters
    ]
    found: dict[DataSet, None] = {}
    for inner, *point in itertools.product(coupled, *axes):
        found[DataSet(*_resolve({**flags, **inner, **dict(point)}))] = None
    return list(found)


def _resolve(given: Mapping[str, Any]) -> Iterator[Any]:
    """Yields the values of the fields that say where data come from.

    Raises:
        InputError: If one cannot be read.
    """
    for name in _FIELDS:
        value = given.get(name, of_machine(name))
        try:
            yield read_value(Config.model_fields[name].annotation, value)
        except ValueError:
            raise InputError(f"{name}: got '{printable(str(value))}' in the sweep") from None


def _mapping(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        return read_mapping(value, "config")
    if not isinstance(value, Mapping):
        raise InputError(
            f"config: got {value} in the sweep; allowed: mappings such as "
            "'{lr: 0.1, weight_decay: 5.0e-4}'"
        )
    return dict(value)


def _values(parameter: Mapping[str, Any]) -> list[Any]:
    return list(parameter["values"]) if "values" in parameter else [parameter.get("value")]
