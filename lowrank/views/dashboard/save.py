"""A workspace and W&B: what is swept is asked there, and there or in a file it is saved."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import wandb
from wandb_workspaces.workspaces import Workspace
from wandb_workspaces.workspaces.internal import View

from lowrank.common.errors import Failure, InputError, first_line
from lowrank.common.files import writing
from lowrank.common.texts import printable, to_json
from lowrank.tracking.account import find_api_key
from lowrank.views.dashboard.swept import swept_by_runs, swept_by_sweep

MOST_RUNS_READ = 500
"""Runs of a project whose configurations are compared to find what is swept."""


def ask(place: str, sweep: str | None) -> tuple[dict[str, str], list[str]]:
    """Asks W&B what is swept.

    Args:
        place: ENTITY/PROJECT.
        sweep: A sweep's id, or of one that was run without a server the name, or what the ids of
            its runs begin with; None: all runs.

    Returns:
        The sweep as `build_workspace` takes it, and the fields.

    Raises:
        InputError: There is no such project or sweep.
    """
    api = _api()
    if sweep:
        try:
            parameters = api.sweep(f"{place}/{sweep}").config.get("parameters", {})
            return {"sweep_id": sweep}, swept_by_sweep(parameters)
        except (wandb.Error, ValueError):
            pass  # it may be a sweep that was run without a server
    filters: dict[str, Any] = {}
    if sweep:
        runs_of = f"^{re.escape(sweep.removesuffix('-NNNN'))}-[0-9]+$"
        filters = {"$or": [{"config.sweep": sweep}, {"name": {"$regex": runs_of}}]}
    try:
        runs = api.runs(place, filters=filters, per_page=100)
        configurations = [
            dict(run.config) for run, _ in zip(runs, range(MOST_RUNS_READ), strict=False)
        ]
    except (wandb.Error, ValueError) as error:
        raise InputError(f"{place}: W&B shows no such project ({_reason(error)})") from None
    if not sweep:
        return {}, swept_by_runs(configurations)
    names = [own for each in configurations if isinstance(own := each.get("sweep"), str)]
    if not names:
        raise InputError(
            f"sweep: {place} has no sweep with the id {sweep}, and no runs of a sweep of that "
            "name, or whose ids begin so"
        )
    name = sweep if sweep in names else names[0]
    return {"local_sweep": name}, swept_by_runs(
        [each for each in configurations if each.get("sweep") == name]
    )


def _api() -> Any:
    """Returns W&B's public API.

    Raises:
        InputError: If no usable API key is configured.
    """
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


def save(workspace: Workspace) -> tuple[bool, str]:
    """Saves the workspace, in the place of an earlier one of the same project and sweep.

    Args:
        workspace: As it is built.

    Returns:
        Whether there was one, and the page.

    Raises:
        Failure: W&B does not take it.
    """
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


def dump(workspace: Workspace, file: Path | None) -> None:
    """Writes what W&B would get, as JSON.

    Args:
        workspace: As it is built.
        file: Where to; None is the standard output.

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
    if file is None:
        print(text)
        return
    with writing("dump", file):
        file.write_text(f"{text}\n", encoding="utf-8")
    print(f"wrote {file}")


def _reason(error: Exception) -> str:
    return printable(first_line(error), 200)
