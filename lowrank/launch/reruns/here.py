"""A recorded run again, in this process, and compared with the original."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from lowrank.common.errors import InputError
from lowrank.common.files import expanded
from lowrank.common.terminal import say
from lowrank.common.texts import printable
from lowrank.launch.programs import BESIDE_PACKAGE, find_program
from lowrank.launch.reruns.packs import whole_pack
from lowrank.launch.reruns.restore import arguments, restore
from lowrank.runs.comparison import compare
from lowrank.runs.directory import ENDED, new_run_id
from lowrank.runs.find import Run, load_run
from lowrank.runs.format import RECORD_NAME
from lowrank.training.requests import SEPARATOR


def run_here(original: Run, given: Mapping[str, str], *, local: Path | None, check: bool) -> int:
    """Trains in this process, whose differences from the original's are said before.

    Where a member of a pack is to be compared, the whole pack trains again: the last bits of its
    numbers depend on it.

    Args:
        original: The run.
        given: Fields that are to have another value, as text.
        local: Its run directory; None where only its record is at hand.
        check: Whether to compare the new run with it.

    Returns:
        The exit code.

    Raises:
        InputError: If the run cannot be repeated here.
    """
    in_sweep = [n for n in ("WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH") if os.environ.get(n)]
    if in_sweep:
        raise InputError(f"{in_sweep[0]} is set: a sweep's values would outweigh the record's")
    originals, notes = whole_pack(original, local, check=check)
    restored = [restore(each, given, local=local, check=check) for each in originals]
    notes += dict.fromkeys(line for _, lines in restored for line in lines)
    configs = [config for config, _ in restored]
    program = find_program(BESIDE_PACKAGE, Path.cwd(), command="lowrank rerun")
    ids = [(given.get("run_id") if o is original else None) or new_run_id() for o in originals]
    place = originals.index(original)
    config, run_id = configs[place], ids[place]

    # Loaded only now: what is wrong so far is answered before torch is here.
    from lowrank.launch.programs import load_program
    from lowrank.launch.reruns.origin import summary, warnings
    from lowrank.runs.environment import describe_environment
    from lowrank.training.steps import configure_torch

    device = configure_torch(config)
    here = describe_environment(device=device, threads=config.threads, argv=())
    environments = [session["environment"] for session in original.sessions]
    say(f"rerun of {_described(original)}: {original.path}")
    for line in [*summary(environments), *warnings(environments, here), *notes]:
        say(line)
    pairs = list(zip(originals, ids, strict=True))
    if len(pairs) > 1:
        others = ", ".join(f"{o.id} as {new}" for o, new in pairs if o is not original)
        say(f"with its pack: {others}")
    say(f"as run {run_id} in {config.output_dir}, on {device} with threads={config.threads}\n")
    words = [arguments(*each) for each in zip(configs, ids, strict=True)]
    code = load_program(program)([word for each in words for word in (SEPARATOR, *each)][1:])
    if code or not check:
        if code and check:
            say(f"nothing is compared: the rerun ended with exit code {code}")
        return code
    return max(
        _check(o, load_run(expanded(config.output_dir) / new), config.epochs, len(pairs))
        for o, new in pairs
    )


def _check(original: Run, rerun: Run, last_epoch: int, size: int) -> int:
    """Compares the two records and says what was found.

    Returns:
        The exit code 0 if they are bitwise identical, else 1.
    """
    for run in (original, rerun):
        run.preload(run.metrics)
    found = compare(original, rerun, last_epoch)
    last = int(original.epochs[-1])
    of = f"check: {original.id}: " if size > 1 else "check: "
    if original.state not in ENDED:
        say(f"{of}the original is {original.state}, its epochs up to {last} are compared")
    elif last_epoch < last:
        say(f"{of}epochs up to {last_epoch} of the original's {last} are compared")
    for line in found.lines():
        say(f"{of}{line}")
    return 0 if found.identical else 1


def run_directory(path: str, run: Run) -> Path | None:
    """Returns the run directory that a path stands for.

    Args:
        path: As given to `load_run`.
        run: What it loaded.

    Returns:
        The directory; None for a record elsewhere, such as a copy or one from W&B.
    """
    place = Path(path)
    if place.is_dir():
        return place.resolve()
    directory = place.resolve().parent
    is_home = place.is_file() and place.name == RECORD_NAME and directory.name == run.id
    return directory if is_home else None


def _described(run: Run) -> str:
    epochs = f"{len(run.epochs)} epoch{'' if len(run.epochs) == 1 else 's'}"
    return f"{printable(str(run.id), 80)} ({run.state}, {epochs})"
