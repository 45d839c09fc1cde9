"""A rerun in a container: the ``docker run`` command, and running it."""

from __future__ import annotations

import csv
import io
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from lowrank.common.errors import Failure, InputError
from lowrank.common.files import expanded
from lowrank.common.terminal import say
from lowrank.common.texts import printable
from lowrank.config.sources import of_machine
from lowrank.launch.reruns.restore import WITHOUT_FILES, is_there, output_dir
from lowrank.runs.find import Run

_PART = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_HOST = r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?"
_IMAGE = re.compile(
    rf"(?:{_HOST}/)?{_PART}(?:/{_PART})*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?"
    r"(?:@sha256:[0-9a-f]{64})?"
)
_LONGEST_IMAGE = 400
_NOT_RUN = (125, 126, 127)  # docker's own exit codes: no engine or image, no command in it
_PASSED_ON = ("CUDA_VISIBLE_DEVICES",)
_OF_ACCOUNT = ("WANDB_API_KEY", "WANDB_BASE_URL")


def image_of(run: Run, named: str = "") -> str:
    """Returns the image in which a run is repeated.

    Args:
        run: The original.
        named: Another image than the recorded one; empty takes that.

    Returns:
        What ``docker run`` takes as an image.

    Raises:
        InputError: If there is none, or it cannot be the name of an image.
    """
    image = named or run.environment.get("image")
    if image is None:
        raise InputError(
            f"{run.path}: names no image, as it ran in none or without WANDB_DOCKER; give it: "
            "--docker=IMAGE"
        )
    if not isinstance(image, str) or len(image) > _LONGEST_IMAGE or not _IMAGE.fullmatch(image):
        raise InputError(
            f"docker: got '{printable(str(image), 100)}'; allowed: the name of an image such as "
            "registry.example.org/lowrank:1.0 or NAME@sha256:DIGEST"
        )
    return image


@dataclass(frozen=True)
class Container:
    """A container that repeats a run.

    Attributes:
        words: The ``docker run`` command.
        written: Directories that it writes to, which must exist.
    """

    words: list[str]
    written: list[Path]


def container(
    run: Run, image: str, given: Mapping[str, str], *, local: Path | None, check: bool
) -> Container:
    """Describes the container that repeats a run by running ``lowrank rerun`` in it.

    It sees the original (read-only), the output directory and the data under the names that they
    have here; what it writes belongs to the caller. A record may come from anyone: of all words
    only the image is the record's, and the image gets no directory that only the record names, and
    no API key unless ``--tracking`` is given.

    Args:
        run: The original.
        image: From `image_of`.
        given: Fields that are to have another value, as text.
        local: The original's run directory; None where only its record is at hand.
        check: Whether the rerun is to be compared with the original.

    Returns:
        The container.

    Raises:
        InputError: If the data lies where only the record says.
    """
    output = _absolute(given.get("output_dir") or output_dir(local))
    original = (local or run.path).resolve()
    flags = {**given, "output_dir": str(output)}
    written = [output]
    if run.config.get("dataset") not in WITHOUT_FILES:
        recorded, own = str(run.config.get("data_dir")), of_machine("data_dir")
        if "data_dir" not in given and recorded != own and is_there(recorded):
            raise InputError(
                f"data_dir: the record names {printable(recorded, 200)}; the container sees only "
                f"what you name yourself: add --data_dir={printable(shlex.quote(recorded), 200)}"
            )
        data = _absolute(given.get("data_dir") or own)
        flags["data_dir"] = str(data)
        written.append(data)
    passed: tuple[str, ...] = _PASSED_ON
    if "tracking" in given:
        passed += _OF_ACCOUNT
    elif run.config.get("tracking") != "disabled":
        flags["tracking"] = "offline"
    seen = [original]
    journal = original.with_name(f"{original.name}-journal")
    if local is None and journal.exists():
        seen.append(journal)
    device = given.get("device") or run.environment.get("device")
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    words = [
        *("docker", "run", "--rm", "--init", f"--user={os.getuid()}:{os.getgid()}"),
        *("--security-opt=no-new-privileges", "--cap-drop=ALL"),
        *(["--tty"] if is_terminal else []),
        *(["--gpus=all"] if str(device).startswith("cuda") else []),
        *(_mount(path) for path in written),
        *(_mount(path, "readonly") for path in seen),
        f"--env=WANDB_DOCKER={image}",
        *(f"--env={name}" for name in passed if os.environ.get(name)),
        *(image, "rerun", str(original), *(["--check"] if check else [])),
        *(f"--{name}={value}" for name, value in flags.items()),
    ]
    return Container(words, written)


def execute(container: Container) -> int:
    """Prints the ``docker run`` command and runs it; each signal reaches it once.

    Args:
        container: What is run.

    Returns:
        Its exit code.

    Raises:
        InputError: If a directory that it needs cannot be made.
        Failure: If there is no Docker here, or it cannot run the image.
    """
    program, *arguments = container.words
    say(shlex.join(container.words))
    docker = shutil.which(program)
    if docker is None:
        raise Failure(
            "there is no docker on this machine: install it, or run the command above where it is"
        )
    for path in container.written:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{path} cannot be made: {error.strerror}") from error
    # In a group of its own, as Ctrl-C would otherwise reach it from the terminal and from here.
    process = subprocess.Popen([docker, *arguments], process_group=0)

    def pass_on(number: int, _frame: FrameType | None) -> None:
        process.send_signal(number)

    previous = {n: signal.signal(n, pass_on) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        code = process.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if code in _NOT_RUN:
        raise Failure(
            f"docker could not run lowrank rerun (exit code {code}, its message is above): is "
            "the image one of this project, and can it be pulled from here?"
        )
    return 128 - code if code < 0 else code


def _absolute(path: str) -> Path:
    return expanded(path).resolve()


def _mount(path: Path, *options: str) -> str:
    """Returns the flag that shows a path to the container under the same name, a line of CSV."""
    text = io.StringIO()
    fields = ["type=bind", f"source={path}", f"target={path}", *options]
    csv.writer(text, lineterminator="").writerow(fields)
    return f"--mount={text.getvalue()}"
