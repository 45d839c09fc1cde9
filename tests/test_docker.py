"""The image, as far as it shows without an engine: Dockerfile, context, entry point, W&B.

The image itself is built and used by ``make docker-check``. Here the Dockerfile's shell lines are
run, its context is chosen by Docker's rules written anew, and ``docker`` is a program that notes
how it is called. Run with ``pytest tests/test_docker.py``, with ``-m slow`` for W&B's commands and
the linter.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import lowrank
from lowrank.cli import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
LINES = re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", "").splitlines()
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def instructions(name):
    """Returns what follows an instruction, wherever the Dockerfile has it."""
    return [line.partition(" ")[2].strip() for line in LINES if line.startswith(f"{name} ")]


def run(*words, **options):
    return subprocess.run(
        list(map(str, words)), capture_output=True, text=True, check=False, **options
    )


# ---------------------------------------------------------------------------------- the Dockerfile


def test_every_stage_begins_with_an_image_of_one_digest():
    arguments = dict(argument.partition("=")[::2] for argument in instructions("ARG"))
    assert re.fullmatch(r"python:3\.1\d\.\d+-slim-\w+@sha256:[0-9a-f]{64}", arguments["PYTHON"])
    stages = [words.split()[0] for words in instructions("FROM")]
    assert len(stages) > 1
    assert set(stages) == {"${PYTHON}"}


def test_nothing_is_installed_that_is_not_pinned():
    installs = [
        words.split(" install ")[1]
        for command in instructions("RUN")
        for words in command.split("&&")
        if " pip " in words
    ]
    assert len(installs) == 3
    for words in installs:
        assert "-c constraints.txt" in words or "--no-deps --no-build-isolation" in words
        assert "--no-cache-dir" in words


def test_what_is_installed_are_the_dependencies():
    (command,) = [line for line in instructions("RUN") if "tomllib" in line]
    script = command.replace("python", sys.executable, 1).replace("> /requirements.txt", "")
    result = run("sh", "-c", script, cwd=ROOT)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    expected = project["dependencies"] + extras["postgres"] + extras["mysql"]
    assert result.stdout.splitlines() == expected, result.stderr
    pinned = (ROOT / "constraints.txt").read_text()
    for requirement in expected:
        name = re.match(r"[\w-]+", requirement)[0]
        assert re.search(rf"^{name}==", pinned, flags=re.MULTILINE | re.IGNORECASE), name


@pytest.mark.parametrize("commit", [COMMIT, COMMIT[:24] + COMMIT])
def test_a_commit_is_taken(commit):
    (command,) = [line for line in instructions("RUN") if "COMMIT" in line]
    result = run("sh", "-c", command, env={"COMMIT": commit, "PATH": os.environ["PATH"]})
    assert result.returncode == 0


@pytest.mark.parametrize("commit", ["", "main", COMMIT[:39], COMMIT + "-dirty", COMMIT * 2])
def test_without_a_commit_nothing_is_built(commit):
    (command,) = [line for line in instructions("RUN") if "COMMIT" in line]
    result = run("sh", "-c", command, env={"COMMIT": commit, "PATH": os.environ["PATH"]})
    assert result.returncode == 1
    assert result.stderr == (
        f"COMMIT is '{commit}', no commit: make docker, or "
        "--build-arg COMMIT=$(git rev-parse HEAD)\n"
    )


def test_the_image_is_not_roots_and_any_user_has_a_home():
    assert instructions("USER") == ["1000:1000"]
    (environment,) = map(shlex.split, instructions("ENV"))
    assert {"HOME=/home/lowrank", "LOGNAME=lowrank"} <= set(environment)
    (volumes,) = map(json.loads, instructions("VOLUME"))
    assert set(volumes) == {"/home/lowrank", "/lowrank/runs", "/lowrank/data"}
    (modes,) = re.findall(r"chmod (.*?)$", "\n".join(instructions("RUN")), flags=re.MULTILINE)
    assert set(modes.split()) == {"1777", "/lowrank/wandb", *volumes}


def test_the_image_says_what_it_is():
    (labels,) = map(shlex.split, instructions("LABEL"))
    names = dict(label.split("=", 1) for label in labels)
    prefix = "org.opencontainers.image."
    assert names[f"{prefix}revision"] == "${COMMIT}"
    assert {f"{prefix}title", f"{prefix}source", f"{prefix}licenses"} <= names.keys()


def test_no_argument_and_no_variable_is_for_a_secret():
    names = [words.split("=")[0] for words in instructions("ARG")]
    names += [word.split("=")[0] for line in instructions("ENV") for word in shlex.split(line)]
    assert not [name for name in names if re.search("KEY|TOKEN|SECRET|PASS", name)]


# ------------------------------------------------------------------------------------- the context


def in_context(path):
    """Says by Docker's rules whether a build gets a file: the last pattern that fits counts."""
    included = True
    parts = path.split("/")
    above = [
        "/".join(parts[: n + 1]) for n in range(len(parts))
    ]  # a directory takes its files along
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!")
        expression = "".join(
            {"**/": "(.*/)?", "*": "[^/]*"}.get(piece, re.escape(piece))
            for piece in re.split(r"(\*\*/|\*)", pattern)
        )
        if any(re.fullmatch(expression, candidate) for candidate in above):
            included = line.startswith("!")
    return included


