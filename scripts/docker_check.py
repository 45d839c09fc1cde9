"""Builds the image of the present commit and uses it as a person would.

    make docker-check                           # with Docker, or with buildah as root
    make docker-check FLAGS='--stand_in'        # buildah, where no registry of images is reached

It lints the Dockerfile, builds, looks for secrets, trains as a user whom the image does not know,
runs an agent against a W&B server on this machine, and ends with a rerun inside the container of a
run from outside, compared bit for bit. Half an hour and 20 GB the first time.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from containers import Engine, call, find_engine, temporary_directory

from lowrank import load_run
from lowrank.cli import COMMANDS
from lowrank.common.errors import Failure, InputError
from lowrank.common.program import exit_code_of

ROOT = Path(__file__).resolve().parent.parent
TINY = ["--dataset=digits", "--depth=2", "--width=20", "--epochs=3", "--threads=1", "--device=cpu"]
SWEEP = """\
program: train.py
method: grid
parameters:
  dataset: {value: digits}
  width: {values: [8, 12]}
  depth: {value: 2}
  epochs: {value: 2}
  threads: {value: 1}
"""
SECRETS = """\
import os, re, sys
named = re.compile(r"\\.(netrc|git|env)$|^pip\\.conf$|^id_(rsa|ed25519|ecdsa)$|\\.key$")
for here, directories, files in os.walk("/"):
    directories[:] = [d for d in directories if os.path.join(here, d) not in ("/proc", "/sys")]
    for name in directories + files:
        path = os.path.join(here, name)
        if named.search(name) and (os.path.isdir(path) or os.path.getsize(path)):
            print(path)
print(*(name for name in os.environ if re.search("KEY|TOKEN|SECRET|PASSW", name)), sep="\\n")
"""
"""Prints what may hold a secret: files by name, as far as anyone may look, and variables."""

DECISIVE = tuple(f"warning: {name}: " for name in ("torch", "numpy", "device", "processor"))
"""What can make a rerun another: the lines in which lowrank rerun says it."""


@dataclass
class Image:
    """The image, and whom it is run as.

    Attributes:
        engine: What runs it.
        tag: Its name.
        commit: Of the code in it.
        directory: An empty one of this machine; in it are those mounted as ``runs`` and ``data``.
        user: UID and GID: the caller's; of root those of nobody on this machine.
        environment: Further variables.
    """

    engine: Engine
    tag: str
    commit: str
    directory: Path
    user: tuple[int, int]
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for path in (self.runs, self.directory / "data"):
            path.mkdir()
            os.chown(path, *self.user)

    @property
    def runs(self) -> Path:
        """What is mounted as ``runs``."""
        return self.directory / "runs"

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Runs a command as the caller, with runs and data mounted.

        Args:
            words: The command.

        Returns:
            The exit code, and what was printed.
        """
        return self.engine.run(
            self.tag,
            words,
            user="{}:{}".format(*self.user),
            volumes={self.directory / name: f"/lowrank/{name}" for name in ("runs", "data")},
            environment=self.environment,
        )

    def succeed(self, *words: str) -> str:
        """Runs a command that must succeed.

        Args:
            words: The command.

        Returns:
            What it printed.
        """
        result = self.run(*words)
        ended = f"{' '.join(words[:1]) or 'no command'} ended with code {result.returncode}"
        must(result.returncode == 0, ended, result)
        return result.stdout + result.stderr


def must(
    true: bool, otherwise: str, result: subprocess.CompletedProcess[str] | None = None
) -> None:
    """Ends the check unless something is so.

    Args:
        true: Whether it is.
        otherwise: What is wrong.
        result: What shows it.

    Raises:
        Failure: If it is not.
    """
    if not true:
        lines = f"{result.stdout}{result.stderr}".splitlines()[-20:] if result else []
        raise Failure([otherwise, *lines])


