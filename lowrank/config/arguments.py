"""From a command line, configuration files, the environment and a W&B sweep to a `Config`."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from lowrank.common.errors import collected
from lowrank.common.texts import nearest, printable
from lowrank.config.flags import Flag, read_words
from lowrank.config.options import help_entry
from lowrank.config.settings import Config, declared
from lowrank.config.sources import Given, allowed, combine
from lowrank.config.yamltext import read_file, read_mapping

_VARIABLES = {  # W&B's own variables that stand for a field
    "WANDB_PROJECT": "project",
    "WANDB_ENTITY": "entity",
    "WANDB_RUN_GROUP": "group",
    "WANDB_NAME": "name",
    "WANDB_TAGS": "tags",
    "WANDB_RUN_ID": "run_id",
    "WANDB_MODE": "tracking",
}
_MODES = {
    "online": "online",
    "run": "online",
    "offline": "offline",
    "dryrun": "offline",
    "disabled": "disabled",
}
_FIELD_VARIABLES = {f"LOWRANK_{name.upper()}": name for name in Config.model_fields}
_IMAGES_COMMIT = "LOWRANK_COMMIT"  # no setting: the record's environment has it

_HEAD = """\
usage: python train.py [--config FILE_OR_MAPPING]... [--NAME=VALUE ...]
                       [-- the same of another run]...

Trains a network and records the singular values and ranks of its weight
matrices at every epoch, here and in Weights & Biases (W&B).

examples:
  python train.py --epochs=2 --width=32 --device=cpu --tracking=disabled
      a tiny run, a few seconds on a CPU
  python train.py --model=resnet18 --dataset=cifar10 --lr=0.5 \\
      --weight_decay=6e-3 --epochs=500 --milestones=60,100,200
      a point of the paper's grid
  python train.py --config runs/ID/config.yaml --config '{lr: 0.2}' --seed=1
      a recorded run again, with changes
  python train.py --lr=0.1 --width=32 -- --lr=0.2 --width=32
      two runs as one computation: -- begins the arguments of another one

forms:
  --NAME=VALUE or --NAME VALUE, each name once; --NAME alone means True.
  Lists: 60,100,200 or [60, 100, 200]. None, null or nothing: no value.
  --config takes a YAML file or an inline mapping '{lr: 0.1, ...}' and may be
  repeated. --help prints this text.
  -- begins the arguments of another run: runs that differ in lr, schedule,
  weight decay, momentum and seed only train as one computation (a pack).

order of force:
  the values of a W&B sweep, then flags, then --config (the last one first),
  then LOWRANK_<NAME> in the environment (LOWRANK_DATA_DIR=...), then WANDB_
  PROJECT, _ENTITY, _RUN_GROUP, _NAME, _TAGS, _RUN_ID and _MODE, then defaults.
"""
_FOOT = """\
exit codes:
  0 finished or stopped by rule, 1 failure, 2 bad input, 75 requeue,
  130 and 143 by signal
