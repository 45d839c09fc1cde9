"""Replicas against single runs of the same seeds by the ordinary path, and against numpy.

In float64 both are the same computation up to rounding; in float32 only at first, which is why most
of this is done with modules and images of float64. Run with
``pytest tests/training/test_replicas.py``.
"""

from __future__ import annotations

import math
import os
import signal

import numpy as np
import pytest
import torch
from torch import nn

import lowrank
from lowrank.common.errors import InputError
from lowrank.config import Config
from lowrank.config.arguments import parse
from lowrank.data import Batches, load_dataset
from lowrank.measure.watcher import Watcher
from lowrank.models import build_model
from lowrank.training import replicas, steps
from lowrank.training.learner import Learner
from lowrank.training.replicas import Replicas
from tests.running import is_timing
from tests.segments import inspect, segments
from tests.test_train import assert_same_record, spawn, wait_for_epoch
from train import main

SEEDS = range(3, 6)
SIZE = 101  # leaves a last batch of 5 with the batch size of 32


class DoubleBatches(Batches):
    """Batches in float64, which the configuration has no precision for."""

    def epoch(self, order, start=0):
        for images, labels in super().epoch(order, start):
            yield images.double(), labels


def convolutional(*_):
    """Builds a small convolutional network with BatchNorm."""
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.LeakyReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 8, 3, stride=2, groups=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
        *(nn.Flatten(), nn.Linear(8, 10)),
    )


def learners(config, dataset, build=build_model, dtype=torch.float64):
    """Returns the learner of the replicas, and those of the same seeds alone."""

    def network(seed):
        steps.seed_epoch(seed, 0)
        return build(config, dataset.image_shape, dataset.num_classes).to(dtype)

    batched = Replicas([network(seed) for seed in SEEDS])
    together = Learner(config, dataset, batched, SEEDS)
    return together, [Learner(config, dataset, network(seed), [seed]) for seed in SEEDS]


def go_on():
    return True


def deviations(together, alone):
    """Yields name and relative deviation in norm of every parameter and running statistic."""
    for network, learner in zip(together.networks, alone, strict=True):
        expected = learner.model.state_dict()
        for name, tensor in network.state_dict().items():
            difference = (tensor - expected[name]).double().norm()
            yield name, float(difference / expected[name].double().norm())


@pytest.fixture
def digits():
    return load_dataset("digits", train_size=SIZE)


def attending(*_):
    """Builds a small network with attention over the rows of an image."""

    class Attention(nn.MultiheadAttention):
        def forward(self, rows):
            return super().forward(rows, rows, rows, need_weights=False)[0]

    return nn.Sequential(
        *(nn.Flatten(1, 2), nn.LayerNorm(8), Attention(8, 2, batch_first=True)),
        *(nn.GELU(), nn.Flatten(), nn.Linear(64, 10)),
    )


CASES = {
    "BatchNorm": ({}, build_model),
    "no BatchNorm": ({"batch_norm": False, "activation": "leaky_relu"}, build_model),
    "momentum and decay": ({"momentum": 0.9, "lr": 0.05, "weight_decay": 0.02}, build_model),
    "adam": ({"optimizer": "adam", "lr": 1e-3, "weight_decay": 1e-2}, build_model),
    "adamw": ({"optimizer": "adamw", "lr": 1e-3, "batch_norm": False}, build_model),
    "squared error": ({"loss": "mse", "schedule": "cosine", "epochs": 3}, build_model),
    "attention": ({"momentum": 0.9, "lr": 0.02}, attending),
    "convolutions": ({"momentum": 0.5, "milestones": [2]}, convolutional),
}


@pytest.mark.parametrize(("fields", "build"), CASES.values(), ids=CASES)
def test_three_epochs_in_float64_are_those_of_each_seed_alone(monkeypatch, digits, fields, build):
    monkeypatch.setattr("lowrank.training.learner.Batches", DoubleBatches)
    config = Config(**({"width": 24, "depth": 3, "batch_size": 32} | fields))
    together, alone = learners(config, digits, build)
    before = [network.state_dict()[name].clone() for network, name in _first_weights(together)]
    for _ in range(3):
        for learner in (together, *alone):
            learner.train_epoch(go_on)
    for name, deviation in deviations(together, alone):
        assert deviation <= 1e-9, name
    for (network, name), first in zip(_first_weights(together), before, strict=True):
        assert not torch.equal(network.state_dict()[name], first), "nothing was trained"
    for split in (digits.train, digits.test):
        found = together.evaluate(split, go_on)
        expected = [learner.evaluate(split, go_on) for learner in alone]
        assert all(isinstance(number, float) for number in expected[0])
        np.testing.assert_allclose(found[0], [loss for loss, _ in expected], rtol=1e-9)
        np.testing.assert_array_equal(found[1], [accuracy for _, accuracy in expected])


