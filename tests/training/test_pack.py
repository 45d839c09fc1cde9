"""Members of a pack against each one's run alone by the ordinary path.

In float64 both are the same computation up to rounding; in float32 only at first, which is why most
of this is done with modules and images of float64. Run with ``pytest tests/training/test_pack.py``.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from lowrank.common.errors import InputError
from lowrank.config import Config
from lowrank.data import Batches, load_dataset
from lowrank.models import build_model
from lowrank.training import pack, steps
from lowrank.training.learner import Learner
from lowrank.training.pack import Pack

OWN = (
    {"seed": 3},
    {"seed": 4, "lr": 0.05, "weight_decay": 0.03, "momentum": 0.5},
    {"seed": 5, "schedule": "cosine", "weight_decay": 0.0},
)
"""What is each member's own."""
SIZE = 101  # leaves a last batch of 5 with the batch size of 32


class DoubleBatches(Batches):
    """Batches in float64, which the configuration has no precision for."""

    def take(self, part):
        images, labels = super().take(part)
        return images.double() if images.is_floating_point() else images, labels


def convolutional(*_):
    """Builds a small convolutional network with BatchNorm."""
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.LeakyReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 8, 3, stride=2, groups=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
        *(nn.Flatten(), nn.Linear(8, 10)),
    )


def learners(fields, dataset, build=build_model, dtype=torch.float64, members=OWN):
    """Returns the learner of the pack, and those of each member alone."""
    is_sgd = fields.get("optimizer", "sgd") == "sgd"
    configs = [
        Config(**fields | {n: v for n, v in own.items() if is_sgd or n != "momentum"})
        for own in members
    ]

    def network(config):
        steps.seed_epoch(config.seed, 0)
        return build(config, dataset.image_shape, dataset.num_classes).to(dtype)

    together = Learner(configs, dataset, Pack([network(config) for config in configs]))
    return together, [Learner([config], dataset, Pack([network(config)])) for config in configs]


def go_on():
    return True


def deviations(together, alone):
    """Yields name and relative deviation in norm of every parameter and running statistic."""
    for network, learner in zip(together.pack.networks, alone, strict=True):
        expected = learner.pack.stack.state_dict()
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
    # Before BatchNorm a bias has no gradient but rounding errors, which Adam enlarges.
    "adam": ({"optimizer": "adam", "lr": 1e-3, "batch_norm": False}, build_model),
    "adamw": ({"optimizer": "adamw", "lr": 1e-3, "batch_norm": False}, build_model),
    "muon": ({"optimizer": "muon", "lr": 1e-3, "batch_norm": False}, build_model),
    "muon of attention": ({"optimizer": "muon", "lr": 1e-3}, attending),
    "squared error": ({"loss": "mse", "schedule": "cosine", "epochs": 5}, build_model),
    "attention": ({"momentum": 0.9, "lr": 0.02}, attending),
    "convolutions": ({"momentum": 0.5, "warmup_epochs": 2}, convolutional),
}


@pytest.mark.parametrize(("fields", "build"), CASES.values(), ids=CASES)
def test_three_epochs_in_float64_are_those_of_each_seed_alone(monkeypatch, digits, fields, build):
    monkeypatch.setattr("lowrank.training.learner.Batches", DoubleBatches)
    sizes = {"width": 24, "depth": 3, "batch_size": 32, "epochs": 4}
    together, alone = learners(sizes | fields, digits, build)
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
        np.testing.assert_allclose(found[0], [loss for (loss,), _ in expected], rtol=1e-9)
        np.testing.assert_array_equal(found[1], [accuracy for _, (accuracy,) in expected])


def _first_weights(together):
    return [(network, next(iter(network.state_dict()))) for network in together.pack.networks]


@pytest.mark.parametrize(("optimizer", "lr"), [("sgd", 0.1), ("adam", 5e-3), ("muon", 5e-3)])
def test_three_epochs_of_a_text_in_float64_are_those_of_each_seed_alone(
    monkeypatch, tmp_path, optimizer, lr
):
    monkeypatch.setattr("lowrank.training.learner.Batches", DoubleBatches)
    (tmp_path / "own.txt").write_text("what follows what, and where? " * 20)
    dataset = load_dataset("text", data_dir=tmp_path, context=7)
    fields = {"model": "gpt", "dataset": "text", "gpt_depth": 1, "gpt_heads": 2, "gpt_width": 8}
    fields |= {"optimizer": optimizer, "batch_size": 32, "epochs": 3}
    members = ({"seed": 3, "lr": lr}, {"seed": 4, "lr": lr / 2, "weight_decay": 0.03})
    together, alone = learners(fields, dataset, members=members)
    for _ in range(3):
        for learner in (together, *alone):
            learner.train_epoch(go_on)
    # No score depends on the keys' bias: its gradient is rounding errors, which Adam enlarges.
    for network in (n for learner in (together, *alone) for n in learner.pack.networks):
        network.blocks[0].attention.in_proj_bias.data[8:16] = 0
    for name, deviation in deviations(together, alone):
        assert deviation <= 1e-9, name
    found = together.evaluate(dataset.train, go_on)
    expected = [learner.evaluate(dataset.train, go_on) for learner in alone]
    np.testing.assert_allclose(found[0], [loss for (loss,), _ in expected], rtol=1e-9)
    np.testing.assert_array_equal(found[1], [accuracy for _, (accuracy,) in expected])
    assert max(found[0]) < np.log(256), "nothing was learned"


