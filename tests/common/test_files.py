"""Names of files as users give them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import lowrank
import train
from lowrank.cli import main
from lowrank.common.errors import InputError
from lowrank.common.files import expanded
from tests.launch.sweeps.helpers import write_sweep

NOBODY = "~nosuchuser/runs"


def test_home_directories_are_put_in_the_place_of_their_sign(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    assert expanded("~/runs") == Path("/somewhere/runs")
    assert expanded("runs/~") == Path("runs/~")
    with pytest.raises(InputError, match="got '~nosuchuser', but no home directory of nosuchuser"):
        expanded("~nosuchuser")
    with pytest.raises(InputError, match="no home directory"):
        expanded("~\0")


def test_a_shell_leaves_the_sign_of_a_home_behind_a_flag_to_the_program(tmp_path, monkeypatch):
    """As in ``--output=~/f``; Python leaves it, too."""
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LOWRANK_TRACKING", "disabled")
    monkeypatch.chdir(tmp_path)
    watcher = lowrank.watch(torch.nn.Linear(3, 2), record="~/runs/mine")
    watcher.log(0)
    watcher.close()
    assert lowrank.load_run("~/runs/mine").id == "mine"
    assert [run.id for run in lowrank.load_sweep("~/runs")] == ["mine"]
    write_sweep(tmp_path / "home", {"seed": {"values": [0]}})
    assert main(["sweep", "~/tiny.yaml", "--dry_run", "--gpus=none", "--output_dir=~/runs"]) == 0
    assert main(["report", "home/runs/mine", "--output=~/r.html"]) == 0
    assert main(["figures", "home/runs", "--output=~/f.png", "--kind=curves", "--dpi=50"]) == 0
    assert main(["dashboard", "me/p", "--dump=~/d.json"]) == 0
    assert (tmp_path / "home/r.html").exists()
    assert (tmp_path / "home/f.png").exists()
    assert (tmp_path / "home/d.json").exists()
    assert not (tmp_path / "~").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["train.py", f"--output_dir={NOBODY}"],
        ["train.py", "--dataset=imagefolder", f"--data_dir={NOBODY}"],
        ["data", "imagefolder", f"--data_dir={NOBODY}"],
        ["sweep", "tiny.yaml", "--gpus=none", f"--output_dir={NOBODY}"],
        ["agent", "me/p/ab12", "--gpus=none", f"--output_dir={NOBODY}"],
        ["train.py", f"--config={NOBODY}"],
        ["figures", "runs", f"--output={NOBODY}"],
        ["dashboard", "me/p", f"--dump={NOBODY}"],
    ],
    ids=["train", "train's data", "data", "sweep", "agent", "a file", "figures", "dashboard"],
)
def test_a_home_that_is_not_known_is_a_line(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOWRANK_TRACKING", "disabled")
    write_sweep(tmp_path, {"seed": {"values": [0]}})
    program, *rest = words
    assert (train.main(rest) if program == "train.py" else main(words)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"got '{NOBODY}', but no home directory of nosuchuser is known here" in error