def _first_weights(together):
    return [(network, next(iter(network.state_dict()))) for network in together.networks]


@pytest.mark.slow
def test_three_epochs_of_resnet18_in_float64_are_those_of_each_seed_alone(monkeypatch):
    monkeypatch.setattr("lowrank.training.learner.Batches", DoubleBatches)
    dataset = load_dataset("synthetic", train_size=19, image_size=16)
    together, alone = learners(Config(model="resnet18", lr=0.01, batch_size=8), dataset)
    for _ in range(3):
        for learner in (together, *alone):
            learner.train_epoch(go_on)
    assert max(deviation for _, deviation in deviations(together, alone)) <= 1e-9


def test_the_first_20_steps_in_float32_agree_to_1e_5():
    dataset = load_dataset("digits")
    together, alone = learners(Config(), dataset, dtype=torch.float32)
    for learner in (together, *alone):
        answers = iter([True] * 19 + [False])
        with pytest.raises(InterruptedError):
            learner.train_epoch(lambda answers=answers: next(answers))
        assert learner.step == 20
    for name, deviation in deviations(together, alone):
        assert deviation <= 1e-5, name


def test_weights_and_batches_are_drawn_as_each_seed_draws_them(digits):
    config = Config(width=12, depth=2, batch_size=32)
    together, alone = learners(config, digits, dtype=torch.float32)
    for network, learner in zip(together.networks, alone, strict=True):
        for ours, theirs in zip(
            network.state_dict().values(), learner.model.state_dict().values(), strict=True
        ):
            assert torch.equal(ours, theirs)
    order = together._draw_order(2)
    assert order.shape == (1, 3, SIZE)
    batches = list(together.batches.epoch(order))
    assert batches[-1][0].shape == (3, 5, 1, 8, 8)
    for index, learner in enumerate(alone):
        expected = list(learner.batches.epoch(learner._draw_order(2)))
        for (images, labels), (image, label) in zip(batches, expected, strict=True):
            assert torch.equal(images[index], image)
            assert torch.equal(labels[index], label)


def test_the_networks_are_the_stack_after_steps_and_after_loading(digits):
    config = Config(width=12, depth=2, batch_size=32, optimizer="adam", lr=0.01)
    together, _ = learners(config, digits, dtype=torch.float32)
    other, _ = learners(config, digits, dtype=torch.float32)
    together.train_epoch(go_on)
    other.load_state_dict(together.state_dict())
    for learner in (together, other):
        for index, network in enumerate(learner.networks):
            stacked = learner.model.stack.state_dict()
            for name, tensor in network.state_dict().items():
                assert torch.equal(tensor, stacked[name][index])
                assert torch.equal(tensor, together.model.stack.state_dict()[name][index])


REFUSED = {
    "dropout": (
        ["--replicas=3", "--model=vgg11", "--dropout=0.5"],
        "replicas=3 cannot be batched with dropout=0.5: the masks would not be those that each "
        "seed draws alone; use dropout=0 or replicas=1",
    ),
    "augmentation": (
        ["--replicas=3", "--augment=True"],
        "replicas=3 cannot be batched with augment=True: crops and flips are drawn and cut for one "
        "network at a time; use augment=False or replicas=1",
    ),
    "bfloat16": (
        ["--replicas=3", "--precision=bf16"],
        "replicas=3 cannot be batched with precision=bf16: autocast does not reach batched "
        "operations, which would compute in float32; use precision=fp32 or replicas=1",
    ),
    "a seed too large": (
        ["--replicas=3", f"--seed={2**32 - 2}"],
        f"replicas=3 from seed={2**32 - 2} would need seed {2**32}; allowed: up to {2**32 - 1}",
    ),
}


