"""``lowrank rerun``: its flags, and from a recorded run to the same run again."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lowrank.common.errors import InputError
from lowrank.common.terminal import say
from lowrank.common.texts import printable
from lowrank.config import Config, Given, allowed
from lowrank.config.flags import is_on, read_flags
from lowrank.config.sources import bad_values
from lowrank.runs.directory import ENDED, new_run_id
from lowrank.runs.find import Run, load_run
from lowrank.runs.format import RECORD_NAME

PROGRAM = "train.py"
_DOCKER = "docker"


@dataclass(frozen=True)
class Options:
    """What the command line asks for.

    Attributes:
        run: A run directory, a record file or a W&B run path.
        given: Fields that are to have another value, as text.
        check: Whether to compare the new run with the original.
        docker: Whether to run it in a container.
        image: Of the container; empty takes the one that the record names.
    """

    run: str
    given: Mapping[str, str] = field(default_factory=dict)
    check: bool = False
    docker: bool = False
    image: str = ""


def parse(arguments: Sequence[str]) -> Options:
    """Reads the command line of ``lowrank rerun``.

    Args:
        arguments: The words after the subcommand.

    Returns:
        The options.

    Raises:
        InputError: With a line for each thing that is wrong.

    Example:
        >>> parse(["runs/a", "--check", "--data_dir=/data"])
        Options(run='runs/a', given={'data_dir': '/data'}, check=True, docker=False, image='')
    """
    lines: list[str] = []
    fields = Config.model_fields
    switches = [name for name in fields if fields[name].annotation is bool]
    values = {name: allowed(name) for name in fields if name not in switches}
    words, given = read_flags(arguments, values, [*switches, "check", _DOCKER], lines)
    if len(words) != 1:
        lines.append("which run? one, for example: lowrank rerun runs/ID --check")
    check = is_on("check", given, lines)
    given.pop("check", None)
    docker = given.pop(_DOCKER, "False")
    is_switch = docker.lower() in ("true", "false")
    if "resume" in given:
        lines.append("resume: a rerun is a new run; leave it out")
        del given["resume"]
    lines += bad_values({name: Given(value, f"--{name}") for name, value in given.items()}).values()
    if lines:
        raise InputError(lines)
    return Options(
        run=words[0],
        given=given,
        check=check,
        docker=docker.lower() != "false",
        image="" if is_switch else docker,
    )


def run(options: Options) -> int:
    """Runs a recorded run again, as a new run, and compares the two if asked to.

    Args:
        options: What is asked for.

    Returns:
        The exit code: that of the training or, where they are compared, 0 if the two runs are
        bitwise identical and 1 if not.

    Raises:
        InputError: If the run cannot be repeated, here or at all.
    """
    original = load_run(options.run)
    local = run_directory(options.run, original)
    if options.check and not len(original.epochs):
        raise InputError(f"{original.path}: holds no epoch that --check could compare")
    if options.docker:
        from lowrank.launch.reruns.container import container, execute, image_of

        image = image_of(original, options.image)
        return execute(container(original, image, options.given, local=local, check=options.check))
    return _run_here(original, local, options)


def _run_here(original: Run, local: Path | None, options: Options) -> int:
    """Trains in this process, whose differences from the original's are said before.

    Returns:
        The exit code.

    Raises:
        InputError: If the run cannot be repeated here.
    """
    from lowrank.launch.reruns.restore import arguments, restore

    in_sweep = [n for n in ("WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH") if os.environ.get(n)]
    if in_sweep:
        raise InputError(f"{in_sweep[0]} is set: a sweep's values would outweigh the record's")
    config, notes = restore(original, options.given, local=local, check=options.check)
    program = find_program()
    run_id = options.given.get("run_id") or new_run_id()

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
    say(f"as run {run_id} in {config.output_dir}, on {device} with threads={config.threads}\n")
    code = load_program(program)(arguments(config, run_id))
    if code or not options.check:
        if code and options.check:
            say(f"nothing is compared: the rerun ended with exit code {code}")
        return code
    rerun = load_run(Path(config.output_dir).expanduser() / run_id)
    return _check(original, rerun, config.epochs)


def _check(original: Run, rerun: Run, last_epoch: int) -> int:
    """Compares the two records and says what was found.

    Returns:
        The exit code 0 if they are bitwise identical, else 1.
    """
    from lowrank.runs.comparison import compare

    for run in (original, rerun):
        run.preload(run.metrics)
    found = compare(original, rerun, last_epoch)
    last = int(original.epochs[-1])
    if original.state not in ENDED:
        say(f"check: the original is {original.state}, its epochs up to {last} are compared")
    elif last_epoch < last:
        say(f"check: epochs up to {last_epoch} of the original's {last} are compared")
    for line in found.lines():
        say(f"check: {line}")
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


def find_program() -> Path:
    """Finds ``train.py``.

    Returns:
        That beside this package, whose commit the record names, else that in the working directory.

    Raises:
        InputError: If there is none.
    """
    places = [Path(__file__).resolve().parents[2], Path.cwd()]
    for place in places:
        if (place / PROGRAM).is_file():
            return place / PROGRAM
    raise InputError(
        f"there is no {PROGRAM} in {' or '.join(map(str, dict.fromkeys(places)))}; start lowrank "
        "rerun where it lies"
    )


def _described(run: Run) -> str:
    epochs = f"{len(run.epochs)} epoch{'' if len(run.epochs) == 1 else 's'}"
    return f"{printable(str(run.id), 80)} ({run.state}, {epochs})"
