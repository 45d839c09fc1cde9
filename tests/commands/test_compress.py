"""`lowrank compress` and `lowrank spectra --truncate` on a run of train.py, and hostile input.

What the file gives back is compared with the run's own network, truncated by numpy's SVD.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import lowrank
import train
from lowrank.cli import main
from lowrank.data import load_dataset
from lowrank.data.batches import normalise
from lowrank.measure.truncation import LADDER
from lowrank.runs import checkpoints

FLAGS = (
    *("--epochs=4", "--train_size=400", "--width=24", "--depth=3", "--truncation_every=2"),
    *("--tracking=disabled", "--threads=1", "--batch_size=32", "--lr=0.2", "--weight_decay=0.02"),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("runs")
    assert train.main([*FLAGS, f"--output_dir={place}", "--run_id=a"]) == 0
    return place / "a"


def test_the_file_gives_the_network_whose_accuracy_was_said(trained, tmp_path, capsys):
    file = tmp_path / "model.pt"
    assert main(["compress", str(trained), "--share=0.25", "-o", str(file)]) == 0
    printed = capsys.readouterr().out
    stored = torch.load(file, weights_only=True)
    network = lowrank.load_compressed(file)
    images = normalise(load_dataset("digits").test.images, stored["mean"], stored["std"])
    labels = load_dataset("digits").test.labels
    with torch.no_grad():
        accuracy = (network(images).argmax(1) == labels).double().mean().item()
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert f"{accuracy:.2%}" in printed
    assert f"{parameters:,}" in printed
    assert stored["ranks"] == {f"linear{layer}": 6 for layer in (1, 2, 3)}
    state = checkpoints.load(trained / "checkpoint.pt")["model"]
    for layer, rank in stored["ranks"].items():
        u, s, vh = np.linalg.svd(state[f"{layer}.weight"].double().numpy(), full_matrices=False)
        first, second = (stored["model"][f"{layer}.{part}.weight"].double() for part in (0, 1))
        np.testing.assert_allclose(second @ first, (u * s)[:, :rank] @ vh[:rank], atol=1e-6)


def test_layers_that_do_not_gain_stay_and_are_said(trained, tmp_path, capsys):
    file = tmp_path / "model.pt"
    assert main(["compress", str(trained), "--energy=1", "-o", str(file)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("as it was: two factors would be no smaller") == 3
    state = checkpoints.load(trained / "checkpoint.pt")["model"]
    kept = lowrank.load_compressed(file).state_dict()
    assert state.keys() == kept.keys()
    assert all(torch.equal(kept[name], tensor) for name, tensor in state.items())


def test_a_collapsed_network_is_said_to_be_one(tmp_path, capsys):
    flags = ["--lr=0.4", "--weight_decay=2.4", "--batch_size=2", "--batch_norm=False", "--epochs=1"]
    flags += ["--train_size=400", "--width=24", "--depth=3", "--tracking=disabled", "--threads=1"]
    assert train.main([*flags, f"--output_dir={tmp_path}", "--run_id=a"]) == 0
    assert main(["compress", str(tmp_path / "a"), "-o", str(tmp_path / "model.pt")]) == 0
    assert "note: the run is collapsed and has no rank: " in capsys.readouterr().out


def test_spectra_of_a_run_tell_the_accuracies_that_its_record_holds(trained, capsys):
    assert main(["spectra", str(trained), "--truncate", "--json"]) == 0
    (document,) = json.loads(capsys.readouterr().out)["files"]
    metrics = lowrank.load_run(trained).metrics
    recorded = {name: values[-1] for name, values in metrics.items() if "truncated" in name}
    assert document["truncated"] == recorded
    assert len(recorded) == 2 * len(LADDER)
    assert main(["spectra", str(trained), "--truncate"]) == 0
    printed = capsys.readouterr().out
    assert re.search(rf"full rank +24.0 +{100 * metrics['test_accuracy'][-1]:.2f} %", printed)


def test_hostile_input_is_a_line_and_leaves_all_as_it_was(trained, tmp_path, capsys):
    (tmp_path / "there.pt").write_text("mine")
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare/config.yaml").write_bytes((trained / "config.yaml").read_bytes())
    (tmp_path / "other").mkdir()
    (tmp_path / "other/record.sqlite").write_bytes((trained / "record.sqlite").read_bytes())
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/config.yaml").write_bytes((trained / "config.yaml").read_bytes())
    (tmp_path / "broken/checkpoint.pt").write_bytes(b"PK" + bytes(200))
    new = tmp_path / "new.pt"
    for words, told in {
        (tmp_path / "bare",): "no checkpoint.pt",
        (tmp_path / "other",): "has no config.yaml",
        (tmp_path / "nowhere",): "there is no such directory",
        (tmp_path / "broken",): "the checkpoint is truncated",
        (trained, "--energy=0"): "energy: got '0'; allowed: a number above 0 and at most 1",
        (trained, "--energy=1.5"): "energy: got '1.5'; allowed: a number above 0",
        (trained, "--share=nan"): "share: got 'nan'; allowed: a number above 0",
        (trained, "--share=0.5", "--energy=0.5"): "--energy and --share both say what is kept",
        (trained, "-o", tmp_path / "there.pt"): "there.pt' exists; allowed: a file that does not",
        (trained, "-o", tmp_path / "x.onnx"): "allowed: a file that ends with .pt or .pth",
        (trained, "--data_dir"): "data_dir",
        (): "which run?",
    }.items():
        output = () if "-o" in words else ("-o", new)
        assert main(["compress", *map(str, (*words, *output))]) == 2, words
        captured = capsys.readouterr()
        assert captured.out == ""
        assert told in captured.err
        assert len(captured.err.splitlines()) == 1
    assert not new.exists()
    assert (tmp_path / "there.pt").read_text() == "mine"
    for words, told in {
        (tmp_path / "other", "--truncate"): "has no config.yaml",
        (trained, "--truncate", "--csv"): "--truncate is of networks",
        (trained, "--data_dir=x"): "data_dir is for --truncate",
    }.items():
        assert main(["spectra", *map(str, words)]) == 2
        assert told in capsys.readouterr().err
    with pytest.raises(lowrank.common.errors.InputError, match="is no compressed model"):
        lowrank.load_compressed(trained / "checkpoint.pt")