@pytest.mark.parametrize(("flags", "line"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_batched_is_refused_with_the_reason(flags, line):
    with pytest.raises(InputError) as refused:
        parse(flags, {})
    assert str(refused.value) == line
    assert parse(flags[1:], {}).replicas == 1


def test_the_largest_seed_is_a_replicas():
    assert parse(["--replicas=3", f"--seed={2**32 - 3}"], {}).replicas == 3


class Branching(nn.Module):
    """Decides by the values, which a batch of networks cannot."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 10)

    def forward(self, images):
        logits = self.linear(images.flatten(1))
        return logits if logits.sum() > 0 else -logits


UNFIT = {
    "control flow": Branching,
    "random": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Dropout(0.5)),
}


@pytest.mark.parametrize("network", UNFIT.values(), ids=UNFIT)
def test_a_network_that_cannot_be_batched_is_refused_in_one_line(monkeypatch, network):
    monkeypatch.setattr("lowrank.models.build_model", lambda *_: network())
    with pytest.raises(InputError) as refused:
        replicas.build(Config(replicas=2), [0, 1], (1, 8, 8), 10, torch.device("cpu"))
    text = str(refused.value)
    assert text.startswith("replicas=2: torch.func cannot batch model=mlp (")
    assert text.endswith("use replicas=1")
    assert "\n" not in text


def test_the_check_before_training_changes_nothing():
    built = replicas.build(Config(), [0, 1], (1, 8, 8), 10, torch.device("cpu"))
    assert isinstance(built, Replicas)
    for name, buffer in built.stack.named_buffers():
        assert (buffer == ("running_var" in name)).all(), name
    assert all(parameter.grad is None for parameter in built.parameters())


def test_a_watcher_of_replicas_measures_what_a_watcher_of_each_does(digits):
    config = Config(width=12, depth=2, batch_size=8, weight_decay=0.1, lr=0.5)
    together, _ = learners(config, digits, dtype=torch.float32)
    example = digits.train.images[:1].float()
    watchers = [Watcher(network, example_input=example) for network in together.networks]
    side_by_side = Watcher(together.watched, example_input=example)
    for epoch in (0, 1):
        found = side_by_side.measure(epoch)
        for index, watcher in enumerate(watchers):
            expected = watcher.measure(epoch)
            assert found.metrics.keys() == expected.metrics.keys()
            for name, value in expected.metrics.items():
                np.testing.assert_allclose(found.metrics[name][index], value, rtol=1e-12)
            for name, spectrum in expected.spectra.items():
                np.testing.assert_array_equal(found.spectra[name][index], spectrum)
        for watcher in (side_by_side, *watchers):
            watcher.advance()
        restored = Watcher(together.watched, example_input=example)
        restored.load_state_dict(side_by_side.state_dict())
        side_by_side = restored
        together.train_epoch(go_on)


def test_a_bound_is_given_where_every_replica_has_one():
    networks = [nn.Sequential(nn.Linear(50, 40), nn.Linear(40, 30)) for _ in range(2)]
    theory = {"optimizer": "sgd", "weight_decay": 0.9, "batch_size": 1, "train_size": 3}
    watcher = Watcher(networks, example_input=torch.ones(1, 50), theory=theory)
    assert not any("rank_bound" in name for name in watcher.measure(0).metrics)
    for epoch in (1, 2):
        assert "rank_bound/1" in watcher.measure(epoch, [1.0] * epoch).metrics
    with torch.no_grad():
        networks[1][1].weight.mul_(1e-12)  # so small a norm has forgotten nothing
    metrics = watcher.measure(3, [1.0] * 3).metrics
    single = Watcher(networks[0], example_input=torch.ones(1, 50), theory=theory)
    for epoch in range(4):
        expected = single.measure(epoch, [1.0] * epoch).metrics
    assert expected.keys() >= {"rank_bound/0", "rank_bound/1"}
    np.testing.assert_array_equal(metrics["rank_bound/0"], [expected["rank_bound/0"]] * 2)
    assert "rank_bound/1" not in metrics


TINY = ("--train_size=101", "--width=16", "--depth=2", "--batch_size=32")


def run_tiny(*flags):
    return main([*TINY, "--threads=1", *flags])


@pytest.fixture
def directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_of_replicas_records_each_spectrum_and_means_with_deviations(directory, capsys):
    flags = ("--epochs=2", "--seed=3", "--replicas=3", "--run_id=a")
    assert run_tiny(*flags, "--tracking=offline") == 0
    shown = capsys.readouterr().out
    for seed in SEEDS:
        alone = ("--epochs=0", f"--seed={seed}", f"--run_id=s{seed}")
        assert run_tiny(*alone, "--tracking=disabled") == 0
    run = lowrank.load_run("runs/a")
    singles = [lowrank.load_run(f"runs/s{seed}") for seed in SEEDS]
    assert run.config["replicas"] == 3
    assert (run.state, run.epochs.tolist()) == ("finished", [0, 1, 2])
    assert run.layers == singles[0].layers

    k = {"linear1": 16, "linear2": 16, "classifier": 10}
    for layer, size in k.items():
        assert run.spectra[layer].shape == (3, 3, size)
        for index, single in enumerate(singles):  # the same weights, so bit for bit
            np.testing.assert_array_equal(run.spectra[layer][0, index], single.spectra[layer][0])

    singles_names = {name for name in singles[0].metrics if not is_timing(name)}
    headlines = {name for name in singles_names if "/" not in name} - {"epoch", "lr_now"}
    names = {name for name in run.metrics if not is_timing(name)}
    assert names == singles_names | {f"{name}_std" for name in headlines}
    for name in headlines:
        of_each = [single.metrics[name][0] for single in singles]
        assert run.metrics[name][0] == pytest.approx(np.mean(of_each), rel=1e-6), name
        expected = pytest.approx(np.std(of_each, ddof=1), rel=1e-4, abs=1e-7)
        assert run.metrics[f"{name}_std"][0] == expected, name

    def ranks(layer):
        s = run.spectra[layer]
        return (s / np.linalg.norm(s, axis=-1, keepdims=True) > 1e-3).sum(-1)  # (epochs, replicas)

    hidden = (ranks("linear1") + ranks("linear2")) / 2
    np.testing.assert_array_equal(run.metrics["rank/classifier"], ranks("classifier").mean(1))
    np.testing.assert_allclose(run.metrics["rank_mean"], hidden.mean(1), rtol=1e-12)
    np.testing.assert_allclose(run.metrics["rank_mean_std"], hidden.std(1, ddof=1), rtol=1e-12)
    seconds = run.metrics["time/train"][1:]
    np.testing.assert_allclose(
        run.metrics["throughput/images_per_second"][1:] * seconds, 3 * 101, rtol=1e-9
    )
    assert "3 replicas of seeds 3 to 5" in shown
    assert "mean ± standard deviation over 3 replicas:" in shown

    (segment,) = segments(directory / "runs/a")
    summary = inspect(segment, "--summary")
    text = str(summary)
    assert "test_accuracy_std" in text
    assert "rank_mean@0.01_std" in text
    assert "spectrum_over_time" in text
    assert "epoch_std" not in text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
def test_a_stopped_or_killed_run_goes_on_to_the_same_record(directory, number):
    flags = ("--replicas=3", "--epochs=40", "--momentum=0.9", "--tracking=disabled")
    assert run_tiny(*flags, "--run_id=b") == 0
    process = spawn(directory, *TINY, *flags, "--run_id=a")
    wait_for_epoch(process, 2)
    os.killpg(process.pid, number)
    process.communicate()
    stopped = lowrank.load_run("runs/a")
    assert stopped.state == ("stopped" if number == signal.SIGTERM else "killed")
    assert stopped.epochs[-1] < 40
    assert run_tiny(*flags, "--run_id=a") == 0
    assert_same_record("runs/a", "runs/b")


@pytest.mark.usefixtures("directory")
def test_a_run_goes_on_with_as_many_replicas_only(capsys):
    flags = ("--epochs=0", "--tracking=disabled", "--run_id=a")
    assert run_tiny(*flags, "--replicas=3") == 0
    assert run_tiny(*flags, "--replicas=2") == 2
    assert "run a was started with replicas=3, not 2" in capsys.readouterr().err


@pytest.mark.usefixtures("directory")
def test_a_run_stops_when_every_replica_has_collapsed_and_not_before(monkeypatch):
    train_epoch = Learner.train_epoch

    def train_and_shrink(learner, proceed):
        train_epoch(learner, proceed)
        with torch.no_grad():
            for network in learner.networks[: learner.epoch]:  # one more in every epoch
                network.linear2.weight.mul_(1e-9)

    monkeypatch.setattr(Learner, "train_epoch", train_and_shrink)
    flags = ("--run_id=a", "--replicas=3", "--on_collapse=stop", "--tracking=disabled")
    assert run_tiny(*flags, "--epochs=6") == 0
    run = lowrank.load_run("runs/a")
    assert run.state == "collapsed"
    assert run.epochs.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(run.metrics["collapsed"], [0, 1 / 3, 2 / 3, 1])
    for name in ("rank_mean", "rank_mean_std", "rank_mean_all", "rank/linear2"):
        assert np.isfinite(run.metrics[name][0]), name
        assert np.isnan(run.metrics[name][1:]).all(), name
    assert np.isfinite(run.metrics["rank/linear1"]).all()
    assert run_tiny(*flags, "--epochs=7") == 0, "it has still collapsed"
    assert lowrank.load_run("runs/a").epochs.tolist() == [0, 1, 2, 3]


def test_spectra_of_a_replica_checkpoint_are_refused_in_one_line(directory, capsys):
    from lowrank.cli import main as lowrank_main

    assert run_tiny("--epochs=0", "--replicas=3", "--run_id=a", "--tracking=disabled") == 0
    capsys.readouterr()
    (directory / "moved.pt").write_bytes((directory / "runs/a/checkpoint.pt").read_bytes())
    for place in ("runs/a", "moved.pt"):
        assert lowrank_main(["spectra", place]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "holds the stacked weights of 3 replicas" in line


def test_the_example_of_an_infinite_loss_has_no_deviation():
    from lowrank.measure.metrics import over_replicas

    row = over_replicas({"train_loss": np.array([1.0, math.inf])})
    assert row["train_loss"] == math.inf
    assert math.isnan(row["train_loss_std"])
