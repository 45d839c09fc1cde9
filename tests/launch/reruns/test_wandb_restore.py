"""``wandb restore`` and ``wandb docker-run`` with our runs, by the real client.

A run is trained from a copy of this repository with a change that is not committed. Another copy,
without the change, is brought to that state by ``wandb restore``, as git itself sees it; what it
runs then is bitwise identical. Docker is a stand-in on PATH that notes its words.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
import yaml

from tests.launch.reruns.helpers import ROOT, TINY
from tests.runs.test_environment import git

DIGEST = "registry.example.org/lowrank@sha256:" + "0a" * 32
PROGRAM = "import sys; from lowrank.cli import main; sys.exit(main())"
DOCKER = """\
#!{python}
import json, sys
words = sys.argv[1:]
with open({log!r}, "a") as file:
    file.write(json.dumps(words) + "\\n")
if words[0] == "inspect":
    print(json.dumps([{digest!r}] if {is_pushed} else []))
sys.exit(1 if words[:2] == ["buildx", "imagetools"] else 0)
"""


@pytest.fixture
def docker(tmp_path, monkeypatch):
    """Puts a stand-in on PATH; returns what makes its image a local one, and its calls."""
    place, log = tmp_path / "bin", tmp_path / "docker.jsonl"
    place.mkdir()

    def make(is_pushed=True):
        values = {"python": sys.executable, "log": str(log), "digest": DIGEST}
        (place / "docker").write_text(DOCKER.format(**values, is_pushed=is_pushed))
        (place / "docker").chmod(0o755)

    make()
    monkeypatch.setenv("PATH", str(place), prepend=os.pathsep)
    return make, lambda: [json.loads(line) for line in log.read_text().splitlines()]


@pytest.fixture
def upstream(tmp_path):
    """A bare repository that holds this package and train.py."""
    project = tmp_path / "first"
    project.mkdir()
    for name in ("lowrank", "train.py", ".gitignore"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, project / name)
    git(project, "init", "--quiet", "--initial-branch=main")
    git(project, "add", ".")
    git(project, "commit", "--quiet", "--message=first")
    bare = tmp_path / "upstream.git"
    git(tmp_path, "clone", "--quiet", "--bare", str(project), str(bare))
    return bare


def clone(upstream, name):
    git(upstream.parent, "clone", "--quiet", str(upstream), str(upstream.parent / name))
    return upstream.parent / name


def run(directory, *words, code=0):
    """Runs a program of the project in its directory; returns what it printed."""
    result = subprocess.run(
        [sys.executable, *words],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(directory), "WANDB_SILENT": "false"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert result.returncode == code, result.stdout
    return result.stdout


def train(directory, *flags):
    flags = ("--tracking=online", "--project=ranks", "--run_id=a", *flags)
    return run(directory, "train.py", *TINY, *flags)


@pytest.mark.slow
def test_restore_brings_the_code_back_and_rerun_finds_it_the_same(wandb_server, upstream):
    project = clone(upstream, "project")
    source = project / "lowrank/training/steps.py"
    changed = source.read_text().replace("DEAD_MEASUREMENTS = 3", "DEAD_MEASUREMENTS = 2")
    source.write_text(changed)
    train(project)
    assert wandb_server.run("a").files["diff.patch"].decode() == git(project, "diff", "HEAD")

    later = clone(upstream, "later")
    (later / "train.py").write_text((later / "train.py").read_text() + "# later\n")
    git(later, "commit", "--quiet", "--all", "--message=later")
    (later / "wandb").mkdir()  # the client writes the patch there and does not make it
    printed = run(later, "-m", "wandb", "restore", "tester/ranks/a")
    assert "Applied patch" in printed
    assert git(later, "branch", "--show-current").strip() == "wandb/a"
    assert git(later, "rev-parse", "HEAD") == git(project, "rev-parse", "HEAD")
    assert git(later, "diff", "HEAD") == git(project, "diff", "HEAD")
    restored = yaml.safe_load((later / "wandb/config.yaml").read_text())
    del restored["wandb_version"]
    stored = yaml.safe_load((project / "runs/a/config.yaml").read_text())
    assert {name: entry["value"] for name, entry in restored.items()} == stored

    printed = run(later, "-c", PROGRAM, "rerun", "tester/ranks/a", "--check")
    assert "warning" not in printed
    assert "check: bitwise identical: 3 epochs" in printed


@pytest.mark.slow
def test_restore_opens_the_image_with_the_command_at_hand(
    wandb_server, upstream, docker, monkeypatch
):
    _, calls = docker
    project = clone(upstream, "project")
    monkeypatch.setenv("WANDB_DOCKER", DIGEST)
    train(project)
    monkeypatch.delenv("WANDB_DOCKER")
    assert json.loads(wandb_server.run("a").files["wandb-metadata.json"])["docker"] == DIGEST
    printed = run(project, "-m", "wandb", "restore", "--no-git", "tester/ranks/a")
    assert "Docker image found, attempting to start" in printed
    (words,) = [words for words in calls() if words[0] == "run"]
    assert words[-3:-1] == ["-it", DIGEST]
    (command,) = [word for word in words if word.startswith("WANDB_COMMAND=")]
    assert f"{project}/train.py {' '.join(TINY)} --tracking=online" in command
    assert f"{project}:/app" in words


@pytest.mark.parametrize("is_pushed", [True, False], ids=["from a registry", "built here"])
@pytest.mark.usefixtures("wandb_server")
def test_docker_run_names_the_image_that_a_registry_holds(tmp_path, docker, is_pushed):
    make, calls = docker
    make(is_pushed=is_pushed)
    image = ("--rm", "--gpus=all", "registry.example.org/lowrank:1", "train", "--lr=0.2")
    printed = run(tmp_path, "-m", "wandb", "docker-run", *image)
    named = ["-e", f"WANDB_DOCKER={DIGEST}"] if is_pushed else []
    assert calls()[-1] == ["run", "-e", "WANDB_API_KEY", *named, *image]
    assert ("Couldn't detect image argument" in printed) == (not is_pushed)