def lint() -> str:
    """Lints the Dockerfile.

    Returns:
        What was found.

    Raises:
        InputError: If hadolint is not installed.
    """
    places = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    hadolint = shutil.which("hadolint", path=os.pathsep.join(places))
    if hadolint is None:
        raise InputError("hadolint is not installed; the extra `slow` has it")
    call([hadolint, str(ROOT / "Dockerfile")])
    return "hadolint has nothing to say"


def build(image: Image, context: Path) -> str:
    """Builds the image of a commit from the commit alone.

    Args:
        image: The image.
        context: A new directory, for the commit's files.

    Returns:
        How large it is.
    """
    context.mkdir()
    archive = subprocess.run(
        ["git", "-C", str(ROOT), "archive", image.commit], capture_output=True, check=True
    )
    subprocess.run(["tar", "-x", "-C", str(context)], input=archive.stdout, check=True)
    image.engine.build(context, image.tag, {"COMMIT": image.commit, "IMAGE": image.tag})
    return str(image.engine.inspect(image.tag)["Size"])


def check_properties(image: Image) -> str:
    """Checks user, labels and that nothing secret is in the image.

    Args:
        image: The image.

    Returns:
        What was found.
    """
    described = image.engine.inspect(image.tag)
    must(described["User"] == "1000:1000", f"the image's user is {described['User']!r}")
    label = described["Labels"].get("org.opencontainers.image.revision")
    must(label == image.commit, f"the image is labelled with commit {label}")
    found = image.engine.run(image.tag, ["python", "-c", SECRETS], user="0:0")
    must(found.returncode == 0, "the image cannot be searched", found)
    must(not found.stdout.split(), f"not for an image: {' '.join(found.stdout.split())}")
    return f"user {described['User']}, commit {image.commit[:12]}, no secrets"


def check_commands(image: Image) -> str:
    """Checks that every command is found by its name, and what is said to an unknown one.

    Args:
        image: The image.

    Returns:
        What was found.
    """
    must("train" in image.succeed(), "without a command the image does not name train")
    for name in ("train", "wandb", *COMMANDS):
        usage = image.succeed(name, "--help")
        must("usage" in usage.lower(), f"{name} --help shows no usage: {usage[:200]!r}")
    unknown = image.run("trian")
    must(unknown.returncode == 2, f"an unknown command ends with code {unknown.returncode}")
    must("did you mean 'train'?" in unknown.stderr, "an unknown command is not answered", unknown)
    return f"{len(COMMANDS) + 2} commands"


def check_training(image: Image) -> str:
    """Trains as the caller: files are hers, and the record knows the image.

    Args:
        image: The image.

    Returns:
        What was found.
    """
    image.succeed("train", *TINY, "--tracking=offline", "--run_id=inside")
    image.succeed("report", "runs/inside", "--output=runs/report.html")
    must((image.runs / "report.html").is_file(), "report wrote no report")
    run = load_run(image.runs / "inside")
    must(run.state == "finished", f"the run's state is {run.state}")
    must(run.environment["commit"] == image.commit, f"commit {run.environment['commit']}")
    must(run.environment["image"] == image.tag, f"image {run.environment['image']}")
    paths = [image.runs, *image.runs.rglob("*")]
    foreign = [p for p in paths if (p.lstat().st_uid, p.lstat().st_gid) != image.user]
    must(not foreign, f"not the caller's: {', '.join(map(str, foreign[:5]))}")
    return f"{len(paths)} files of user {image.user[0]}; commit and image are in the record"