"""


def parse(
    argv: Sequence[str],
    environ: Mapping[str, str] | None = None,
    *,
    settle: Collection[str] = (),
    notes: list[str] | None = None,
) -> Config:
    """Makes the configuration of a run from everything that can say something about it.

    Args:
        argv: The words after the program's name.
        environ: The environment; None is this process's own.
        settle: Fields that take their default where they have no effect. Those of a sweep do so
            anyway: a W&B sweep's own, and all of the command line where ``--sweep`` is in it.
        notes: What was settled is added here.

    Returns:
        The configuration. A `seed` or `threads` of None is still to be resolved.

    Raises:
        InputError: With a line for each thing that is wrong.
        SystemExit: With code 0, after printing the help that ``--help`` or ``-h`` asks for.

    Example:
        >>> config = parse(["--lr=0.2", "--config", "{lr: 0.5, depth: 3}"], environ={})
        >>> config.lr, config.depth
        (0.2, 3)
    """
    if "--help" in argv or "-h" in argv:
        print(help_text(), end="")
        raise SystemExit(0)
    environ = os.environ if environ is None else environ
    lines: list[str] = []
    flags, files = _read_flags(argv, lines)
    variables, of_wandb = _read_environment(environ, lines)
    sweep, coupled = _read_sweep(environ.get("WANDB_SWEEP_PARAM_PATH", ""), lines)
    configs = [_read_config(given, lines) for given in files]
    searched = {*sweep, *coupled, *settle}
    if "sweep" in flags:
        searched.update(flags, *configs)
    sources = [sweep, coupled, flags, *reversed(configs), variables, of_wandb]
    return combine(sources, lines, settle=searched, notes=notes)


def _read_flags(argv: Sequence[str], lines: list[str]) -> tuple[dict[str, Given], list[Given]]:
    """Returns the flags by name, and what was given to ``--config`` in its order."""
    known = {name: Flag.of(field) for name, field in Config.model_fields.items()}
    known["config"] = Flag("a YAML file or mapping", often=True)
    _, pairs = read_words(argv, known, lines, others=False)
    files = [Given(value, "--config") for name, value in pairs if name == "config"]
    # A resumed agent's own --_wandb is no setting (wandb/wandb#4237).
    flags = {n: Given(v, f"--{printable(n)}") for n, v in pairs if n not in ("config", "_wandb")}
    return flags, files


def _read_config(given: Given, lines: list[str]) -> dict[str, Given]:
    """Returns the values of one ``--config``: an inline mapping in braces, else a file."""
    text = given.value.strip()
    if not text:
        lines.append("config: got '' from --config; allowed: a YAML file or mapping")
        return {}
    inline = text.startswith("{")
    where = f"--config {printable(text)}" if inline else printable(text, 200)
    values: dict[str, Any] = {}
    with collected(lines):
        values = read_mapping(text if inline else read_file(text), where)
    return {name: Given(value, where) for name, value in values.items()}


def _read_environment(
    environ: Mapping[str, str], lines: list[str]
) -> tuple[dict[str, Given], dict[str, Given]]:
    """Returns the values of our variables and of W&B's; an empty variable says nothing."""
    ours: dict[str, Given] = {}
    theirs: dict[str, Given] = {}
    for variable, value in environ.items():
        if not value:
            continue
        if variable in _FIELD_VARIABLES:
            ours[_FIELD_VARIABLES[variable]] = Given(value, variable)
        elif variable.startswith("LOWRANK_") and variable != _IMAGES_COMMIT:
            known = nearest(variable[:60], _FIELD_VARIABLES)
            lines.append(f"unknown environment variable {printable(variable)}{known}")
        elif variable == "WANDB_MODE" and value not in _MODES:
            reason = ": one process writes a run" if value == "shared" else ""
            lines.append(
                f"tracking: got '{printable(value)}' from WANDB_MODE{reason}; "
                "allowed: online, offline or disabled"
            )
        elif variable in _VARIABLES:
            name = _VARIABLES[variable]
            theirs[name] = Given(_MODES[value] if name == "tracking" else value, variable)
    return ours, theirs


def _read_sweep(path: str, lines: list[str]) -> tuple[dict[str, Given], dict[str, Given]]:
    """Returns a W&B sweep's values: of its parameters, and of its parameter ``config``.

    The file is the one `wandb agent` writes: ``wandb_version: 1``, then
    ``NAME: {value: VALUE}`` for every parameter.
    """
    if not path:
        return {}, {}
    where, file = "the W&B sweep", f"{printable(path, 200)} (WANDB_SWEEP_PARAM_PATH)"
    direct: dict[str, Given] = {}
    coupled: dict[str, Given] = {}
    found: dict[str, Any] = {}
    with collected(lines):
        found = read_mapping(read_file(path), file)
    for name, entry in found.items():
        if name in ("wandb_version", "_wandb"):
            continue
        if not isinstance(entry, dict) or "value" not in entry:
            lines.append(f"{file}: {printable(name)} must be a mapping that holds 'value'")
        elif name == "config":
            coupled = _read_coupled(entry["value"], f"config of {where}", lines)
        else:
            direct[name] = Given(entry["value"], where)
    for given in (direct, coupled):
        place = given.get("output_dir", Given("")).value
        if isinstance(place, str) and (place[:1] in ("/", "~") or ".." in place.split("/")):
            lines.append(
                f"output_dir: got '{printable(place)}' from {where}; allowed: a folder below this "
                "directory, as a server does not decide where files are written; another one is "
                "given by --output_dir of lowrank agent or LOWRANK_OUTPUT_DIR"
            )
    return direct, coupled


def _read_coupled(value: Any, where: str, lines: list[str]) -> dict[str, Given]:
    if isinstance(value, str):
        text, value = value, {}
        with collected(lines):
            value = read_mapping(text, where)
    if not isinstance(value, dict):
        lines.append(f"{where} must be a mapping such as '{{lr: 0.1, weight_decay: 5e-4}}'")
        return {}
    return {name: Given(inner, where) for name, inner in value.items()}


def help_text() -> str:
    """Returns what ``--help`` prints: every field with meaning, range and default.

    Returns:
        Lines of at most 80 columns.
    """
    parts = [_HEAD]
    group = ""
    for name, field in Config.model_fields.items():
        if declared(name)["group"] != group:
            group = declared(name)["group"]
            parts.append(f"\n{group}:\n")
        default = field.default
        shown = list(default) if isinstance(default, tuple) else default
        parts.append(
            help_entry(
                f"  --{name}", [str(field.description), f"{allowed(name)}; default {shown}"], 22
            )
        )
    return "".join([*parts, "\n", _FOOT])
