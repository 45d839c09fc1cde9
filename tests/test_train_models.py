"""Every family of networks through the whole program: what is recorded, resumed and stopped.

Quantities are checked against numpy's SVD of the checkpoint's weights, multiplied out by hand where
the network has them in parts.
"""

from __future__ import annotations

import hashlib
import signal

import numpy as np
import pytest
import torch

import lowrank
from lowrank import cli
from lowrank.config import Config
from lowrank.runs.directory import complete
from lowrank.runs.environment import available_cores
from lowrank.views.report.one import section
from train import main

VIT = ("--model=vit", "--vit_depth=2", "--vit_width=16", "--vit_heads=2", "--vit_mlp_width=24")
GPT = (
    *("--model=gpt", "--gpt_depth=1", "--gpt_width=16", "--gpt_heads=2"),
    *("--context=16", "--lr=0.05"),
)
RUNS = {  # flags, weight matrices, those in rank_mean
    "mlp without BatchNorm": (("--depth=2", "--width=8", "--batch_norm=False"), 3, 2),
    "weight-normalised mlp": (
        ("--depth=2", "--width=8", "--batch_norm=False", "--weight_norm=True"), 3, 2,
    ),
    "resmlp": (("--model=resmlp", "--depth=2", "--width=8"), 6, 5),
    "mixed": (("--model=mixed", "--depth=2", "--width=8", "--image_size=8"), 11, 10),
    "convnet with mse": (("--model=convnet", "--depth=2", "--width=8", "--loss=mse"), 5, 4),
    "vit with adamw": ((*VIT, "--optimizer=adamw", "--lr=0.001", "--dropout=0.1"), 14, 13),
    "gpt": ((*GPT, "--dataset=pydoc"), 7, 6),
    "vgg11 with dropout": (("--model=vgg11", "--dropout=0.5"), 9, 8),
    "resnet34": (("--model=resnet34", "--image_size=8"), 37, 33),
    "resnet50": (("--model=resnet50", "--image_size=8"), 54, 49),
}  # fmt: skip
SLOW = ("vgg11 with dropout", "resnet34", "resnet50")


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Runs main on a few digits in an empty directory; returns the exit code."""
    monkeypatch.chdir(tmp_path)

    def run(*flags):
        fixed = ("--train_size=40", "--epochs=2", "--threads=1", "--tracking=disabled")
        names = {flag.partition("=")[0] for flag in flags}
        return main([*(flag for flag in fixed if flag.partition("=")[0] not in names), *flags])

    return run


@pytest.mark.parametrize(
    ("flags", "count", "counted"),
    [
        pytest.param(*run, id=name, marks=[pytest.mark.slow] if name in SLOW else [])
        for name, run in RUNS.items()
    ],
)
def test_every_family_trains_and_is_measured(train, tmp_path, capsys, flags, count, counted):
    assert train("--run_id=a", *flags) == 0
    run = lowrank.load_run(tmp_path / "runs/a")
    assert run.state == "finished"
    hidden = [layer.name for layer in run.layers if layer.counted]
    assert (len(run.layers), len(hidden)) == (count, counted)
    for layer in run.layers:
        spectra = run.spectra[layer.name]
        assert spectra.shape == (3, min(layer.shape))
        assert np.isfinite(spectra).all()
        assert run.metrics[f"rank/{layer.name}"][0] == min(layer.shape), "random matrices are full"
    ranks = [run.metrics[f"rank/{name}"] for name in hidden]
    np.testing.assert_array_equal(run.metrics["rank_mean"], np.mean(ranks, axis=0))
    assert run.metrics["train_loss"][-1] != run.metrics["train_loss"][0]
    shown = capsys.readouterr().out
    assert all(f"\n{layer.name} " in shown for layer in run.layers), "the listing names each"


def test_a_network_in_parts_has_a_mean_of_each_everywhere(train, tmp_path, capsys):
    flags, *_ = RUNS["mixed"]
    assert train("--run_id=a", *flags, "--epochs=1", "--epsilons=[0.05,0.001]") == 0
    shown = capsys.readouterr().out
    run = lowrank.load_run(tmp_path / "runs/a")
    for part in ("convolutions", "linears"):
        names = [layer.name for layer in run.layers if layer.name.startswith(f"{part}_")]
        assert [layer.name for layer in run.layers if layer.part == part] == names
        assert len(names) == 4
        for suffix in ("", "@0.001"):
            ranks = np.mean([run.metrics[f"rank{suffix}/{name}"] for name in names], axis=0)
            np.testing.assert_array_equal(run.metrics[f"rank_mean{suffix}/{part}"], ranks)
        assert f"\nrank_mean/{part} " in shown
    assert cli.main(["figures", "runs", "--metric=rank_mean/convolutions"]) == 0
    assert "average rank of the convolutions" in capsys.readouterr().out
    assert cli.main(["report", "runs", "-o", "r.html"]) == 0
    assert "average rank of the linears" in (tmp_path / "r.html").read_text()


def test_the_spectrum_of_a_weight_normalised_matrix_is_that_of_gain_times_direction(
    train, tmp_path
):
    flags, *_ = RUNS["weight-normalised mlp"]
    assert train("--run_id=a", "--lr=0.5", *flags) == 0
    run = lowrank.load_run(tmp_path / "runs/a")
    state = torch.load(tmp_path / "runs/a/checkpoint.pt", weights_only=True)["model"]
    for layer in ("linear1", "linear2"):
        gain, direction = (
            state[f"{layer}.parametrizations.weight.original{i}"].double().numpy() for i in (0, 1)
        )
        singular = np.linalg.svd(direction, compute_uv=False)
        expected = abs(gain) * singular / np.sqrt((singular**2).sum())
        np.testing.assert_allclose(run.spectra[layer][-1], expected, rtol=1e-5)
    assert [layer.positions for layer in run.layers] == [None, None, 1]
    assert not any(name.startswith("rank_bound/linear") for name in run.metrics)


def test_the_report_says_of_bounds_what_training_said(train, tmp_path, capsys):
    flags, *_ = RUNS["weight-normalised mlp"]
    assert train("--run_id=a", "--epochs=1", *flags) == 0
    shown = capsys.readouterr().out
    run = lowrank.load_run(tmp_path / "runs/a")
    said = run.environment["theory"]
    assert "rank bound: no claim for 2 of 3 layers, parametrised or not applied" in said
    assert all(f"{line}\n" in shown for line in said)
    words = section(run, 1)["bound_words"]
    assert words.lower() == ". ".join(said).lower() + "."


def test_a_weight_normalised_network_whose_gains_vanish_has_collapsed(train, tmp_path):
    # Each step leaves a thousandth of gains and directions: the matrix goes, its direction stays.
    flags, *_ = RUNS["weight-normalised mlp"]
    collapsing = ("--lr=0.999", "--weight_decay=1", "--on_collapse=stop", "--epochs=5")
    assert train("--run_id=a", *collapsing, *flags) == 0
    run = lowrank.load_run(tmp_path / "runs/a")
    assert run.state == "collapsed"
    assert run.epochs[-1] < 5
    assert run.metrics["collapsed"][-1] > 0
    assert np.isnan(run.metrics["rank_mean"][-1])


def test_a_run_with_dropout_goes_on_bitwise_from_within_an_epoch(train, tmp_path, monkeypatch):
    # Dropout draws masks at every step: going on needs the generator's state within the epoch.
    flags = (*VIT, "--dropout=0.5", "--batch_size=8", "--optimizer=adam", "--lr=0.001")
    assert train("--run_id=undisturbed", *flags) == 0
    step, steps = torch.optim.Adam.step, []

    def signalled(self, *arguments):
        steps.append(step(self, *arguments))
        if len(steps) == 3:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", signalled)
        assert train("--run_id=a", *flags) == 143
    run = lowrank.load_run(tmp_path / "runs/a")
    state = torch.load(tmp_path / "runs/a/checkpoint.pt", weights_only=True)
    assert (run.state, state["epoch"]) == ("stopped", 0)
    assert state["step"] == 3
    assert train("--run_id=a", *flags) == 0
    again, undisturbed = (
        lowrank.load_run(tmp_path / "runs" / name) for name in ("a", "undisturbed")
    )
    assert again.epochs.tolist() == undisturbed.epochs.tolist() == [0, 1, 2]
    for name in ("train_loss", "test_loss", "rank_mean", "stable_rank_mean"):
        assert again.metrics[name].tobytes() == undisturbed.metrics[name].tobytes(), name
    for layer in undisturbed.spectra:
        assert again.spectra[layer].tobytes() == undisturbed.spectra[layer].tobytes(), layer


def test_a_run_on_a_text_goes_on_bitwise_and_refuses_another_text(train, tmp_path, capsys):
    own = tmp_path / "own.txt"
    own.write_text("what follows what, and where? " * 50)
    flags = (*GPT, "--dataset=text", f"--data_dir={own}", "--batch_size=8")
    assert train("--run_id=undisturbed", *flags) == 0
    assert train("--run_id=a", "--epochs=1", "--keep_checkpoint=all", *flags) == 0
    whole = own.read_bytes()
    own.write_bytes(whole.replace(b"where", b"there"))
    before = (tmp_path / "runs/a/record.sqlite").read_bytes()
    capsys.readouterr()
    assert train("--run_id=a", *flags) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"dataset=text: {own} is another text than the run learned from" in line
    assert f"with SHA-256 {hashlib.sha256(whole).hexdigest()[:12]}…" in line
    assert (tmp_path / "runs/a/record.sqlite").read_bytes() == before
    assert cli.main(["compress", "runs/a", "--share=0.5", "-o", "c.pt"]) == 2
    own.write_bytes(whole)
    assert train("--run_id=a", *flags) == 0
    again, undisturbed = (
        lowrank.load_run(tmp_path / "runs" / name) for name in ("a", "undisturbed")
    )
    for name in ("train_loss", "test_loss", "test_accuracy", "rank_mean"):
        assert again.metrics[name].tobytes() == undisturbed.metrics[name].tobytes(), name
    for layer in undisturbed.spectra:
        assert again.spectra[layer].tobytes() == undisturbed.spectra[layer].tobytes(), layer
    assert cli.main(["compress", "runs/a", "--share=0.5", "-o", "c.pt"]) == 0
    assert "FLOPs per window" in capsys.readouterr().out
    network, text = lowrank.load_compressed("c.pt"), torch.tensor([list(whole[:16])])
    assert network(text).shape == (1, 16, 256)
    assert cli.main(["spectra", "runs/a"]) == 0
    assert cli.main(["report", "runs", "-o", "r.html"]) == 0


def test_an_image_size_that_a_model_cannot_take_is_bad_input(train, capsys):
    assert train("--model=vgg16", "--dataset=synthetic", "--image_size=16") == 2
    line = "image_size=16: too small for model=vgg16; image_size=32 or more works"
    assert line in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fields", "threads"),
    [
        ({"model": "mlp", "width": 256}, 1),
        ({"model": "mlp", "width": 257}, available_cores()),
        ({"model": "resmlp", "width": 256}, 1),
        ({"model": "resmlp", "width": 257}, available_cores()),
        ({"model": "convnet", "width": 10}, available_cores()),
        ({"model": "vit"}, available_cores()),
        ({"model": "vit", "threads": 3}, 3),
    ],
    ids=str,
)
def test_narrow_networks_of_linear_layers_get_one_thread(fields, threads):
    assert complete(Config(**fields)).threads == threads
