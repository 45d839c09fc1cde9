"""``lowrank dashboard``: its flags, what it asks W&B, and the workspace that it saves there."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowrank.common.errors import Failure, InputError
from lowrank.common.terminal import say
from lowrank.common.texts import nearest, printable, to_json
from lowrank.config import Config
from lowrank.config.flags import read_flags

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

MOST_RUNS_READ = 500
"""Runs of a project whose configurations are compared to find what is swept."""

_PLACE = re.compile(r"[^/\s]{1,128}/[^/\\#?%:\s]{1,128}")
_SWEEP = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_VALUES = {
    "sweep": "the id of a W&B sweep, a sweep file, or the name of a sweep run without a server",
    "by": "a list of fields such as lr,weight_decay",
    "name": "a text of 1 to 128 characters",
}


@dataclass(frozen=True)
class Options:
    """What the command line asks for.

    Attributes:
        entity: W&B user or team.
        project: W&B project.
        sweep: A sweep's id or name, or a sweep file; None shows the whole project.
        by: The fields to show ranks by; empty: those that are swept.
        name: Of the workspace; None lets it say what it shows.
        dump: Where the specification is written instead of to W&B: a file, or None; ``-`` is
            standard output.
    """

    entity: str
    project: str
    sweep: str | None = None
    by: tuple[str, ...] = ()
    name: str | None = None
    dump: str | None = None


def parse(arguments: Sequence[str]) -> Options:
    """Reads the command line of ``lowrank dashboard``.

    Args:
        arguments: The words after the subcommand.

    Returns:
        The options.

    Raises:
        InputError: With a line for each thing that is wrong.

    Example:
        >>> parse(["me/lowrank", "--by=lr,batch_size", "--dump"]).by
        ('lr', 'batch_size')
    """
    lines: list[str] = []
    places, given = read_flags(arguments, _VALUES, ("dump",), lines)
    if len(places) != 1 or not _PLACE.fullmatch(places[0]):
        got = f"got '{printable(' '.join(places))}'; " if places else ""
        lines.append(f"which project? {got}allowed: ENTITY/PROJECT, such as me/lowrank")
    by = tuple(field.strip() for field in given.get("by", "").split(",") if field.strip())
    for field in by:
        if field not in Config.model_fields:
            near = nearest(field[:60], Config.model_fields)
            lines.append(f"by: unknown field '{printable(field)}'{near}")
    if len(given.get("name", "")) > 128:
        lines.append(f"name: got {len(given['name'])} characters; allowed: {_VALUES['name']}")
    sweep = given.get("sweep")
    if sweep and not _is_file(sweep) and not _SWEEP.fullmatch(sweep):
        lines.append(f"sweep: got '{printable(sweep)}'; allowed: {_VALUES['sweep']}")
    if lines:
        raise InputError(lines)
    entity, project = places[0].split("/")
    dump = "-" if given.get("dump") == "True" else given.get("dump")  # without a value
    return Options(entity, project, sweep, by, given.get("name"), dump)


def run(options: Options) -> int:
    """Builds the workspace and saves it in W&B, or writes its specification.

    Args:
        options: What is asked for.

    Returns:
        The exit code 0.

    Raises:
        InputError: There is no such project or sweep, no API key, or the file cannot be written.
        Failure: W&B does not take the workspace.
    """
    from lowrank.views.dashboard.workspace import build_workspace

    sweep, swept = options.sweep, list(options.by)
    kind = "sweep_id"
    if sweep and _is_file(sweep):
        from lowrank.config.settings import SAME_EXPERIMENT
        from lowrank.config.sweepfile import load_sweep_file

        file = load_sweep_file(sweep)
        sweep, kind = file.name, "local_sweep"
        swept = swept or [field for field in file.swept if field not in SAME_EXPERIMENT]
    elif options.dump is None:
        kind, found = _ask(options)
        swept = swept or found
    shown: dict[str, Any] = {kind: sweep} if sweep else {}
    workspace = build_workspace(options.entity, options.project, swept, name=options.name, **shown)
    if options.dump is not None:
        return _dump(workspace, options.dump)
    replaced, url = _save(workspace)
    panels = sum(len(section.panels) for section in workspace.sections)
    by = f" by {', '.join(swept)}" if swept else ""
    done = "updated" if replaced else "made"
    say(printable(f"{done} the workspace {workspace.name!r}, {panels} panels{by}", None))
    say(printable(url, None))
    return 0


def _is_file(sweep: str) -> bool:
    return sweep.endswith((".yaml", ".yml"))


def _ask(options: Options) -> tuple[str, list[str]]:
    """Asks W&B what is swept.

    Returns:
        The kind of sweep as `build_workspace` names it, and the fields.

    Raises:
        InputError: There is no such project or sweep.
    """
    import wandb

    from lowrank.views.dashboard.swept import swept_by_runs, swept_by_sweep

    api = _api()
    place = f"{options.entity}/{options.project}"
    if options.sweep:
        try:
            parameters = api.sweep(f"{place}/{options.sweep}").config.get("parameters", {})
            return "sweep_id", swept_by_sweep(parameters)
        except (wandb.Error, ValueError):
            pass  # it may be the name of a sweep that was run without a server
    filters = {"group": options.sweep} if options.sweep else {}
    try:
        runs = api.runs(place, filters=filters, per_page=100)
        configurations = [
            dict(run.config) for run, _ in zip(runs, range(MOST_RUNS_READ), strict=False)
        ]
    except (wandb.Error, ValueError) as error:
        raise InputError(f"{place}: W&B shows no such project ({_reason(error)})") from None
    if options.sweep and not configurations:
        raise InputError(
            f"sweep: {place} has no sweep with the id {options.sweep}, and no runs of a sweep of "
            "that name"
        )
    return "local_sweep", swept_by_runs(configurations)


def _api() -> Any:
    """Returns W&B's public API.

    Raises:
        InputError: If no usable API key is configured.
    """
    import wandb

    from lowrank.tracking.account import find_api_key

    try:
        host, is_configured = find_api_key()
    except wandb.Error as error:
        raise InputError(f"W&B: {error}") from error
    if not is_configured:
        raise InputError(
            f"there is no API key for {host}: `wandb login` or WANDB_API_KEY configures one; "
            "--dump writes the specification without any server"
        )
    return wandb.Api()


def _save(workspace: Workspace) -> tuple[bool, str]:
    """Saves the workspace, in the place of an earlier one of the same project and sweep.

    Returns:
        Whether there was one, and the page.

    Raises:
        Failure: W&B does not take it.
    """
    from wandb_workspaces.workspaces.internal import View

    _api()
    place = (workspace.entity, workspace.project, workspace._internal_name)
    try:
        try:
            workspace._internal_id = View.from_name(*place).id
        except ValueError:  # there is none
            replaced = False
        else:
            replaced = True
        workspace.save()
    except Exception as error:  # the client's errors have no base in common
        raise Failure(
            f"W&B does not take the workspace ({_reason(error)}); --dump writes it to a file"
        ) from error
    return replaced, str(workspace.url)


def _dump(workspace: Workspace, file: str) -> int:
    """Writes what W&B would get, as JSON.

    Returns:
        The exit code 0.

    Raises:
        InputError: The file cannot be written.
    """
    view = workspace._to_model()
    specification = {
        "entity": view.entity,
        "project": view.project,
        "name": view.name,
        "displayName": view.display_name,
        "spec": json.loads(view.spec.model_dump_json(by_alias=True, exclude_none=True)),
    }
    text = to_json(specification, indent=2)
    if file == "-":
        print(text)
        return 0
    try:
        Path(file).write_text(f"{text}\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"dump: cannot write {printable(file, 200)} ({error.strerror})") from error
    print(f"wrote {file}")
    return 0


def _reason(error: Exception) -> str:
    return printable((str(error).strip() or type(error).__name__).splitlines()[0], 200)
