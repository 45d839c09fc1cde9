"""Where W&B's runs go: what its client is set to by its files and variables, and its key."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

from lowrank.common.client import client_settings, prepare_client
from lowrank.common.errors import InputError, refuse
from lowrank.config import replace

if TYPE_CHECKING:
    from lowrank.config import Config

FOLLOWED = {
    "project": "project",
    "entity": "entity",
    "group": "run_group",
    "tags": "run_tags",
    "name": "run_name",
}
"""Fields of the configuration, each with the client's setting that decides if it is not given."""


def follow_client(requested: Config, variables: Mapping[str, str] = os.environ) -> Config:
    """Lets the client's own settings decide what the command line leaves open.

    These are its files (``wandb/settings`` in the working directory, that of the user) and its
    variables, such as ``WANDB_PROJECT``.

    Args:
        requested: What the command line asks for.
        variables: W&B's, of this run.

    Returns:
        The configuration with what they say, so that the record has it as well.

    Raises:
        InputError: If the client does not take its variables, or we do not take what they say.
    """
    if requested.tracking == "disabled":
        return requested
    settings = client_settings(variables)
    found = {
        field: value
        for field, setting in FOLLOWED.items()
        if field not in requested.model_fields_set and (value := getattr(settings, setting))
    }
    return replace(requested, **found) if found else requested


def choose_mode(
    tracking: str, say: Callable[[str], None], variables: Mapping[str, str] = os.environ
) -> Literal["online", "offline", "disabled"]:
    """Decides whether W&B's server is asked.

    Args:
        tracking: The field of the configuration; ``auto`` does as the client is set to, and is
            online where an API key is configured.
        say: Gets a line where that is not so.
        variables: W&B's, of this run.

    Returns:
        The mode.

    Raises:
        InputError: If the run must be online but no usable API key is configured.
    """
    if tracking == "disabled":
        return "disabled"
    import wandb

    mode = client_settings(variables).mode
    if tracking == "offline":
        return "offline"
    if tracking == "auto" and mode in ("offline", "dryrun", "disabled"):
        wanted: Literal["offline", "disabled"] = "disabled" if mode == "disabled" else "offline"
        where = "WANDB_MODE" if variables.get("WANDB_MODE") else f"`wandb {wanted}`"
        say(f"W&B: tracking {wanted}, as {where} says; --tracking=online overrules it")
        return wanted
    try:
        host, is_configured = find_api_key()
    except wandb.Error as error:
        raise InputError(f"W&B: {error}; set it right, or use --tracking=offline") from error
    if is_configured:
        return "online"
    remedy = "`wandb login` or WANDB_API_KEY configures one"
    if tracking == "online" or variables.get("WANDB_SWEEP_ID"):
        why = "tracking=online" if tracking == "online" else "under a W&B agent"
        raise InputError(
            f"{why}, but there is no API key for {host}: {remedy}, --tracking=offline needs none"
        )
    say(f"W&B: tracking offline, as there is no API key for {host}; {remedy}")
    return "offline"


def check_identity(
    run_id: str,
    *,
    project: str,
    entity: str | None,
    online: bool,
    resumed: bool,
    variables: Mapping[str, str] = os.environ,
) -> None:
    """Refuses what W&B is told about this run's identity and the run's directory contradicts.

    Args:
        run_id: The run's id.
        project: On W&B.
        entity: On W&B; None is the account's own.
        online: Whether the server is asked.
        resumed: Whether the directory held the run before.
        variables: W&B's, of this run.

    Raises:
        InputError: If a variable names another run or moment to go on from, or lets W&B go on with
            a run of which the directory knows nothing.
    """
    settings = client_settings(variables)
    lines = [
        f"{name}: a run goes on where its directory ends; unset it. A changed run is started with "
        "--config runs/ID/config.yaml and what is changed"
        for name, value in (
            ("WANDB_RESUME_FROM", settings.resume_from),
            ("WANDB_FORK_FROM", settings.fork_from),
        )
        if value
    ]
    agents = variables.get("WANDB_RUN_ID")
    of_sweep = bool(variables.get("WANDB_SWEEP_ID"))
    if of_sweep and not agents:
        lines.append("WANDB_SWEEP_ID without WANDB_RUN_ID: an agent sets both; unset it")
    elif of_sweep and agents != run_id:
        lines.append(f"run_id={run_id}: the W&B agent calls this run {agents}; omit run_id")
    if settings.resume == "must" and not resumed:
        lines.append(f"WANDB_RESUME=must, but there is no directory of a run {run_id}")
    if settings.resume == "never" and resumed:
        lines.append(f"WANDB_RESUME=never, but the directory of run {run_id} exists")
    asked_for = settings.resume or (agents and not of_sweep)
    if not lines and online and not resumed and asked_for and _has_rows(entity, project, run_id):
        lines.append(
            f"W&B holds epochs of a run {run_id} in project {project}, whose directory is not "
            "here: restore it to go on, or choose another run id (WANDB_RUN_ID, --run_id)"
        )
    refuse(lines)


def _has_rows(entity: str | None, project: str, run_id: str) -> bool:
    import wandb

    try:
        api = wandb.Api(timeout=20)
        run = api.run(f"{entity or api.default_entity}/{project}/{run_id}")
        return next(iter(run.scan_history(page_size=1)), None) is not None
    except Exception:  # there is none, or the server does not answer, as will be told
        return False


def find_api_key() -> tuple[str, bool]:
    """Looks for an API key where wandb does: environment, netrc, settings file. Never prompts.

    Returns:
        W&B's server, and whether a key for it is configured.

    Raises:
        InputError: If the client does not take its variables.
        wandb.Error: If what is configured cannot be a key.
    """
    import wandb
    from wandb.sdk.lib import wbauth

    prepare_client()
    host = wandb.setup().settings.base_url
    key = wbauth.authenticate_session(
        host=host, source="lowrank", prompt=False, update_session=False
    )
    return host, key is not None