@pytest.mark.parametrize(
    "path",
    [
        ".env",
        ".git/config",
        ".netrc",
        ".venv/bin/python",
        "data/cifar-10-batches-py/data_batch_1",
        "lowrank/.env",
        "lowrank/__pycache__/cli.cpython-311.pyc",
        "lowrank/models/deploy.key",
        "lowrank.egg-info/PKG-INFO",
        "runs/a/record.sqlite",
        "scripts/docker_check.py",
        "sweeps/credentials.json",
        "tests/test_docker.py",
        "wandb/settings",
    ],
)
def test_what_is_not_the_images_stays_out_of_the_build(path):
    assert not in_context(path)


def test_what_the_image_is_made_of_is_in_the_build():
    sources = [word for line in instructions("COPY") if "--from" not in line
               for word in line.split()[:-1]]  # fmt: skip
    tracked = run("git", "ls-files", *sources, cwd=ROOT).stdout.split()
    if not tracked:
        pytest.skip("not a git checkout")
    assert {source for source in sources if not (ROOT / source).exists()} == set()
    assert len(tracked) > 100
    assert [path for path in tracked if not in_context(path)] == []


# ---------------------------------------------------------------------------------- the entry point


def image(*words, cwd=ROOT):
    """Runs the entry point with this environment's Python."""
    entry = ROOT / "scripts" / "docker_entrypoint.py"
    return run(sys.executable, entry, *words, cwd=cwd, env={**os.environ, "PYTHONPATH": str(ROOT)})


def test_the_entry_point_is_the_images():
    (entry,) = map(json.loads, instructions("ENTRYPOINT"))
    (directory,) = {words for words in instructions("WORKDIR") if words != "/build"}
    assert entry == ["python", f"{directory}/scripts/docker_entrypoint.py"]


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_without_a_command_all_are_named(words):
    result = image(*words)
    assert result.returncode == 0
    listed = re.findall(r"^  (\w+)  ", result.stdout, flags=re.MULTILINE)
    assert listed == ["train", "wandb", "python", *COMMANDS]


def test_an_unknown_command_is_answered_in_one_line():
    result = image("trian", "--lr=0.1")
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("lowrank image: unknown command 'trian', did you mean 'train'?; ")
    for name in ("train", "wandb", "python", *COMMANDS):
        assert name in line.partition("allowed are ")[2]


@pytest.mark.parametrize("cwd", [ROOT, Path("/")])
def test_train_is_train_py_wherever_it_is_called(cwd):
    assert image("train", "--help", cwd=cwd).stdout.startswith("usage: python train.py")


def test_trainings_exit_code_is_the_containers():
    result = image("train", "--lr=much", "--epochs=1")
    assert result.returncode == 2
    assert result.stderr.startswith("train.py: ")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_lowrank_is_one_of_the_image(name):
    assert image(name, "--help").stdout.startswith(f"usage: lowrank {name} ")


def test_wandb_is_a_command_of_the_image():
    assert image("wandb", "--version").stdout.startswith("wandb, version ")


def test_arguments_arrive_as_they_are():
    words = ["", "a b", "'", "$HOME", "*", "é"]
    result = image("python", "-c", "import sys; print(sys.argv[1:])", *words)
    assert result.stdout == f"{words}\n"


# ------------------------------------------------------------------------------ building and W&B


