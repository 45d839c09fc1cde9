"""A soak of one turn, and that a soak notices what is lost: records spoiled on purpose."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest

from lowrank import load_run
from lowrank.runs.writer import Record
from tests import soak
from tests.running import TINY, Training


def test_one_turn_causes_faults_and_loses_nothing(tmp_path, capsys):
    assert soak.main(["--seconds=0", f"--output_dir={tmp_path}"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 3  # a line for each run, and the end
    counts = [int(number) for number in re.findall(r": (\d+)", shown[-1])]
    caused, completed, lost = counts
    assert caused >= 2
    assert (completed, lost) == (2, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["undisturbed"]


@pytest.mark.parametrize("loss", ["an epoch", "a value"])
def test_a_loss_is_counted_and_told(tmp_path, loss):
    training = Training(tmp_path, *TINY, "--epochs=3", "--run_id=a", "--tracking=disabled")
    assert training.wait() == 0, training.text
    whole = tmp_path / "runs/a"
    spoiled = shutil.copytree(whole, tmp_path / "spoiled")
    checked = soak.Soak(tmp_path, 0, 0)
    checked._compare(spoiled, whole, 3)
    assert (checked.counts.lost, checked.counts.problems) == (0, [])
    if loss == "a value":
        with Record.open(spoiled / "record.sqlite") as record:
            run = load_run(spoiled)
            row = {name: values[1] for name, values in run.metrics.items()}
            spectra = {name: values[1] for name, values in run.spectra.items()}
            record.append(1, row | {"train_loss": np.nextafter(row["train_loss"], 9)}, spectra)
        checked._compare(spoiled, whole, 3)
    else:
        checked._compare(spoiled, whole, 4)  # as if there had been one more
    assert checked.counts.lost == 1
    assert len(checked.counts.problems) == 1
