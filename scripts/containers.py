"""Builds an image and runs it: with Docker, or with buildah where no engine runs.

Buildah needs root and, as it isolates with chroot alone, nothing of the kernel. Where no registry
of images can be reached, Debian's own Python stands in for the published one: the Dockerfile's
steps are then run as they are, on another base.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lowrank.common.errors import Failure, InputError

__all__ = ["Engine", "call", "find_engine", "temporary_directory"]

STAND_IN = "localhost/lowrank-stand-in"
SUITE = "bookworm"


class Engine(ABC):
    """Builds and runs images.

    Attributes:
        name: Of the program.
    """

    name: str

    @abstractmethod
    def build(self, context: Path, tag: str, arguments: Mapping[str, str]) -> None:
        """Builds an image.

        Args:
            context: The directory with the Dockerfile.
            tag: The image's name.
            arguments: The build arguments.

        Raises:
            Failure: If a step fails.
        """

    @abstractmethod
    def inspect(self, tag: str) -> dict[str, Any]:
        """Describes an image.

        Args:
            tag: The image's name.

        Returns:
            Its configuration as Docker has it (``User``, ``Env``, ``Labels``, …), and its ``Size``
            in words.
        """

    def run(
        self,
        tag: str,
        words: Sequence[str],
        *,
        user: str | None = None,
        volumes: Mapping[Path, str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Runs an image and waits for its end.

        Args:
            tag: The image's name.
            words: What ``docker run IMAGE`` would be followed by.
            user: As ``UID:GID``; None for the image's own.
            volumes: Directories of this machine, and where they are in the container.
            environment: Further variables.

        Returns:
            The exit code, and what was printed.
        """
        options = [f"--user={user}"] if user else []
        options += [f"--volume={here}:{there}" for here, there in (volumes or {}).items()]
        options += [f"--env={name}={value}" for name, value in (environment or {}).items()]
        command = self._command(tag, ["--network=host", *options], words)
        return subprocess.run(command, capture_output=True, text=True, check=False)

    @abstractmethod
    def _command(self, tag: str, options: Sequence[str], words: Sequence[str]) -> list[str]:
        """Returns the command that runs an image with options that all engines know."""


class Docker(Engine):
    """Docker, or what answers to its command."""

    name = "docker"

    def build(self, context: Path, tag: str, arguments: Mapping[str, str]) -> None:
        call(["docker", "build", *_arguments(arguments), "--tag", tag, str(context)])

    def inspect(self, tag: str) -> dict[str, Any]:
        image = json.loads(call(["docker", "image", "inspect", tag], quiet=True))[0]
        return {**image["Config"], "Size": f"{image['Size'] / 1e9:.2f} GB"}

    def _command(self, tag: str, options: Sequence[str], words: Sequence[str]) -> list[str]:
        return ["docker", "run", "--rm", "--init", *options, tag, *words]


class Buildah(Engine):
    """Buildah without an engine. Its images and containers are in a directory of their own.

    Args:
        store: The directory; deleting it undoes everything.
        stand_in: Whether Debian's Python stands in for the published image.
    """

    name = "buildah"

    def __init__(self, store: Path, *, stand_in: bool) -> None:
        self._store = store
        self._stand_in = stand_in
        self._buildah = ["buildah", f"--root={store / 'images'}", f"--runroot={store / 'run'}"]
        self._containers: dict[str, str] = {}

    def build(self, context: Path, tag: str, arguments: Mapping[str, str]) -> None:
        if self._stand_in:
            self._make_stand_in()
            arguments = {**arguments, "PYTHON": STAND_IN}
        words = ["bud", "--isolation=chroot", "--network=host", "--format=docker", "--layers"]
        words += ["--pull-never"] if self._stand_in else []
        words += _arguments(arguments)
        # What pip needs on this machine to reach its index is there for the steps alone: the image
        # keeps empty mount points.
        words += [f"--volume={path}:{path}:ro" for path in _of_pip()]
        call([*self._buildah, *words, "--tag", tag, str(context)])

    def inspect(self, tag: str) -> dict[str, Any]:
        described = json.loads(call([*self._buildah, "inspect", "--type=image", tag], quiet=True))
        listed = json.loads(call([*self._buildah, "images", "--json", tag], quiet=True))
        return {**described["Docker"]["config"], "Size": listed[0]["size"]}

    def _command(self, tag: str, options: Sequence[str], words: Sequence[str]) -> list[str]:
        if tag not in self._containers:
            made = call([*self._buildah, "from", "--pull-never", tag], quiet=True).strip()
            self._containers[tag] = made
            # Buildah would hide directories of this machine behind the image's own volumes.
            for path in self.inspect(tag)["Volumes"]:
                call([*self._buildah, "config", f"--volume={path}-", made])
        entry = self.inspect(tag)["Entrypoint"]
        run = [*self._buildah, "run", "--isolation=chroot", *options]
        return [*run, self._containers[tag], "--", *entry, *words]

    def _make_stand_in(self) -> None:
        """Makes an image like python:slim of Debian's packages.

        Raises:
            InputError: If debootstrap is not installed.
        """
        if (
            subprocess.run(
                [*self._buildah, "inspect", "--type=image", STAND_IN],
                capture_output=True,
                check=False,
            ).returncode
            == 0
        ):
            return
        if shutil.which("debootstrap") is None:
            raise InputError("--stand_in needs debootstrap: apt-get install debootstrap")
        root = self._store / "root"
        packages = "python3,python3-venv,python3-pip,ca-certificates"
        call(["debootstrap", "--variant=minbase", f"--include={packages}", SUITE, str(root)])
        next(root.glob("usr/lib/python3*/EXTERNALLY-MANAGED")).unlink()
        (root / "usr/bin/python").symlink_to("python3")
        container = call([*self._buildah, "from", "scratch"], quiet=True).strip()
        call([*self._buildah, "add", "--quiet", container, str(root), "/"], quiet=True)
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        call([*self._buildah, "config", "--env", path, "--env", "LANG=C.UTF-8", container])
        call([*self._buildah, "commit", "--quiet", "--rm", container, STAND_IN], quiet=True)
        shutil.rmtree(root)