@pytest.mark.slow
def test_three_epochs_of_resnet18_in_float64_are_those_of_each_seed_alone(monkeypatch):
    monkeypatch.setattr("lowrank.training.learner.Batches", DoubleBatches)
    dataset = load_dataset("synthetic", train_size=19, image_size=16)
    together, alone = learners({"model": "resnet18", "lr": 0.01, "batch_size": 8}, dataset)
    for _ in range(3):
        for learner in (together, *alone):
            learner.train_epoch(go_on)
    assert max(deviation for _, deviation in deviations(together, alone)) <= 1e-9


def test_the_first_20_steps_in_float32_agree_to_1e_5():
    dataset = load_dataset("digits")
    together, alone = learners({}, dataset, dtype=torch.float32)
    for learner in (together, *alone):
        answers = iter([True] * 19 + [False])
        with pytest.raises(InterruptedError):
            learner.train_epoch(lambda answers=answers: next(answers))
        assert set(learner.steps) == {20}
    for name, deviation in deviations(together, alone):
        assert deviation <= 1e-5, name


def test_weights_and_batches_are_drawn_as_each_seed_draws_them(digits):
    sizes = {"width": 12, "depth": 2, "batch_size": 32}
    together, alone = learners(sizes, digits, dtype=torch.float32)
    for network, learner in zip(together.pack.networks, alone, strict=True):
        for ours, theirs in zip(
            network.state_dict().values(), learner.pack.stack.state_dict().values(), strict=True
        ):
            assert torch.equal(ours, theirs)
    order = together._draw_order([2, 2, 2])
    assert order.shape == (1, 3, SIZE)
    batches = list(together.batches.epoch(order))
    assert batches[-1][0].shape == (3, 5, 1, 8, 8)
    for index, learner in enumerate(alone):
        expected = list(learner.batches.epoch(learner._draw_order([2])))
        for (images, labels), (image, label) in zip(batches, expected, strict=True):
            assert torch.equal(images[index], image)
            assert torch.equal(labels[index], label)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_the_networks_are_the_stack_after_steps_and_after_loading(digits, optimizer):
    fields = {"width": 12, "depth": 2, "batch_size": 32, "optimizer": optimizer, "lr": 0.01}
    together, _ = learners(fields, digits, dtype=torch.float32)
    other, _ = learners(fields, digits, dtype=torch.float32)
    together.train_epoch(go_on)
    for member in range(3):
        other.load_state_dict(member, together.state_dict(member))
    for _ in range(2):
        for learner in (together, other):
            stacked = learner.pack.stack.state_dict()
            for index, network in enumerate(learner.pack.networks):
                for name, tensor in network.state_dict().items():
                    assert torch.equal(tensor, stacked[name][index])
                    assert torch.equal(tensor, together.pack.stack.state_dict()[name][index])
        for learner in (together, other):
            learner.train_epoch(go_on)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_a_member_goes_on_alone_from_its_checkpoint_and_the_other_way_round(digits, optimizer):
    fields = {"width": 12, "depth": 2, "batch_size": 32, "optimizer": optimizer, "lr": 0.01}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lowrank.training.learner.Batches", DoubleBatches)
        together, alone = learners(fields, digits)
        for learner in (together, *alone):
            learner.train_epoch(go_on)
        parted, joined = learners(fields, digits)[::-1]
        for member in range(3):
            parted[member].load_state_dict(0, together.state_dict(member))
            joined.load_state_dict(member, alone[member].state_dict(0))
        for learner in (together, joined, *parted, *alone):
            learner.train_epoch(go_on)
    for pack_of, singles in ((together, parted), (joined, alone)):
        for name, deviation in deviations(pack_of, singles):
            assert deviation <= 1e-9, name


def states(learner, members):
    return [learner.state_dict(member)["model"] for member in members]


