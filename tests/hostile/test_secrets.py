"""No secret in anything that a run writes or sends: a real training against a server of our own.

What looks like a secret to `lowrank.common.secrets.redact` is tested in
tests/runs/test_environment.py.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import train
from lowrank import cli
from tests.hostile.calls import answer

ROOT = Path(__file__).resolve().parent.parent.parent
TINY = ("--epochs=1", "--train_size=64", "--width=8", "--depth=1", "--threads=1", "--run_id=a")
PASSWORD, ENV_SECRET = "pw-in-the-remote", "secret-in-dot-env"


def git(*words: str) -> None:
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    subprocess.run(["git", *identity, *words], check=True, capture_output=True)


def holding(secret: str, *places: Path) -> list[str]:
    """Returns the files below some directories that hold a text."""
    files = [file for place in places for file in place.rglob("*") if file.is_file()]
    return [str(file) for file in files if secret.encode() in file.read_bytes()]


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A user's own repository, with a password in its remote and a changed file of secrets."""
    place = tmp_path / "checkout"
    place.mkdir()
    monkeypatch.chdir(place)
    git("init", "-q")
    git("remote", "add", "origin", f"https://ann:{PASSWORD}@example.org/x.git")
    (place / ".env").write_text("KEY=\n")
    git("add", "-A")
    git("commit", "-qm", "one")
    (place / ".env").write_text(f"KEY={ENV_SECRET}\n")
    return place


@pytest.mark.slow  # an online run
def test_no_key_and_no_password_is_written_or_sent(wandb_server, checkout, clean_environment):
    """The training is a process of its own: everything that it writes, it writes here."""
    key = wandb_server.environment["WANDB_API_KEY"]
    words = [sys.executable, str(ROOT / "train.py"), *TINY]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert wandb_server.run("a").state == "finished"
    code, out, err = answer(cli.main, ["report", "runs"])
    assert code == 0
    assert Path("runs/a/record.sqlite").exists()
    assert list(Path("runs/a/wandb").glob("run-*/logs/debug-internal.log"))
    # The second holds all that the server has got, and the client's own directories.
    assert holding(key, checkout, clean_environment) == []
    assert key not in done.stdout + done.stderr + out + err
    # W&B's client itself takes the password out of the remote, and sends no difference.
    assert holding(PASSWORD, checkout, clean_environment) == [str(checkout / ".git/config")]
    assert holding(ENV_SECRET, checkout, clean_environment) == [str(checkout / ".env")]


@pytest.mark.parametrize(
    "flag", ["--name={}", "--tags=[a,{}]", "--data_dir=x/{}", "--config={{group: {}}}"]
)
def test_a_key_given_as_a_setting_is_refused_and_not_written(monkeypatch, tmp_path, flag):
    key = "0123456789abcdef" * 2 + "01234567"
    monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.chdir(tmp_path)
    code, out, err = answer(train.main, [*TINY, "--tracking=offline", flag.format(key)])
    assert code == 2
    assert "holds the secret of WANDB_API_KEY" in err
    assert key not in out + err
    assert list(tmp_path.iterdir()) == []
