"""The W&B client, touched for the first time: what its variables say is checked before it fails."""

from __future__ import annotations

import os

from lowrank.common.errors import InputError
from lowrank.common.secrets import redact


def prepare_client() -> None:
    """Loads W&B's client, and lets it print warnings and errors only.

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
    for name, value in sorted(os.environ.items()):
        try:
            settings.update_from_env_vars({name: value})
        except (ValueError, wandb.Error) as error:
            lines.append(f"{redact(f'{name}={value}')}: W&B does not take it ({reason(error)})")
    if lines:
        raise InputError(lines)
    try:
        # What holds for all runs of a process can only be said before the first.
        wandb.setup(settings=wandb.Settings(show_info=False, quiet=True))
    except (ValueError, wandb.Error) as error:
        raise InputError(f"W&B: {reason(error)}; set it right, or unset it") from error
