"""Gradients and updates against torch's own in float64, and against the step of plain SGD.

Run with ``pytest tests/training/test_gradient.py``.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from lowrank.config import Config
from lowrank.data import load_dataset
from lowrank.measure.matrices import weight_matrices
from lowrank.training import pack
from lowrank.training.gradient import gradients
from lowrank.training.learner import Learner


def learner_of(*configs):
    dataset = load_dataset("synthetic", train_size=configs[0].train_size)
    networks = pack.build(configs, dataset.image_shape, dataset.num_classes, torch.device("cpu"))
    return Learner(configs, dataset, networks)


def config(**fields):
    usual = {"dataset": "synthetic", "train_size": 30, "batch_size": 12, "width": 9, "depth": 2}
    return Config(**{**usual, "lr": 0.3, "weight_decay": 0.05, "threads": 1, **fields})


def matrices(network):
    return {m.name: m.view().clone() for m in weight_matrices(network)}


def state_of(learner):
    tensors = {**learner.pack.state_dict(), "generator": torch.get_rng_state()}
    return {name: tensor.clone() for name, tensor in tensors.items()}


def by_hand(learner, network, count):
    """Returns the gradient of the loss on the first examples, in float64 and training mode."""
    network = copy.deepcopy(network).double().train()
    dataset = learner.dataset
    mean, std = (torch.tensor(x).double().view(-1, 1, 1) for x in (dataset.mean, dataset.std))
    images = (dataset.train.images[:count].double() / 255 - mean) / std
    nn.functional.cross_entropy(network(images), dataset.train.labels[:count]).backward()
    return network


@pytest.mark.parametrize("count", [1, 3], ids=["alone", "a pack"])
def test_it_is_that_of_the_first_batch_in_training_mode_and_changes_nothing(count):
    learner = learner_of(*(config(seed=seed) for seed in range(count)))
    learner.train_epoch(lambda: True)  # so that BatchNorm has statistics of its own
    before, modes = state_of(learner), [m.training for m in learner.pack.modules()]
    held = [p.grad for p in learner.pack.parameters()]
    found = gradients(learner)
    after = state_of(learner)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert [m.training for m in learner.pack.modules()] == modes
    assert [p.grad for p in learner.pack.parameters()] == held
    for network, of_one in zip(learner.pack.networks, found, strict=True):
        expected = by_hand(learner, network, 12)
        for matrix in weight_matrices(network):
            true = expected.get_parameter(matrix.path).grad
            assert torch.allclose(of_one[matrix.name].double(), true, rtol=0, atol=1e-6)


def test_dropout_has_the_same_masks_each_time_and_draws_from_no_generator_of_training():
    sizes = {"vit_depth": 1, "vit_width": 8, "vit_heads": 2, "vit_mlp_width": 8}
    learner = learner_of(
        Config(model="vit", dataset="synthetic", train_size=9, dropout=0.5, **sizes)
    )
    torch.manual_seed(5)
    before = torch.get_rng_state()
    (first,) = gradients(learner)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    (second,) = gradients(learner)
    assert first.keys() == matrices(learner.pack.networks[0]).keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_of_a_normalised_weight_it_is_that_by_the_effective_weight():
    learner = learner_of(config(batch_norm=False, weight_norm=True))
    (network,) = learner.pack.networks
    (found,) = gradients(learner)
    expected = by_hand(learner, network, 12)
    for name, weight in matrices(network).items():
        module = expected.get_submodule(name)
        gain = next((p for n, p in module.named_parameters() if n.endswith("original0")), None)
        if gain is None:
            assert torch.allclose(found[name].double(), module.weight.grad, rtol=0, atol=1e-6)
            continue
        # W = g·V/‖V‖: along g the loss changes by the product of its gradient and W/g.
        along = (found[name].double() * weight.double()).sum() / gain.detach()
        assert torch.allclose(along, gain.grad, rtol=0, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 3])
def test_the_update_of_sgd_is_its_rate_times_gradient_and_decay(steps):
    """The last batch of all steps but one is not the first examples, and of one step all are."""
    learner = learner_of(config(batch_size=30 if steps == 1 else 12))
    (network,) = learner.pack.networks
    held = {}

    def keep(members):
        assert members == [0]
        held["before"], held["gradient"] = matrices(network), gradients(learner)[0]
        held["steps"] = learner.steps[0]

    learner.train_epoch(lambda: True, before_last=keep)
    assert held["steps"] == steps - 1
    for name, weight in matrices(network).items():
        before = held["before"][name].double()
        gradient = held["gradient"][name].double()
        if steps > 1:
            gradient = learner.pack.stack.get_parameter(f"{name}.weight").grad.double()
        update = -0.3 * (gradient + 0.05 * before)
        assert torch.allclose(weight.double() - before, update, rtol=0, atol=1e-6)
