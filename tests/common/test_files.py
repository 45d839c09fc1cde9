"""Names of files as users give them."""

from __future__ import annotations

from pathlib import Path

import pytest

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


@pytest.mark.parametrize(
    "words",
    [
        ["train.py", f"--output_dir={NOBODY}"],
        ["train.py", "--dataset=imagefolder", f"--data_dir={NOBODY}"],
        ["data", "imagefolder", f"--data_dir={NOBODY}"],
        ["sweep", "tiny.yaml", "--gpus=none", f"--output_dir={NOBODY}"],
        ["agent", "me/p/ab12", "--gpus=none", f"--output_dir={NOBODY}"],
    ],
    ids=["train", "train's data", "data", "sweep", "agent"],
)
def test_a_home_that_is_not_known_is_a_line(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOWRANK_TRACKING", "disabled")
    write_sweep(tmp_path, {"seed": {"values": [0]}})
    program, *rest = words
    assert (train.main(rest) if program == "train.py" else main(words)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"got '{NOBODY}', but no home directory of nosuchuser is known here" in error