def check_agent(image: Image) -> str:
    """Makes a sweep and runs an agent against a W&B server on this machine.

    Args:
        image: The image.

    Returns:
        What arrived at the server.
    """
    sys.path.insert(0, str(ROOT))
    from tests.wandb_server import WandbServer

    (image.runs / "sweep.yaml").write_text(SWEEP)
    server = WandbServer(image.runs.parent / "server")
    try:
        image.environment = server.environment
        image.succeed("wandb", "sweep", "--project=lowrank", "runs/sweep.yaml")
        (sweep,) = server.sweeps
        path = f"{sweep.entity}/{sweep.project}/{sweep.id}"
        image.succeed("agent", path, "--gpus=none", "--stagger=0")
    finally:
        image.environment = {}
        server.close()
    must(not server.errors, f"the server could not answer: {server.errors}")
    runs = server.runs_of(sweep.id)
    must(len(runs) == 2, f"the sweep has {len(runs)} runs")
    for run in runs:
        must(run.state == "finished", f"{run.id} is {run.state}")
        must(run.details["commit"] == image.commit, f"W&B has commit {run.details['commit']}")
        docker = json.loads(run.files["wandb-metadata.json"])["docker"]
        must(docker == image.tag, f"W&B has the image {docker}")
        must(len(load_run(image.runs / run.id).epochs) == 3, f"{run.id} is not recorded")
    return f"{len(runs)} runs finished on the server; it has commit and image"


def check_rerun(image: Image) -> str:
    """Repeats inside the container a run from outside, and compares.

    Args:
        image: The image.

    Returns:
        How they compare; if not bitwise, with the reasons.
    """
    # Variables that choose another kernel, such as OpenBLAS's, are not in the container either.
    outside = ["env", "--ignore-environment", f"PATH={os.defpath}", f"HOME={image.directory}"]
    outside += [sys.executable, str(ROOT / "train.py"), *TINY, "--tracking=disabled"]
    call([*outside, "--run_id=outside", f"--output_dir={image.runs}"], quiet=True)
    for path in (image.runs / "outside").rglob("*"):
        os.chown(path, *image.user)
    result = image.run("rerun", "runs/outside", "--check", "--run_id=again")
    said = result.stdout.splitlines()
    verdict = "; ".join(line for line in said if line.startswith("check: "))
    if result.returncode == 0:
        return verdict
    reasons = [line for line in said if line.startswith(DECISIVE)]
    must(bool(reasons), f"not identical, without a reason: {verdict}", result)
    return f"{verdict}; {'; '.join(reasons)}"


STEPS = {
    "user, labels, secrets": check_properties,
    "commands": check_commands,
    "a training as the caller": check_training,
    "a sweep and an agent on a W&B server": check_agent,
    "a rerun of a run from outside": check_rerun,
}


def main() -> int:
    """Builds the image and checks it.

    Returns:
        The exit code: 0, 1 if a check fails, 2 if nothing can be built here.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=("docker", "buildah"))
    parser.add_argument(
        "--stand_in", action="store_true", help="Debian's Python in place of the published image"
    )
    parser.add_argument("--store", type=Path, help="where buildah keeps images")
    options = parser.parse_args()
    return exit_code_of("docker_check", lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    engine = find_engine(options.engine, options.store, stand_in=options.stand_in)
    git = ["git", "-C", str(ROOT)]
    commit = call([*git, "rev-parse", "HEAD"], quiet=True).strip()
    print(f"commit {commit}, {engine.name}{', on a stand-in' if options.stand_in else ''}")
    if call([*git, "status", "--porcelain"], quiet=True):
        print("what is not committed is not checked")
    with temporary_directory() as name:
        tag = f"localhost/lowrank:{commit[:12]}"
        image = Image(engine, tag, commit, Path(name), _caller())
        _step("hadolint", lint)
        _step("build", build, image, Path(name) / "context")
        for title, check in STEPS.items():
            _step(title, check, image)
    print(f"docker check: {len(STEPS) + 2} of {len(STEPS) + 2} passed")
    return 0


def _caller() -> tuple[int, int]:
    return (os.getuid(), os.getgid()) if os.getuid() else (12345, 23456)


def _step(title: str, check: Callable[..., str], *arguments: object) -> None:
    """Runs a check, and says what is done and what was found."""
    print(f"== {title}", flush=True)
    begin = time.monotonic()
    print(f"   {check(*arguments)} ({time.monotonic() - begin:.0f} s)", flush=True)


if __name__ == "__main__":
    sys.exit(main())