@pytest.fixture
def docker(tmp_path, monkeypatch):
    """A `docker` that knows one image, of a registry; it notes its arguments and what it gets."""
    tools, calls = tmp_path / "tools", tmp_path / "calls"
    tools.mkdir()
    calls.touch()
    (tools / "docker").write_text(
        f"#!{sys.executable}\n"
        "import json, os, sys, tarfile\n"
        "more = os.environ.get('WANDB_API_KEY')\n"
        "if sys.argv[1] == 'build':\n"
        "    more = tarfile.open(fileobj=sys.stdin.buffer, mode='r|').getnames()\n"
        f"with open({str(calls)!r}, 'a') as calls:\n"
        "    print(json.dumps([sys.argv[1:], more]), file=calls)\n"
        "if sys.argv[1] == 'inspect':\n"
        "    print('[\"registry/lowrank@sha256:1\"]' if 'registry' in sys.argv[2] else '[]')\n"
        "sys.exit(sys.argv[1] == 'buildx')\n"
    )
    (tools / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{BIN}{os.pathsep}{os.environ['PATH']}")

    def called(name):
        lines = map(json.loads, calls.read_text().splitlines())
        return [(words, more) for words, more in lines if words[0] == name]

    return called


def test_make_docker_builds_what_is_committed(docker):
    head = run("git", "rev-parse", "HEAD", cwd=ROOT)
    if head.returncode:
        pytest.skip("not a git checkout")
    result = run("make", "--silent", "docker", cwd=ROOT)
    assert result.returncode == 0, result.stderr
    ((words, names),) = docker("build")
    commit = head.stdout.strip()
    assert f"--build-arg COMMIT={commit}" in " ".join(words)
    image = f"lowrank:{commit[:12]}"
    assert words[1:3] == ["--tag", image]
    assert f"--build-arg IMAGE={image}" in " ".join(words)
    assert {"Dockerfile", ".dockerignore", "train.py"} <= set(names)
    tracked = run("git", "ls-tree", "-r", "--name-only", "HEAD", cwd=ROOT).stdout.splitlines()
    assert {name for name in names if not name.endswith("/")} >= set(tracked)
    assert not [name for name in names if name.startswith((".git/", ".venv", "runs"))]


@pytest.fixture
def project(tmp_path):
    """A git repository with this program, and its commit."""
    path = tmp_path / "project"
    path.mkdir()
    shutil.copy(ROOT / "train.py", path)
    shutil.copytree(ROOT / "lowrank", path / "lowrank", ignore=shutil.ignore_patterns("*.pyc"))
    git = ["git", "-C", path, "-c", "user.name=a", "-c", "user.email=a@example.org"]
    run("git", "init", "--quiet", path)
    run(*git, "add", ".")
    run(*git, "commit", "--quiet", "--message=first")
    return path, run(*git, "rev-parse", "HEAD").stdout.strip()


def variables_of_the_image(**arguments):
    """Returns the Dockerfile's variables that tell of the image."""
    (line,) = instructions("ENV")
    found = dict(word.split("=", 1) for word in shlex.split(line))
    return {
        name: re.sub(r"\$\{(\w+)\}", lambda match: arguments[match[1]], value)
        for name, value in found.items()
        if name.startswith(("LOWRANK_", "WANDB_"))
    }


@pytest.mark.slow
def test_a_run_of_the_image_is_restored_by_wandb_restore(tmp_path, docker, project, wandb_server):
    checkout, commit = project
    name = "registry/lowrank:abc"
    directory = tmp_path / "lowrank"  # what the image holds: the program without a repository
    shutil.copytree(checkout, directory, ignore=shutil.ignore_patterns(".git"))
    variables = variables_of_the_image(COMMIT=commit, IMAGE=name, SOURCE="https://example.org/x")
    words = ["--train_size=64", "--depth=1", "--width=8", "--epochs=1", "--run_id=a"]
    result = run(
        *(sys.executable, "train.py", *words),
        cwd=directory,
        env={**os.environ, **variables, "PYTHONPATH": str(directory)},
    )
    assert result.returncode == 0, result.stderr
    environment = lowrank.load_run(directory / "runs" / "a").environment
    assert (environment["commit"], environment["image"]) == (commit, name)
    held = wandb_server.run("a")
    metadata = json.loads(held.files["wandb-metadata.json"])
    assert held.details["commit"] == commit
    assert metadata["docker"] == name
    assert metadata["git"] == {"commit": commit, "remote": "https://example.org/x"}

    shutil.rmtree(directory)  # the image's files are not those of this machine
    path = f"{held.entity}/{held.project}/a"
    restored = run(sys.executable, "-m", "wandb", "restore", path, cwd=checkout)
    assert restored.returncode == 0, restored.stderr
    assert run("git", "-C", checkout, "branch", "--show-current").stdout == "wandb/a\n"
    assert run("git", "-C", checkout, "rev-parse", "HEAD").stdout.strip() == commit
    assert "lr:" in (checkout / "wandb" / "config.yaml").read_text()
    ((started, key),) = docker("run")
    assert key == wandb_server.environment["WANDB_API_KEY"]
    assert "WANDB_DOCKER=registry/lowrank@sha256:1" in started
    program = f"python {directory / 'train.py'}"  # in the container the path is right again
    assert f"WANDB_COMMAND={program} {' '.join(words)}" in started
    assert started[-2:] == [name, "/bin/bash"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "injected"),
    [
        ("registry/lowrank:abc", ["-e", "WANDB_DOCKER=registry/lowrank@sha256:1"]),
        ("lowrank:abc", []),
    ],
    ids=["of a registry", "local"],
)
def test_wandb_docker_run_runs_the_image(tmp_path, docker, wandb_server, name, injected):
    """A local image has no digest: the name that was built into it stays."""
    options = ["--rm", "--init", "--user", "1001:1001", "-v", "/home/ann/runs:/lowrank/runs"]
    words = [*options, name, "train", "--epochs=1"]
    result = run(sys.executable, "-m", "wandb", "docker-run", *words, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    ((started, key),) = docker("run")
    assert started == ["run", "-e", "WANDB_API_KEY", *injected, *words]
    assert key == wandb_server.environment["WANDB_API_KEY"]


# --------------------------------------------------------------------------------------- the linter


@pytest.mark.slow
def test_hadolint_has_nothing_to_say():
    result = run(BIN / "hadolint", "--no-color", ROOT / "Dockerfile")
    assert result.stdout.splitlines() == []
    assert result.returncode == 0