def assert_equal_states(found, expected):
    for one, other in zip(found, expected, strict=True):
        for name, tensor in one.items():
            assert torch.equal(tensor, other[name]), name


def stop_after(count):
    answers = iter([True] * (count - 1) + [False])
    return lambda: next(answers)


FIELDS = {"width": 12, "depth": 2, "batch_size": 8, "epochs": 6}


def test_members_in_different_epochs_and_steps_reach_what_they_would_side_by_side(digits):
    whole, _ = learners(FIELDS, digits, dtype=torch.float32)
    torn, _ = learners(FIELDS, digits, dtype=torch.float32)
    kept = {}
    for epoch in range(1, 4):
        if epoch == 2:  # one is cut off before, one within, one after this epoch
            kept[0] = copy.deepcopy(whole.state_dict(0))
            early, _ = learners(FIELDS, digits, dtype=torch.float32)
            for member in range(3):
                early.load_state_dict(member, whole.state_dict(member))
            with pytest.raises(InterruptedError):
                early.train_epoch(stop_after(5))
            kept[1] = copy.deepcopy(early.state_dict(1))
        whole.train_epoch(go_on)
        if epoch == 2:
            kept[2] = copy.deepcopy(whole.state_dict(2))
    for member, state in kept.items():
        torn.load_state_dict(member, state)
    assert (torn.epochs, torn.steps) == ([1, 1, 2], [0, 5, 0])
    torn.train_epoch(go_on)
    assert torn.epochs == [2, 2, 3]
    assert_equal_states(states(torn, [2]), states(whole, [2]))
    torn.train_epoch(go_on, ghosts={2})
    assert_equal_states(states(torn, [0, 1]), states(whole, [0, 1]))


def test_a_ghost_changes_nothing_of_the_others(digits):
    whole, _ = learners(FIELDS, digits, dtype=torch.float32)
    haunted, _ = learners(FIELDS, digits, dtype=torch.float32)
    for epoch in range(3):
        whole.train_epoch(go_on)
        haunted.train_epoch(go_on, ghosts={1} if epoch else ())
        with torch.no_grad():
            for parameter in haunted.pack.networks[1].parameters():
                parameter.fill_(float("nan"))
    assert_equal_states(states(haunted, [0, 2]), states(whole, [0, 2]))


def test_an_interrupted_epoch_goes_on_bit_for_bit(digits):
    whole, _ = learners(FIELDS, digits, dtype=torch.float32)
    stopped, _ = learners(FIELDS, digits, dtype=torch.float32)
    whole.train_epoch(go_on)
    with pytest.raises(InterruptedError):
        stopped.train_epoch(stop_after(4))
    resumed, _ = learners(FIELDS, digits, dtype=torch.float32)
    for member in range(3):
        resumed.load_state_dict(member, stopped.state_dict(member))
    resumed.train_epoch(go_on)
    assert_equal_states(states(resumed, range(3)), states(whole, range(3)))


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
        pack.build([Config(seed=0), Config(seed=1)], (1, 8, 8), 10, torch.device("cpu"))
    text = str(refused.value)
    assert text.startswith("torch.func cannot batch model=mlp (")
    assert text.endswith("its runs train alone, with --pack=off")
    assert "\n" not in text


def test_the_check_before_training_changes_nothing():
    built = pack.build([Config(seed=0), Config(seed=1)], (1, 8, 8), 10, torch.device("cpu"))
    assert built.is_stacked
    for name, buffer in built.stack.named_buffers():
        assert (buffer == ("running_var" in name)).all(), name
    assert all(parameter.grad is None for parameter in built.parameters())


def test_a_pack_of_one_is_the_network_itself():
    network = nn.Linear(4, 3)
    weight = network.weight
    alone = Pack([network])
    assert alone.stack is network
    assert network.weight is weight
    images = torch.ones(2, 4)
    assert torch.equal(alone(images), network(images))


def test_a_snapshot_of_all_members_copies_what_they_share_once(digits):
    together, _ = learners(FIELDS, digits, dtype=torch.float32)
    together.train_epoch(go_on)
    kept = copy.deepcopy([together.state_dict(member) for member in range(3)])
    stack = together.pack.stack.state_dict()
    for name, tensor in stack.items():
        own = [state["model"][name] for state in kept]
        assert len({part.untyped_storage().data_ptr() for part in own}) == 1
        assert own[0].untyped_storage().nbytes() == tensor.untyped_storage().nbytes()
        assert own[0].untyped_storage().data_ptr() != tensor.untyped_storage().data_ptr()
        for member, part in enumerate(own):
            assert torch.equal(part, tensor[member])
