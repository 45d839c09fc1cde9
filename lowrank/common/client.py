"""The W&B client, touched for the first time: what its variables say is checked before it fails."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from lowrank.common.errors import InputError, refuse
from lowrank.common.secrets import redact

if TYPE_CHECKING:
    import wandb


def prepare_client(variables: Mapping[str, str] = os.environ) -> None:
    """Loads W&B's client, and lets it print warnings and errors only.

    Args:
        variables: W&B's, which are looked at besides the process's own.

    Raises:
        InputError: A line for each of W&B's variables that it does not take, whether or not a
            server is going to be asked.
    """
    import wandb

    def reason(error: Exception) -> str:
        told = error.errors()[0]["msg"] if hasattr(error, "errors") else str(error)
        return str(told).splitlines()[0]

    lines = []
    settings = wandb.Settings()
    for name, value in sorted({**os.environ, **variables}.items()):
        try:
            settings.update_from_env_vars({name: value})
        except (ValueError, wandb.Error) as error:
            lines.append(f"{redact(f'{name}={value}')}: W&B does not take it ({reason(error)})")
    refuse(lines)
    try:
        # What holds for all runs of a process can only be said before the first.
        wandb.setup(settings=wandb.Settings(show_info=False, quiet=True))
    except (ValueError, wandb.Error) as error:
        raise InputError(f"W&B: {reason(error)}; set it right, or unset it") from error


def client_settings(variables: Mapping[str, str] = os.environ) -> wandb.Settings:
    """Returns what W&B's client is set to for one run of this process.

    Args:
        variables: W&B's variables of that run; they go before those of the process and before the
            client's files.

    Raises:
        InputError: As `prepare_client`.
    """
    import wandb

    prepare_client(variables)
    settings = wandb.setup().settings.model_copy()
    settings.update_from_env_vars(dict(variables))
    return settings
