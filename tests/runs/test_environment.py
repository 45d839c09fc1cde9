"""What is said about a process, against git itself and /proc; and that no secret is in it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lowrank.common.secrets import redact
from lowrank.runs import environment
from lowrank.runs.environment import DIFF_LIMIT, describe_code, describe_environment

OLD_KEY = "0123456789abcdef0123456789abcdef01234567"
NEW_KEY = "wandb_v1_" + "Ab3_" * 20


def git(directory: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Ann", "-c", "user.email=ann@example.org"]
    command = ["git", "-C", str(directory), *identity, *arguments]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=clean).stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    directory = tmp_path / "project"
    directory.mkdir()
    git(directory, "init", "--quiet")
    (directory / "train.py").write_text("lr = 0.1\n")
    (directory / ".gitignore").write_text("runs\n")
    git(directory, "add", ".")
    git(directory, "commit", "--quiet", "--message=first")
    return directory


def test_every_part_is_there_and_json():
    described = describe_environment(device="cpu", threads=3, argv=["train.py", "--name=a b"])
    assert json.loads(json.dumps(described)) == described
    assert list(described) == [
        "commit", "diff", "untracked", "versions", "device", "device_name", "threads", "cores",
        "command", "host", "os", "image", "sweep", "started",
    ]  # fmt: skip
    assert described["device"] == "cpu"
    assert described["threads"] == 3
    assert described["command"] == "train.py '--name=a b'"
    assert described["versions"]["python"] == sys.version.split()[0]
    assert described["versions"]["torch"] == importlib.metadata.version("torch")
    assert set(described["versions"]) == {
        "python", "lowrank", "torch", "torchvision", "numpy", "wandb",
    }  # fmt: skip
    assert described["cores"] == len(os.sched_getaffinity(0))
    assert described["host"] == os.uname().nodename
    assert described["image"] is described["sweep"] is None
    age = datetime.now(UTC) - datetime.fromisoformat(described["started"])
    assert timedelta(0) <= age < timedelta(seconds=30)


def test_the_processor_is_named_as_the_kernel_names_it():
    described = describe_environment(device="cpu", threads=1, argv=[])
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = {line.split(":")[1].strip() for line in lines if line.startswith("model name")}
    assert described["device_name"] in (names or {os.uname().machine})


def test_a_missing_package_has_no_version(monkeypatch):
    monkeypatch.setattr(environment, "PACKAGES", ("numpy", "no-such-package"))
    versions = describe_environment(device="cpu", threads=1, argv=[])["versions"]
    assert versions["no-such-package"] is None


def test_nothing_heavy_is_imported_and_it_is_quick():
    program = (
        "import sys, time\n"
        "from lowrank.runs.environment import describe_environment\n"
        "describe_environment(device='cpu', threads=1, argv=sys.argv)\n"
        "begin = time.process_time()\n"
        "describe_environment(device='cpu', threads=1, argv=sys.argv)\n"
        "print(time.process_time() - begin)\n"
        "print([name for name in ('torch', 'numpy', 'wandb') if name in sys.modules])\n"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    seconds, imported = output.stdout.splitlines()
    assert imported == "[]"
    assert float(seconds) < 0.05


# ------------------------------------------------------------------------------------ the code


def test_a_clean_checkout(checkout):
    commit = git(checkout, "rev-parse", "HEAD").strip()
    assert describe_code(checkout) == {"commit": commit, "diff": "", "untracked": []}


def test_a_dirty_checkout(checkout):
    (checkout / "train.py").write_text("lr = 0.2\n")
    (checkout / "staged.py").write_text("staged = 1\n")
    git(checkout, "add", "staged.py")
    (checkout / "new file é.py").write_text("secret content")
    (checkout / "runs").mkdir()
    (checkout / "runs" / "ignored").touch()
    described = describe_code(checkout)
    assert described["diff"] == git(checkout, "diff", "HEAD")
    assert "+lr = 0.2" in described["diff"]
    assert "+staged = 1" in described["diff"]
    assert described["untracked"] == ["new file é.py"]
    assert "secret content" not in json.dumps(described)


def test_a_diff_of_any_size_is_kept_short(checkout):
    (checkout / "train.py").write_text("x = 1\n" * DIFF_LIMIT)
    for number in range(300):
        (checkout / f"{number:03d}.txt").touch()
    described = describe_code(checkout)
    assert DIFF_LIMIT <= len(described["diff"]) < DIFF_LIMIT + 200
    assert "more characters of the diff were left out" in described["diff"][-100:]
    assert len(described["untracked"]) == 201
    assert described["untracked"][-1] == "… and 100 more"


@pytest.mark.parametrize("variable", ["WANDB_GIT_COMMIT", "LOWRANK_COMMIT"])
def test_without_git_the_commit_is_the_images(tmp_path, monkeypatch, variable):
    assert describe_code(tmp_path) == {"commit": None, "diff": None, "untracked": None}
    monkeypatch.setenv(variable, "c0ffee")
    monkeypatch.setenv("WANDB_DOCKER", "registry/lowrank@sha256:1")
    assert describe_code(tmp_path) == {"commit": "c0ffee", "diff": None, "untracked": None}
    described = describe_environment(device="cpu", threads=1, argv=[])
    assert described["image"] == "registry/lowrank@sha256:1"


def test_an_outer_repository_is_not_taken_for_the_projects(checkout):
    """Installed into another project's tree, the code is not of that project's commit."""
    inner = checkout / "vendor"
    inner.mkdir()
    assert describe_code(inner)["commit"] is None


def test_a_repository_without_commit_has_none(tmp_path):
    git(tmp_path, "init", "--quiet")
    assert describe_code(tmp_path)["commit"] is None


def test_a_checkout_in_an_image_is_not_of_the_images_commit(checkout, monkeypatch, tmp_path):
    """Without git, as in the image, it is of an unknown one."""
    monkeypatch.setenv("LOWRANK_COMMIT", "c0ffee")
    monkeypatch.setenv("WANDB_GIT_COMMIT", "c0ffee")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert describe_code(checkout)["commit"] is None


def test_git_that_is_missing_or_hangs_does_not_hold_up_the_run(checkout, monkeypatch, tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    monkeypatch.setenv("PATH", str(tools))
    assert describe_code(checkout)["commit"] is None
    (tools / "git").write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    (tools / "git").chmod(0o755)
    monkeypatch.setattr(environment, "_GIT_SECONDS", 0.1)
    begin = time.monotonic()
    assert describe_code(checkout)["commit"] is None
    assert time.monotonic() - begin < 10


def test_a_hooks_variables_do_not_point_git_elsewhere(checkout, tmp_path, monkeypatch):
    commit = describe_code(checkout)["commit"]
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert describe_code(checkout)["commit"] == commit is not None


# ------------------------------------------------------------------------------------ secrets


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["t.py", "--api_key=hunter22"], "t.py '--api_key=***'"),
        (["t.py", "--api-key", "hunter22", "--lr=1"], "t.py --api-key '***' --lr=1"),
        (["t.py", "--wandb_token", "--lr=1"], "t.py --wandb_token --lr=1"),
        (["t.py", f"--name={OLD_KEY}"], "t.py '--name=***'"),
        (["t.py", NEW_KEY], "t.py ***"),
        (["t.py", "--url=https://ann:pw@host/x"], "t.py --url=https://***@host/x"),
        (["t.py", "--keep_checkpoint=all", "--lr=1e-4"], "t.py --keep_checkpoint=all --lr=1e-4"),
    ],
    ids=["flag=", "flag", "no value", "old W&B key", "new W&B key", "address", "harmless"],
)
def test_the_command_holds_no_secret(argv, expected):
    command = describe_environment(device="cpu", threads=1, argv=argv)["command"]
    assert command.replace("'", "") == expected.replace("'", "")


def test_no_secret_of_the_environment_is_told(checkout, monkeypatch):
    secrets = {
        "WANDB_API_KEY": "my-own-key-123",
        "HF_TOKEN": "token-456",
        "DB_PASSWORD": "pw-78901",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    text = "\n".join([*secrets.values(), OLD_KEY, NEW_KEY, "git://a:b@c/d", "kept = 'this line'"])
    (checkout / "train.py").write_text(text)
    (checkout / "my-own-key-123.txt").touch()
    described = json.dumps(
        [
            describe_code(checkout),
            describe_environment(device="cpu", threads=1, argv=list(secrets.values())),
        ]
    )
    for secret in (*secrets.values(), OLD_KEY, NEW_KEY, "a:b"):
        assert secret not in described
    assert "+kept = 'this line'" in described


def test_a_submodules_commit_is_no_key():
    line = f"+Subproject commit {OLD_KEY}\n"
    assert redact(line) == line


def test_a_git_that_refuses_is_told_and_the_commit_of_the_variable_taken(
    checkout, monkeypatch, tmp_path
):
    assert environment.git_refusal(checkout) == ""
    program = tmp_path / "bin" / "git"
    program.parent.mkdir()
    program.write_text(
        "#!/bin/sh\necho 'fatal: detected dubious ownership in repository' >&2; exit 128"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.setenv("WANDB_GIT_COMMIT", "c0ffee")
    assert describe_code(checkout) == {"commit": "c0ffee", "diff": None, "untracked": None}
    told = "fatal: detected dubious ownership in repository"
    assert environment.git_refusal(checkout) == told
    program.write_text("#!/bin/sh\nexec sleep 60")
    monkeypatch.setattr(environment, "_GIT_SECONDS", 0.2)
    assert environment.git_refusal(checkout) == "it took more than 0 s"
    assert describe_code(checkout)["commit"] == "c0ffee"
