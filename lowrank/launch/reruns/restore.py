"""The configuration of a recorded run, restored to run again here as a new run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from lowrank.common.errors import InputError, refuse
from lowrank.common.files import expanded
from lowrank.common.texts import ID, printable
from lowrank.config import Config, Given, combine, of_stored, replace
from lowrank.config.datasets import DATASETS
from lowrank.config.settings import FREE_ON_RESUME, is_of_train_py, with_role
from lowrank.config.sources import of_machine
from lowrank.runs.comparison import RERUN
from lowrank.runs.find import Run

COMPARABLE = (*FREE_ON_RESUME, *with_role("machine"), "epochs")
"""Fields that may differ where the rerun is compared with the original."""

WITHOUT_FILES = tuple(name for name, source in DATASETS.items() if not source.in_data_dir)
"""Data sets that need no data_dir."""

_DEVICE = re.compile(r"cpu|cuda(:[0-9]{1,3})?")


def restore(
    run: Run, given: Mapping[str, str], *, local: Path | None, check: bool
) -> tuple[Config, list[str]]:
    """Makes the configuration with which a run is repeated.

    It is the recorded one but for what belongs to the machine: ``output_dir`` is where the
    original's directory lies, ``data_dir`` the recorded one where it exists, and ``device`` the one
    that was used. Two tags, ``rerun`` and the original's id, say what the new run repeats.

    Args:
        run: The original.
        given: Fields that are to have another value, as text.
        local: The original's run directory; None where only its record is at hand.
        check: Whether the rerun is to be compared with the original.

    Returns:
        The configuration, and lines on what differs from the recorded one.

    Raises:
        InputError: With a line for everything that keeps the run from being repeated.
    """
    recorded = run.config
    refuse(_problems(run, given))
    flags = {name: Given(value, f"--{name}") for name, value in given.items()}
    stored = {name: Given(value, "the record") for name, value in recorded.items()}
    lines, notes = list[str](), list[str]()
    original = of_stored(recorded, "the record")
    config = combine([flags, stored], settle=stored.keys() - flags.keys(), notes=notes)
    for name in (name for name in given if name in recorded and name not in FREE_ON_RESUME):
        before, now = getattr(original, name), getattr(config, name)
        if now == before:
            continue
        if check and (name not in COMPARABLE or (name == "epochs" and _depends_on_epochs(config))):
            lines.append(
                f"{name}={now}: --check compares with the original, which has {name}={before}; "
                f"leave out --{name} or --check"
            )
        notes.append(f"note: {name}={now} instead of {before}: the numbers may differ")
    changes: dict[str, Any] = {"tags": list(dict.fromkeys((*config.tags, RERUN, run.id)))}
    if "device" not in given and config.device == "auto":
        device = run.environment.get("device")
        changes["device"] = device if _is(_DEVICE, device) else "auto"
    if "output_dir" not in given:
        changes["output_dir"] = output_dir(local)
    if "data_dir" not in given and config.dataset not in WITHOUT_FILES:
        own = of_machine("data_dir")
        if config.data_dir != own and not is_there(config.data_dir):
            notes.append(f"note: data_dir={config.data_dir} is not here, {own} is used")
            changes["data_dir"] = own
        elif config.data_dir != own and "download" not in given:
            notes.append(f"note: data_dir={config.data_dir} as recorded, nothing is downloaded")
            changes["download"] = False
    if config.seed is None or config.threads is None:
        lines.append(f"{run.path}: holds no seed or no threads; give --seed=N --threads=N")
    refuse(lines)
    return replace(config, **changes), notes


def arguments(config: Config, run_id: str) -> list[str]:
    """Returns the words after ``train.py`` that start a new run with exactly this configuration.

    Args:
        config: Complete.
        run_id: Of the new run.

    Returns:
        Words; nothing in the environment outweighs them but a W&B sweep.
    """
    mapping = yaml.safe_dump(
        config.recorded(), default_flow_style=True, sort_keys=False, width=10**9
    )
    return ["--config", mapping.strip(), f"--run_id={run_id}", "--resume=never"]


def output_dir(local: Path | None) -> str:
    """Returns where a rerun goes: beside the original.

    Args:
        local: The original's run directory; None where only its record is at hand.

    Returns:
        The directory, which never is one that a record names.
    """
    if local is not None:
        return str(local.parent)
    return str(of_machine("output_dir"))


def is_there(path: str) -> bool:
    """Returns whether there is a file or directory, whatever a record says its name is.

    Args:
        path: Its name; ~ is the user's home.
    """
    try:
        return expanded(path).exists()
    except (OSError, ValueError, InputError):  # too long, with a null byte, of no user
        return False


def _problems(run: Run, given: Mapping[str, str]) -> list[str]:
    """Returns why a record is not that of a run that this train.py can repeat."""
    recorded, fields = run.config, Config().recorded()
    if not _is(re.compile(ID), run.id) or not is_of_train_py(recorded):
        return [
            f"{run.path}: is not the record of a run of train.py: only the program that made it "
            "can run it again"
        ]
    by = run.environment.get("versions")
    by = by.get("lowrank") if isinstance(by, Mapping) else None
    versions = f"it was recorded by lowrank {printable(str(by))}, this is {version('lowrank')}"
    unknown = [f"'{printable(name)}'" for name in recorded if name not in fields]
    missing = [name for name in fields if name not in recorded and name not in given]
    lines = []
    if unknown:
        lines.append(
            f"{run.path}: its configuration has {', '.join(unknown[:5])}, unknown here: {versions};"
            " rerun it with that version"
        )
    if missing:
        values = " ".join(f"--{name}=VALUE" for name in missing[:5])
        lines.append(
            f"{run.path}: its configuration lacks {', '.join(missing[:5])}: {versions}; rerun it "
            f"with that version, or say what it was: {values}"
        )
    return lines


def _depends_on_epochs(config: Config) -> bool:
    """Returns whether epochs that two runs have in common differ with the number of epochs."""
    return config.schedule == "cosine" or config.measure_every > 1


def _is(pattern: re.Pattern[str], value: Any) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None