def find_engine(name: str | None, store: Path | None, *, stand_in: bool) -> Engine:
    """Chooses what builds and runs.

    Args:
        name: ``docker`` or ``buildah``; None for Docker where its engine answers, else buildah.
        store: Where buildah keeps images; None for a directory of the user's cache.
        stand_in: Whether Debian's Python stands in for the published image; only with buildah.

    Returns:
        The engine.

    Raises:
        InputError: If neither can be used here.
    """
    if name is None:
        name = "docker" if not stand_in and _docker_answers() else "buildah"
    if name == "docker":
        if stand_in:
            raise InputError("--stand_in is for buildah; give --engine=buildah as well")
        if not _docker_answers():
            raise InputError("no Docker engine answers; start it, or give --engine=buildah")
        return Docker()
    lacks = [] if os.getuid() == 0 else ["root"]
    lacks += [] if shutil.which("buildah") else ["buildah (apt-get install buildah)"]
    if lacks:
        raise InputError(f"no Docker engine answers; without one this needs {' and '.join(lacks)}")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Buildah(store or cache / "lowrank-docker-check", stand_in=stand_in)


def call(words: Sequence[str], *, quiet: bool = False) -> str:
    """Runs a command that must succeed.

    Args:
        words: The command.
        quiet: Whether what it prints is only returned.

    Returns:
        Its standard output, if quiet.

    Raises:
        Failure: If it fails.
    """
    stdout = subprocess.PIPE if quiet else None
    result = subprocess.run(words, stdout=stdout, text=True, check=False)
    if result.returncode:
        raise Failure(f"{words[0]} ended with code {result.returncode}: {' '.join(words)}")
    return result.stdout or ""


def _arguments(arguments: Mapping[str, str]) -> list[str]:
    return [f"--build-arg={name}={value}" for name, value in arguments.items()]


def _docker_answers() -> bool:
    if shutil.which("docker") is None:
        return False
    answer = subprocess.run(["docker", "info"], capture_output=True, check=False)
    return answer.returncode == 0


def _of_pip() -> list[Path]:
    """Finds what pip's configuration consists of on this machine, in the same places everywhere.

    Returns:
        The system's pip.conf, the certificates and the local directories that it names.
    """
    listed = subprocess.run(
        ["python3", "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    ).stdout
    words = [word.strip("'\"") for word in listed.replace("=", " ").split()]
    paths = [Path(word.removeprefix("file://")) for word in words]
    # An index links to files beside it.
    paths = [path.parent if path.name == "simple" else path for path in paths if path.is_absolute()]
    paths.append(Path("/etc/pip.conf"))
    # Debian's certificates are where pip of the image looks for them, whatever variables say.
    paths.append(Path("/etc/ssl/certs/ca-certificates.crt"))
    return [path for path in dict.fromkeys(paths) if path.exists()]


def temporary_directory() -> tempfile.TemporaryDirectory[str]:
    """Returns a directory that any user may enter, as the callers of containers have to."""
    directory = tempfile.TemporaryDirectory(prefix="lowrank-docker-")
    Path(directory.name).chmod(0o755)
    return directory
